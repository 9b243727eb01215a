"""A checkpoint inside Whisper as a plain stock Whisper: LoRA merged, or a second attention left out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from speechllm import SpeechLLMConfig, SpeechLLMForConditionalGeneration, SpeechLLMProcessor
from speechllm.modeling.lora_layers import ADAPTER, LoraLinear
from speechllm.training.data.sources import load_source, source_from
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from .gate_measure import largest_share, measure_clip
from .new_folder import check_new, new_folder
from .weight_files import check_tensors

Report = Callable[[str], None]


def export_stock_whisper(
    checkpoint: str,
    target: str | os.PathLike,
    adapter: str | None = None,
    clips: str | None = None,
    tolerance: float = 1e-3,
    ignore_gate: bool = False,
    bases=None,
    report: Report = print,
) -> Path:
    """Write the stock Whisper that a checkpoint amounts to; its folder.

    A second attention is left out only where the gate gives it a weight of at most `tolerance`, in every
    layer at every token of `clips`, a manifest, and no text of theirs changes without it; or with
    `ignore_gate`.
    """
    check_new(Path(target))
    config = SpeechLLMConfig.from_pretrained(checkpoint)
    if not config.family.one_base:
        raise ValueError(
            f"{checkpoint} has an adapter {config.adapter_config.model_type!r} into a language model: "
            "there is no stock Whisper that it amounts to"
        )
    check_adapter(checkpoint, config, adapter)
    model = SpeechLLMForConditionalGeneration.from_pretrained(checkpoint, bases=bases)
    processor = SpeechLLMProcessor.from_pretrained(checkpoint)
    model.use_adapters(adapter)
    CHECKS[config.adapter_config.model_type](model, processor, clips, tolerance, ignore_gate, report)
    stock = stock_model(model, adapter)
    if config.encoder_padding != "max_length":
        report(
            f"{checkpoint} was made for clips at their own length; a stock Whisper pads them to 30 s, "
            "so its texts may differ: compare before you publish"
        )
    if config.router_config is not None:
        report("the router is left out: a stock Whisper has none")
    with new_folder(target) as folder:
        stock.save_pretrained(folder)
        WhisperProcessor(processor.feature_extractor, processor.tokenizer).save_pretrained(folder)
    return Path(target)


def check_adapter(checkpoint: str, config: SpeechLLMConfig, adapter: str | None) -> None:
    """One adapter of a bank becomes part of the weights: which, only the caller can say."""
    there = ", ".join(config.lora_bank or {})
    if there and adapter is None:
        raise ValueError(f"{checkpoint} has a bank of adapters: choose one with --adapter; there are {there}")
    if adapter is not None and adapter not in (config.lora_bank or {}):
        raise ValueError(f"{checkpoint} has no adapter {adapter!r}; there are {there or 'none'}")


def check_nothing(model, processor, clips, tolerance, ignore_gate, report: Report) -> None:
    """The stock cross-attention is the stock cross-attention."""


def check_gate(model, processor, clips, tolerance: float, ignore_gate: bool, report: Report) -> None:
    """Refuse where the second attention has a say."""
    possible = largest_share(model.model.adapter)
    if ignore_gate:
        report(f"the second attention is left out, whose weight may be as much as {possible:.3g}")
        return
    if clips is None:
        raise ValueError(
            f"the second attention may weigh as much as {possible:.3g}, which depends on what is heard: name "
            "clips to measure it with --clips MANIFEST, or leave it out all the same with --ignore-gate"
        )
    utterances = load_source(source_from(clips))
    if not utterances:
        raise ValueError(f"{clips} holds no clips to measure the gate on")
    largest = 0.0
    for utterance in utterances:
        measured = measure_clip(model, processor, utterance)
        largest = max(largest, measured.share)
        if measured.share > tolerance:
            raise ValueError(
                f"the second attention weighs {measured.share:.3g} in {measured.name}, more than the "
                f"tolerance of {tolerance:g}: a stock Whisper cannot say what it says"
            )
        if measured.text != measured.text_without:
            raise ValueError(
                f"without the second attention, which weighs {measured.share:.3g}, {measured.name} becomes "
                f"{measured.text_without!r} instead of {measured.text!r}"
            )
    clips_heard = f"{len(utterances)} clip{'s' * (len(utterances) > 1)}"
    report(f"the second attention weighs at most {largest:.3g} in {clips_heard}, and changes no text")


# Kind of adapter -> what has to hold before it is left out.
CHECKS = {"cross_attention": check_nothing, "dual_attention": check_gate}


@torch.no_grad()
def stock_model(model, adapter: str | None = None) -> WhisperForConditionalGeneration:
    """The stock class with this model's base, LoRA merged into the weights."""
    config = model.config.text_config
    with torch.device("meta"):
        stock = WhisperForConditionalGeneration(config)
    used = {ADAPTER} if adapter is None else {ADAPTER, adapter}
    state = merged_state(model.causal_lm, used) | biases_left(model.model.adapter)
    check_tensors(state, stock.state_dict(), "the model")
    stock.load_state_dict(state, assign=True)
    stock.tie_weights()
    stock.generation_config = model.generation_config
    return stock.eval()


def biases_left(adapter) -> dict[str, torch.Tensor]:
    """What shut gates leave of a second attention, by the names of the stock tensors that it replaces."""
    found = {}
    for index, layer in enumerate(getattr(adapter, "layers", ())):
        bias = layer.gate.bias_left(layer.attention)
        if bias is not None:
            found[f"model.decoder.layers.{index}.encoder_attn.out_proj.bias"] = bias.detach()
    return found


def merged_state(base: torch.nn.Module, adapters: set[str]) -> dict[str, torch.Tensor]:
    """A base's tensors by their stock names; these adapters become part of them."""
    layers = {name: one for name, one in base.named_modules() if isinstance(one, LoraLinear)}
    inner = tuple(f"{name}." for name in layers)
    state = {name: tensor for name, tensor in base.state_dict().items() if not name.startswith(inner)}
    for name, layer in layers.items():
        state.update({f"{name}.{leaf}": tensor for leaf, tensor in layer.base_layer.state_dict().items()})
        weight = layer.base_layer.weight
        update = sum(
            layer.scaling[used] * (layer.lora_B[used] @ layer.lora_A[used]).float()
            for used in sorted(adapters & set(layer.scaling))
        )
        state[f"{name}.weight"] = (weight.float() + update).to(weight.dtype)
    return state
