"""LoRA on frozen bases: which linears, how wide, how strong; one always on, or a bank of named ones."""

import copy
import functools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from .configuration_strict import StrictConfig, refuse_unknown, strict_config

LORA_SLOTS = ("encoder", "decoder")

# What the adapters of a bank cannot be called: the LoRA that is always on, and no adapter at all.
RESERVED_NAMES = ("default", "base")


@strict_config
class LoraConfig(StrictConfig):
    """One LoRA adapter. Names of the fields are PEFT's, so that a PEFT folder reads as one of these.

    `target_modules` are endings of module names ("q_proj" or "self_attn.q_proj"); with `layers_to_transform`
    only those in the layers of these numbers count ("layers.3.").
    """

    model_type = "lora"

    r: int = 8
    lora_alpha: float | int = 16
    lora_dropout: float | int = 0.0
    target_modules: list[str] | None = None
    layers_to_transform: list[int] | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.target_modules is None:
            self.target_modules = ["q_proj", "v_proj"]

    def validate_sizes(self):
        if self.r < 1:
            raise ValueError(f"r must be at least 1, not {self.r}")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout must be in [0, 1), not {self.lora_dropout}")

    def validate_targets(self):
        """Without a target there is nothing to train, and "" would be the ending of every name."""
        if not self.target_modules or not all(self.target_modules):
            raise ValueError('target_modules must name linears, such as ["q_proj", "v_proj"]')

    def validate_layers(self):
        """No list means every layer; an empty one would leave nothing to train."""
        layers = self.layers_to_transform
        if layers is not None and (not layers or min(layers) < 0):
            raise ValueError(f"layers_to_transform must name layers, such as [0, 1], not {layers}")

    @property
    def scaling(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return self.lora_alpha / self.r


def lora_slots(slots: dict | None) -> dict[str, LoraConfig] | None:
    """`{"decoder": {"r": 8}}` with every value made a `LoraConfig`; `None` stays `None`."""
    if not slots:
        return None
    refuse_unknown("lora_config", slots, LORA_SLOTS)
    return {slot: lora_config(value) for slot, value in slots.items() if value is not None} or None


def lora_config(value) -> LoraConfig:
    """A `LoraConfig` from itself or from a mapping of its fields."""
    # By model_type, not by class: a checkpoint folder's copy of this file defines the class once more.
    if getattr(value, "model_type", None) == LoraConfig.model_type:
        value = value.to_dict()
    if not isinstance(value, Mapping):
        raise ValueError(f"a slot of lora_config holds fields such as {{'r': 8}}, not {value!r}")
    try:
        # A bank repeats itself, and to check a config takes ten times as long as to copy it.
        return copy.deepcopy(_checked_lora(json.dumps(dict(value), sort_keys=True)))
    except TypeError:
        return LoraConfig(**value)


@functools.lru_cache(maxsize=64)
def _checked_lora(fields: str) -> LoraConfig:
    return LoraConfig(**json.loads(fields))


@strict_config
class BankAdapterConfig(StrictConfig):
    """One adapter of a bank: its LoRA on the encoder, on the decoder, or on both.

    `language` is what a decoder that is told the language hears when this adapter is chosen.
    """

    model_type = "bank_adapter"

    # Any: given as fields or as a config, and always a config or None once the constructor is done.
    encoder: Any = None
    decoder: Any = None
    language: str | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        for slot in LORA_SLOTS:
            value = getattr(self, slot)
            setattr(self, slot, None if value is None else lora_config(value))

    def validate_slots(self):
        if not self.slots:
            raise ValueError(f"an adapter needs LoRA on at least one of {', '.join(LORA_SLOTS)}")

    @property
    def slots(self) -> dict[str, LoraConfig]:
        """The LoRA of each slot that has one."""
        named = {slot: getattr(self, slot) for slot in LORA_SLOTS}
        return {slot: lora for slot, lora in named.items() if lora is not None}

    def own_values(self) -> dict[str, Any]:
        slots = {slot: lora.own_values() for slot, lora in self.slots.items()}
        return {**slots, "language": self.language, "model_type": self.model_type}


def lora_bank(adapters: Mapping | None) -> dict[str, BankAdapterConfig] | None:
    """`{"it": {"decoder": {"r": 8}}}` with every value made a `BankAdapterConfig`, in the same order."""
    if not adapters:
        return None
    if not isinstance(adapters, Mapping):
        raise ValueError(f"lora_bank maps names to adapters, such as {{'it': ...}}, not {adapters!r}")
    return {check_adapter_name(name): bank_adapter(name, value) for name, value in adapters.items()}


def bank_adapter(name: str, value) -> BankAdapterConfig:
    """A `BankAdapterConfig` from itself or from a mapping of its fields; errors name the adapter."""
    if getattr(value, "model_type", None) == BankAdapterConfig.model_type:
        value = value.own_values()
    if not isinstance(value, Mapping):
        raise ValueError(f"adapter {name!r} of a bank holds slots such as {{'decoder': ...}}, not {value!r}")
    try:
        return BankAdapterConfig(**value)
    except ValueError as error:
        raise ValueError(f"adapter {name!r}: {error}") from error


def check_adapter_name(name) -> str:
    """`name`, if an adapter of a bank can be called so."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ValueError(f"an adapter's name is made of letters, digits, _ and -, which {name!r} is not")
    # Dicts of parameters and modules keep what they hold as attributes, beside their own.
    if name in RESERVED_NAMES or hasattr(nn.ModuleDict(), name) or hasattr(nn.ParameterDict(), name):
        raise ValueError(f"no adapter of a bank can be called {name!r}: the name has a meaning of its own")
    return name


def select_adapters(bank: Mapping[str, Any] | None, names: Iterable[str]) -> dict[str, Any] | None:
    """The adapters of these names, in the bank's order; an unknown name is an error."""
    wanted, there = [names] if isinstance(names, str) else list(names), bank or {}
    for name in wanted:
        if name not in there:
            raise ValueError(f"there is no adapter {name!r}; there are {', '.join(there) or 'none'}")
    return {name: value for name, value in there.items() if name in wanted} or None
