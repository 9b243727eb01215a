"""How much weight a gate leaves to the second attention: at most, and on clips."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from speechllm.training.data.utterances import Utterance


@dataclass(frozen=True)
class MeasuredClip:
    """The greatest weight of the second attention in a clip, and the texts with it and without."""

    name: str
    share: float
    text: str
    text_without: str


def largest_share(adapter) -> float:
    """What no input can exceed: the gate's last layer reads numbers between -1 and 1."""
    shares = []
    for layer in adapter.layers:
        gate = layer.gate
        weight, bias = gate.head.weight[: gate.weights].double(), gate.head.bias[: gate.weights].double()
        least = gate.bias + bias - weight.abs().sum(dim=1)
        shares.append(torch.sigmoid(-least).max())
    return float(torch.stack(shares).max())


@torch.no_grad()
def measure_clip(model, processor, utterance: Utterance) -> MeasuredClip:
    """Write down a clip with the gate as it is, noting it, and with the gate shut."""
    request = processor.apply_transcription_request(
        utterance.sound, language=utterance.language, sampling_rate=processor.sampling_rate
    )
    with model.model.adapter.noting() as notes:
        ids = model.generate(**request)
    with shut_gates(model.model.adapter):
        ids_without = model.generate(**request)
    share = float((1 - notes.gates().double()).max())
    text, text_without = (processor.batch_decode(found)[0] for found in (ids, ids_without))
    return MeasuredClip(utterance.name, share, text, text_without)


@contextlib.contextmanager
def shut_gates(adapter) -> Iterator[None]:
    """Within the block the gates give the second attention no weight, whatever they are shown."""
    gates = [layer.gate for layer in adapter.layers]
    biases = [gate.bias for gate in gates]
    try:
        for gate in gates:
            # So far out that a sigmoid is 1, and of the negative 0, to the last bit.
            gate.bias = 1e6
        yield
    finally:
        for gate, bias in zip(gates, biases, strict=True):
            gate.bias = bias
