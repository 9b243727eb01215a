"""Which parts of a model are trained, and the optimizer's groups that follow from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from speechllm.configuration.configuration_strict import suggest
from speechllm.modeling.lora_layers import is_lora_key
from torch import nn

# Part -> pattern of its parameters' names in `SpeechLLMForConditionalGeneration`. LoRA lies inside the bases.
PARTS = {
    "adapter": r"model\.(adapter|speech_norm)\.",
    "lora": r".*\.lora_[AB]\.default$",
    "router": r"model\.router\.",
    "encoder": r"model\.audio_tower\.",
    "decoder": r"(model\.language_model|lm_head)\.",
}
BANK = "bank:"
# Parameters of the loss itself, a group of the optimizer like the parts.
LOSS_PART = "loss"


def part_pattern(part: str) -> re.Pattern:
    """The pattern of a part's names; "bank:NAME" is one adapter of a LoRA bank, "bank:*" all of them."""
    if part.startswith(BANK):
        name = part.removeprefix(BANK)
        return re.compile(
            r".*\.lora_[AB]\.(?!default$)" + (r"[^.]+" if name == "*" else re.escape(name)) + "$"
        )
    if part not in PARTS:
        raise ValueError(f"unknown part {part!r} in train; {suggest(part, [*PARTS, BANK + 'NAME'])}")
    return re.compile(PARTS[part])


def part_names(model, part: str) -> list[str]:
    """The names of a part's parameters; none is an error that says which parts there are."""
    pattern, of_lora = part_pattern(part), part == "lora" or part.startswith(BANK)
    names = [
        name for name, _ in model.named_parameters() if pattern.match(name) and is_lora_key(name) == of_lora
    ]
    if not names:
        there = [other for other in PARTS if other != part and _exists(model, other)]
        raise ValueError(f"train names {part!r}, of which this model has nothing; it has {', '.join(there)}")
    return names


def set_trained_parts(model, parts: list[str]) -> dict[str, list[str]]:
    """Train these parts and nothing else; part -> its parameters' names.

    What is trained becomes float32: half precision has no room for the small steps of training.
    """
    if not parts:
        raise ValueError(f"train is empty: name parts to train, of {', '.join(PARTS)}, {BANK}NAME")
    chosen = {part: part_names(model, part) for part in parts}
    trained = {name for names in chosen.values() for name in names}
    for name, parameter in model.named_parameters():
        wanted = name in trained
        if wanted and not parameter.is_floating_point():
            raise ValueError(f"{name} is quantized and can't be trained: train LoRA around it")
        parameter.requires_grad_(wanted)
        if wanted:
            parameter.data = parameter.data.float()
    keep_in_checkpoints(model, trained)
    return chosen


def keep_in_checkpoints(model, names) -> None:
    """Base tensors that were trained stay part of the checkpoint when a later phase freezes them again."""
    model.keep_in_checkpoints(name for name in names if model.is_base_key(name))


def parameter_groups(
    objective: nn.Module,
    parts: Mapping[str, list[str]],
    rates: Mapping[str, float],
    rate: float,
    decay: float,
) -> list[dict[str, Any]]:
    """Groups of an optimizer: each part at its rate, matrices with weight decay, the rest without."""
    check_rates(rates, parts)
    part_of = {f"model.{name}": part for part, names in parts.items() for name in names}
    groups: dict[tuple[str, bool], list] = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            # Norms, biases and scales are vectors: pulling them to zero would silence a part.
            key = (part_of.get(name, LOSS_PART), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": float(rates.get(part, rate)),
            "weight_decay": decay if decays else 0.0,
            "part": part,
        }
        for (part, decays), parameters in groups.items()
    ]


def check_rates(rates: Mapping[str, float], parts: Mapping[str, list[str]]) -> None:
    """Raise `ValueError` for the rate of a part that is not trained."""
    unknown = sorted(set(rates) - set(parts) - {LOSS_PART})
    if unknown:
        raise ValueError(
            f"learning_rates names {unknown[0]!r}, which this phase does not train; "
            f"it trains {', '.join([*parts, LOSS_PART])}"
        )


def trained_counts(model, parts: Mapping[str, list[str]]) -> dict[str, int]:
    """Numbers of trained parameters, part by part."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return {part: sum(sizes[name] for name in names) for part, names in parts.items()}


def _exists(model, part: str) -> bool:
    pattern, of_lora = part_pattern(part), part == "lora"
    names = (name for name, _ in model.named_parameters())
    return any(pattern.match(name) and is_lora_key(name) == of_lora for name in names)
