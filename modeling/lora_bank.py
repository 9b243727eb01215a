"""A bank of LoRA adapters in one model: each row of a batch has its own weights over them."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from ..configuration.configuration_lora import (
    BankAdapterConfig,
    LoraConfig,
    bank_adapter,
    check_adapter_name,
)
from .lora_layers import ADAPTER, LoraLinear, add_lora, base_linears, layer_index, replace_module
from .lora_plans import LivePlan, MergedPlan, Rows, StackedPlan, stacked_rows

# No adapter of a config can be called so.
REPLACEMENT = "_replacement"


class LoraBank:
    """`y = W x + sum_i p_i * s_i * B_i A_i x` in the linears of `slots`, with `p` `[rows, N]` set by `use`.

    `adapters` is the config's own dict of named configs: changing the bank changes it in place. `slots` are
    the modules whose linears get the adapters, by the names of the configs' slots.
    """

    def __init__(self, adapters: dict[str, BankAdapterConfig], slots: dict[str, nn.Module]):
        self.adapters = adapters
        self.slots = slots
        self._layers: dict[tuple[str, str], LoraLinear] = {}
        self._rows: list[Rows] = []
        self._merged: dict[tuple[str, str], MergedPlan] = {}
        # Looked for once: a bank of ten goes over the same linears ten times.
        linears = {slot: base_linears(base) for slot, base in slots.items()} if adapters else {}
        for name, config in adapters.items():
            self._attach(name, config.slots, linears=linears)

    @property
    def names(self) -> list[str]:
        """The adapters, in the order of the columns of the weights."""
        return list(self.adapters)

    def use(self, weights: torch.Tensor | None) -> None:
        """Say what counts from now on: weights `[rows, N]`, one column an adapter; `None` is the base alone.

        Without gradient all is prepared here, once for a batch: parameters that change count at the next
        `use`. With gradient, or in training, adapters are applied as they are, with their dropout, and
        gradient reaches them and the weights. An adapter merged for a whole batch stays in memory until
        another one is used, gradient is wanted, or `release` is called.
        """
        self._rows = []
        for layer in self._layers.values():
            layer.plan = None
        if weights is None:
            return
        values = self._checked(weights)
        if torch.is_grad_enabled() or any(layer.dropout.training for layer in self._layers.values()):
            self._merged = {}
            self._use_live(weights, values)
        elif values.any():
            self._prepare(values)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these rows of the batch (indexes, or a mask), such as those that are not finished."""
        for shared in self._rows:
            shared.keep(rows.to(shared.tensors[0].device))

    @contextlib.contextmanager
    def only(self, rows: slice) -> Iterator[None]:
        """For the length of a block the batch is these rows of it: for a pass over a part of the batch."""
        before = [(shared, shared.tensors) for shared in self._rows]
        for shared, _ in before:
            shared.keep(rows)
        try:
            yield
        finally:
            for shared, tensors in before:
                shared.tensors = tensors

    def release(self) -> None:
        """Use nothing, and give back the memory of what was merged."""
        self.use(None)
        self._merged = {}

    def touches(self, slot: str, below_layer: int | None = None) -> bool:
        """Whether any adapter changes a slot; with `below_layer`, its states before the layer of that number.

        A linear outside the numbered layers counts as below them.
        """
        indexes = [layer_index(name) for owner, name in self._layers if owner == slot]
        return any(below_layer is None or index is None or index < below_layer for index in indexes)

    def parameters_of(self, name: str) -> list[nn.Parameter]:
        """The parameters of one adapter."""
        layers = self._layers_of(self._known(name)).values()
        return [side[name] for layer in layers for side in (layer.lora_A, layer.lora_B)]

    def config_of(self, name: str) -> BankAdapterConfig:
        """The config of an adapter of the bank."""
        return self.adapters[self._known(name)]

    def add(self, name: str, config) -> None:
        """One adapter more, the last; it has no effect until it is trained or loaded."""
        self._unused(name)
        config = bank_adapter(name, config)
        self._attach(name, config.slots)
        self.adapters[name] = config

    def remove(self, name: str) -> None:
        """Forget an adapter; a linear that has none left is the base's own again."""
        self._detach(name, self._layers_of(self._known(name)))
        del self.adapters[name]

    def extend(self, name: str, slots: dict[str, LoraConfig]) -> None:
        """Give an adapter LoRA on slots where it has none yet."""
        config = self.config_of(name)
        if twice := set(config.slots) & set(slots):
            raise ValueError(f"adapter {name!r} has LoRA on the {', '.join(sorted(twice))} already")
        whole = {**config.own_values(), **{slot: lora.own_values() for slot, lora in slots.items()}}
        self._attach(name, slots)
        self.adapters[name] = bank_adapter(name, whole)

    def replace(self, name: str, config) -> None:
        """A fresh adapter in the place of one."""
        config = bank_adapter(self._known(name), config)
        # First under a name that no adapter can have: what does not fit leaves the old one alone.
        self._attach(REPLACEMENT, config.slots, name)
        self._detach(name, self._layers_of(name))
        self._rename_modules(REPLACEMENT, name)
        self.adapters[name] = config

    def rename(self, old: str, new: str) -> None:
        """Call an adapter otherwise; it keeps its column."""
        self._unused(new)
        self._rename_modules(self._known(old), new)
        renamed = {new if name == old else name: config for name, config in self.adapters.items()}
        self.adapters.clear()
        self.adapters.update(renamed)

    def _checked(self, weights: torch.Tensor) -> torch.Tensor:
        """The weights' values, on the CPU, if they are weights of this bank."""
        if weights.dim() != 2 or weights.shape[1] != len(self.adapters):
            there = ", ".join(self.adapters) or "none"
            raise ValueError(
                f"the bank takes weights [rows, {len(self.adapters)}] for {there}, not {list(weights.shape)}"
            )
        values = weights.detach().cpu().float()
        if not values.isfinite().all():
            raise ValueError("the weights over the bank hold values that are not finite")
        return values

    def _use_live(self, weights: torch.Tensor, values: torch.Tensor) -> None:
        # A weight of zero adds nothing, but its gradient is not zero.
        columns = {
            name: column
            for column, name in enumerate(self.adapters)
            if weights.requires_grad or values[:, column].any()
        }
        if columns:
            plan = LivePlan(columns, weights)
            self._rows = [plan.rows]
            for layer in self._layers.values():
                layer.plan = plan

    def _prepare(self, values: torch.Tensor) -> None:
        used = {name: column for column, name in enumerate(self.adapters) if values[:, column].any()}
        whole = len(used) == 1 and bool((values[:, list(used.values())] == 1).all())
        merged, self._merged = self._merged if whole else {}, {}
        shared: dict[tuple, Rows] = {}
        for key, layer in self._layers.items():
            names = [name for name in used if name in layer.scaling]
            if whole and names and MergedPlan.fits(layer):
                plan = merged.pop(key, None)
                if plan is None or not plan.is_of(layer, names[0]):
                    plan = MergedPlan(layer, names[0])
                layer.plan = self._merged[key] = plan
            elif names:
                columns = [used[name] for name in names for _ in layer.lora_A[name]]
                base = layer.base_layer.weight
                # Quantized weights are integers; LoRA around them works in its own dtype.
                dtype = base.dtype if base.is_floating_point() else torch.float32
                place = (tuple(columns), base.device, dtype)
                if place not in shared:
                    shared[place] = stacked_rows(values[:, columns], base.device, dtype)
                layer.plan = StackedPlan(layer, names, dtype, shared[place])
        self._rows = list(shared.values())

    def _attach(
        self, name: str, slots: dict[str, LoraConfig], called: str | None = None, linears=None
    ) -> None:
        """Put an adapter's LoRA into the slots, whole or not at all; nothing is in use then."""
        if self._layers:
            self.release()
        attached: dict[tuple[str, str], LoraLinear] = {}
        try:
            for slot, lora in slots.items():
                if slot not in self.slots:
                    raise ValueError(f"there is no slot {slot!r}; there are {', '.join(self.slots)}")
                there = None if linears is None else linears[slot]
                for module, layer in add_lora(self.slots[slot], lora, name, there).items():
                    attached[slot, module] = self._layers[slot, module] = layer
        except ValueError as error:
            self._detach(name, attached)
            raise ValueError(f"adapter {called or name!r}: {error}") from error

    def _detach(self, name: str, layers: dict[tuple[str, str], LoraLinear]) -> None:
        self.release()
        for (slot, module), layer in layers.items():
            layer.remove(name)
            if set(layer.scaling) <= {ADAPTER}:
                del self._layers[slot, module]
            if not layer.scaling:
                replace_module(self.slots[slot], module, layer.base_layer)

    def _rename_modules(self, old: str, new: str) -> None:
        self.release()
        for layer in self._layers_of(old).values():
            layer.rename(old, new)

    def _layers_of(self, name: str) -> dict[tuple[str, str], LoraLinear]:
        return {key: layer for key, layer in self._layers.items() if name in layer.scaling}

    def _known(self, name: str) -> str:
        if name not in self.adapters:
            raise ValueError(f"there is no adapter {name!r}; there are {', '.join(self.adapters) or 'none'}")
        return name

    def _unused(self, name: str) -> None:
        if check_adapter_name(name) in self.adapters:
            raise ValueError(f"there is an adapter {name!r} already: replace it, or choose another name")
