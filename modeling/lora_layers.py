"""LoRA around the linears of a frozen base.

PEFT is the reference for names and numbers, but it is not imported: a checkpoint with LoRA has to load where
only transformers and torch are installed. `lora_folders` reads and writes PEFT's files.
"""

import math
from typing import Any

import torch
from torch import nn

from ..configuration.configuration_lora import LoraConfig

ADAPTER = "default"


class LoraLinear(nn.Module):
    """`base(x) + scaling * B(A(dropout(x)))`. Parameters are named as PEFT names them."""

    base_layer: Any

    def __init__(self, base_layer: Any, config: LoraConfig):
        super().__init__()
        self.base_layer = base_layer
        self.scaling = config.scaling
        self.dropout = nn.Dropout(config.lora_dropout)
        # Half precision has no room for the small steps of training; what is trained is float32 everywhere.
        options: dict[str, Any] = {"bias": False, "device": base_layer.weight.device, "dtype": torch.float32}
        down = nn.Linear(base_layer.in_features, config.r, **options)
        up = nn.Linear(config.r, base_layer.out_features, **options)
        nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
        nn.init.zeros_(up.weight)
        self.lora_A, self.lora_B = nn.ModuleDict({ADAPTER: down}), nn.ModuleDict({ADAPTER: up})
        # A composite's constructor initializes what does not carry this mark, by rules for other layers.
        for module in (self, self.lora_A, down, self.lora_B, up):
            setattr(module, "_is_hf_initialized", True)  # noqa: B010  as no module declares it

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`[..., in]` -> `[..., out]`."""
        down: Any = self.lora_A[ADAPTER]
        update = self.lora_B[ADAPTER](down(self.dropout(states).to(down.weight.dtype)))
        output = self.base_layer(states)
        return output + (update * self.scaling).to(output.dtype)

    @property
    def weight(self) -> torch.Tensor:
        """The frozen weight: stock layers look at its dtype and device."""
        return self.base_layer.weight

    @property
    def bias(self) -> torch.Tensor | None:
        """The frozen bias, which some stock layers hand on by themselves."""
        return self.base_layer.bias


def add_lora(base: nn.Module, config: LoraConfig) -> None:
    """Wrap every linear of `base` that a target names. None is an error that names what there is."""
    linears = {name: module for name, module in base.named_modules() if hasattr(module, "in_features")}
    raw = getattr(base, "RAW_WEIGHTS", ())
    chosen: list[str] = []
    for target in config.target_modules or []:
        named = [name for name in linears if f".{name}".endswith(f".{target}")]
        if not named:
            there = ", ".join(sorted({name.rpartition(".")[2] for name in linears} - set(raw)))
            owner = type(base).__name__
            raise ValueError(f"LoRA: no linear of {owner} is named {target!r}; there are {there or 'none'}")
        chosen += named
    if any(name.endswith(raw) for name in chosen if raw):
        raise ValueError(
            f"LoRA: {type(base).__name__} hands the raw weights of {', '.join(raw)} to torch, "
            "so that LoRA around them would do nothing: name other linears"
        )
    for name in dict.fromkeys(chosen):
        parent, _, child = name.rpartition(".")
        setattr(base.get_submodule(parent), child, LoraLinear(linears[name], config))


def lora_state(base: nn.Module) -> dict[str, torch.Tensor]:
    """The LoRA tensors of a base, by their names below it."""
    return {name: tensor for name, tensor in base.state_dict().items() if is_lora_key(name)}


def is_lora_key(name: str) -> bool:
    """Whether a tensor of this name belongs to LoRA, and not to the base it wraps."""
    return ".lora_A." in name or ".lora_B." in name
