"""LoRA around the linears of a frozen base: one that is always on, and any number of named ones.

PEFT is the reference for names and numbers, but it is not imported: a checkpoint with LoRA has to load where
only transformers and torch are installed. `lora_folders` reads and writes PEFT's files, `lora_bank` says
which of the named adapters count for which row.
"""

import math
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..configuration.configuration_lora import LoraConfig

ADAPTER = "default"


class Factors(nn.ParameterDict):
    """One side of a layer's adapters, by name: `lora_A` `[r, in]` or `lora_B` `[out, r]`.

    Parameters, not linears as in PEFT: a bank has hundreds of them, and a module each would take longer to
    make than the base takes to load.
    """

    # A composite's constructor initializes what does not carry this mark, by rules for other layers.
    _is_hf_initialized = True


class Dropouts(nn.ModuleDict):
    """The dropout of the adapters that have one, by name."""

    _is_hf_initialized = True


class LoraLinear(nn.Module):
    """`base(x)` plus `scaling * B(A(dropout(x)))` of its adapters, named as PEFT names them.

    The adapter "default" is always on. Of the others those that `plan` says: a bank sets it for each batch.
    """

    base_layer: Any
    _is_hf_initialized = True

    def __init__(self, base_layer: Any):
        super().__init__()
        self.base_layer = base_layer
        self.lora_A, self.lora_B, self.dropout = Factors(), Factors(), Dropouts()
        self.scaling: dict[str, float] = {}
        self.plan: Any = None

    def add(self, name: str, config: LoraConfig) -> None:
        """One adapter more, which has no effect until it is trained."""
        base = self.base_layer
        # Half precision has no room for the small steps of training; what is trained is float32 everywhere.
        options: dict[str, Any] = {"device": base.weight.device, "dtype": torch.float32}
        down = nn.Parameter(torch.empty(config.r, base.in_features, **options))
        up = nn.Parameter(torch.empty(base.out_features, config.r, **options))
        if torch.get_default_device().type != "meta":
            # Else a checkpoint's tensors take their place.
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
            nn.init.zeros_(up)
        self.lora_A[name], self.lora_B[name] = down, up
        if config.lora_dropout:
            self.dropout[name] = nn.Dropout(config.lora_dropout).train(self.dropout.training)
        self.scaling[name] = config.scaling

    def remove(self, name: str) -> None:
        """Forget an adapter."""
        for adapters in self._by_name(name):
            del adapters[name]

    def rename(self, old: str, new: str) -> None:
        """Call an adapter otherwise; its parameters stay the same objects."""
        for adapters in self._by_name(old):
            adapters[new] = adapters.pop(old)

    def _by_name(self, name: str) -> list[Any]:
        """What holds something of an adapter."""
        held = (self.lora_A, self.lora_B, self.dropout, self.scaling)
        return [adapters for adapters in held if name in adapters]

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`[..., in]` -> `[..., out]`."""
        plan = self.plan
        if plan is not None and plan.prepared and self.dropout.training:
            raise RuntimeError("the bank was prepared without gradient: call `use` again in training")
        output = self.base_layer(states) if plan is None else plan.apply(self, states)
        if ADAPTER in self.scaling:
            output = output + self.update(ADAPTER, states).to(output.dtype)
        return output

    def update(self, name: str, states: torch.Tensor) -> torch.Tensor:
        """What an adapter adds, `[..., out]` in float32."""
        down, up = self.lora_A[name], self.lora_B[name]
        heard = self.dropout[name](states) if name in self.dropout else states
        # Autocast makes the products' inputs narrow again: widening them first would only copy.
        if not torch.is_autocast_enabled(heard.device.type):
            heard = heard.to(down.dtype)
        return F.linear(F.linear(heard, down), up) * self.scaling[name]

    @property
    def weight(self) -> torch.Tensor:
        """The frozen weight: stock layers look at its dtype and device."""
        return self.base_layer.weight

    @property
    def bias(self) -> torch.Tensor | None:
        """The frozen bias, which some stock layers hand on by themselves."""
        return self.base_layer.bias


def add_lora(
    base: nn.Module, config: LoraConfig, adapter: str = ADAPTER, linears: dict[str, Any] | None = None
) -> dict[str, LoraLinear]:
    """Give every linear of `base` that a target names an adapter; those linears, by name.

    A target without a linear is an error that names what there is. `linears` are the base's, where the caller
    has looked for them already; they are kept up to date.
    """
    linears = base_linears(base) if linears is None else linears
    free = {name for name, linear in linears.items() if adapter not in getattr(linear, "scaling", ())}
    chosen = _chosen(base, free, config)
    for name in chosen:
        linear = linears[name]
        if not isinstance(linear, LoraLinear):
            linear = linears[name] = LoraLinear(linear)
            replace_module(base, name, linear)
        linear.add(adapter, config)
    return {name: linears[name] for name in chosen}


def _chosen(base: nn.Module, names: set[str], config: LoraConfig) -> list[str]:
    """Those of the linears called `names` that a config targets."""
    owner, raw = type(base).__name__, getattr(base, "RAW_WEIGHTS", ())
    chosen: set[str] = set()
    for target in config.target_modules or []:
        named = {name for name in names if f".{name}".endswith(f".{target}")}
        if not named:
            there = ", ".join(sorted({name.rpartition(".")[2] for name in names} - set(raw)))
            raise ValueError(f"LoRA: no linear of {owner} is named {target!r}; there are {there or 'none'}")
        chosen |= named
    if any(name.endswith(raw) for name in chosen if raw):
        raise ValueError(
            f"LoRA: {owner} hands the raw weights of {', '.join(raw)} to torch, "
            "so that LoRA around them would do nothing: name other linears"
        )
    layers = config.layers_to_transform
    if layers is not None:
        indexes = {index for name in chosen if (index := layer_index(name)) is not None}
        for layer in layers:
            if layer not in indexes:
                numbers = ", ".join(map(str, sorted(indexes))) or "none"
                raise ValueError(f"LoRA: {owner} has no layer {layer} with such linears; there are {numbers}")
        chosen = {name for name in chosen if layer_index(name) in layers}
    return sorted(chosen)


def base_linears(base: nn.Module) -> dict[str, Any]:
    """The linears of a base by their own names; one that has LoRA is its `LoraLinear`."""
    wrapped = [f"{name}." for name, module in base.named_modules() if isinstance(module, LoraLinear)]
    return {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, LoraLinear)
        or (hasattr(module, "in_features") and not name.startswith(tuple(wrapped)))
    }


def replace_module(base: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module into the place of the one called `name`."""
    parent, _, child = name.rpartition(".")
    setattr(base.get_submodule(parent), child, module)


def layer_index(name: str) -> int | None:
    """The layer that a module's name says ("layers.3.fc1" -> 3), outermost first as in PEFT; or `None`."""
    found = re.search(r"(?:^|\.)[^.]+\.(\d+)\.", name)
    return int(found[1]) if found else None


def lora_state(base: nn.Module, adapter: str | None = None) -> dict[str, torch.Tensor]:
    """The LoRA tensors of a base, by their names below it: of every adapter, or of one."""
    return {
        name: tensor
        for name, tensor in base.state_dict().items()
        if is_lora_key(name) and adapter in (None, adapter_of_key(name))
    }


def is_lora_key(name: str) -> bool:
    """Whether a tensor of this name belongs to LoRA, and not to the base it wraps."""
    return ".lora_A." in name or ".lora_B." in name


def adapter_of_key(name: str) -> str | None:
    """The adapter that a tensor of this name belongs to; `None` for a tensor that is no LoRA."""
    found = re.search(r"\.lora_[AB]\.([^.]+)$", name)
    return found[1] if found else None


def without_adapters(tensors: dict[str, torch.Tensor], dropped) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint that belong to none of the adapters called `dropped`."""
    return {name: tensor for name, tensor in tensors.items() if adapter_of_key(name) not in dropped}
