"""Weights of the original dual-attention project as a checkpoint of ours.

Its decoder layers hold `encoder_attn_secondary`, `encoder_attn_secondary_layer_norm` and `cross_attn_gate`
beside what a stock Whisper holds, and its checkpoints are whole: what was trained of the base is found by
comparing.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMProcessor

from .new_folder import check_new, new_folder
from .weight_files import check_tensors, read_weights, without_tied_head

LAYER = r"model\.decoder\.layers\.(\d+)\."
# What it calls a tensor -> what we do. The first that fits counts.
RENAMED = (
    (LAYER + r"encoder_attn_secondary\.out_proj\.", r"model.adapter.layers.\1.attention.read_proj."),
    (LAYER + r"encoder_attn_secondary\.", r"model.adapter.layers.\1.attention."),
    (LAYER + r"encoder_attn_secondary_layer_norm\.", r"model.adapter.layers.\1.norm."),
    (LAYER + r"cross_attn_gate\.gate\.0\.", r"model.adapter.layers.\1.gate.trunk."),
    (LAYER + r"cross_attn_gate\.gate\.2\.", r"model.adapter.layers.\1.gate.head."),
    (r"model\.encoder\.", "model.audio_tower."),
    (r"model\.decoder\.", "model.language_model."),
)


def convert_dual_whisper(
    source: str | os.PathLike,
    target: str | os.PathLike,
    base: str,
    bases=None,
    include_bases=False,
    report=print,
) -> Path:
    """Write the checkpoint that `source` is on the Whisper called `base`; its folder."""
    check_new(Path(target))
    tensors = {
        our_name(name): tensor for name, tensor in without_tied_head(read_weights(source), source).items()
    }
    if not any(name.startswith("model.adapter.") for name in tensors):
        raise ValueError(f"{source} has no second attention: it is no checkpoint of the original project")
    model = SpeechLLMForConditionalGeneration.from_bases(
        base, adapter="dual_attention", init="published", bases=bases, dtype=torch.float32
    )
    trained = assign_all(model, tensors, source)
    model.keep_in_checkpoints(trained)
    processor = SpeechLLMProcessor.from_bases(base, adapter="dual_attention", init="published", bases=bases)
    report(f"{len(trained)} tensors differ from {base}'s and become part of the checkpoint")
    with new_folder(target) as folder:
        model.save_pretrained(folder, include_bases=include_bases)
        processor.save_pretrained(folder)
    return Path(target)


def our_name(name: str) -> str:
    """What a tensor is called in `SpeechLLMForConditionalGeneration`."""
    for pattern, replacement in RENAMED:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    return name


def assign_all(model, tensors: dict[str, torch.Tensor], source: str | os.PathLike) -> list[str]:
    """Give `model` these values; the names of those tensors of its base that they change."""
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    check_tensors(tensors, state, source)
    changed = []
    for name, tensor in tensors.items():
        if not torch.equal(state[name], tensor.to(state[name])):
            changed.append(name)
            # In place: the state dict's tensors are the model's.
            state[name].copy_(tensor)
    return [name for name in changed if model.is_base_key(name)]
