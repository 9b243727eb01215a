"""The ways in which a linear applies the adapters of a bank to a batch.

PEFT's layers take one adapter a row, loop over those in the batch, and pass no gradient to a mixture; its own
mixed batches refuse training. What is here is the piece that is missing there, on PEFT's own parameters.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .lora_layers import LoraLinear


class Rows:
    """Tensors with a batch's rows first, shared by the linears that use them."""

    def __init__(self, *tensors: torch.Tensor):
        self.tensors = tensors

    def __deepcopy__(self, memo) -> "Rows":
        # A tensor amid a graph cannot be copied; a copied model has a graph of its own anyway.
        return Rows(*(tensor.detach().clone() for tensor in self.tensors))

    def keep(self, rows) -> None:
        """Go on with these rows, in this order."""
        self.tensors = tuple(tensor[rows] for tensor in self.tensors)

    def blocks(self, states: torch.Tensor) -> torch.Tensor:
        """States `[rows * k, ..., width]` as `[rows, n, width]`.

        A row's beams, samples or frames stand side by side, as `repeat_interleave` puts them.
        """
        count, rows = states.shape[0], self.tensors[0].shape[0]
        if count != rows and (rows == 0 or count % rows):
            raise ValueError(f"the bank was given weights for {rows} rows, but a linear gets {count}")
        size = states.numel() // (max(rows, 1) * states.shape[-1])
        return states.reshape(rows, size, states.shape[-1])


class LivePlan:
    """Adapters as they are at this moment, with gradient to them and to the weights `[rows, N]`."""

    prepared = False

    def __init__(self, columns: dict[str, int], weights: torch.Tensor):
        self.columns = columns
        self.rows = Rows(weights)

    def apply(self, layer: LoraLinear, states: torch.Tensor) -> torch.Tensor:
        """`[rows * k, ..., in]` -> `[rows * k, ..., out]`."""
        output = layer.base_layer(states)
        names = [name for name in self.columns if name in layer.scaling]
        rates = {layer.dropout[name].p if name in layer.dropout else 0.0 for name in names}
        # Adapters of different dropouts hear different things: each is computed by itself then.
        for group in [names] if len(rates) == 1 else [[name] for name in names]:
            output = output + self.update(layer, group, states).view(output.shape).to(output.dtype)
        return output

    def update(self, layer: LoraLinear, names: list[str], states: torch.Tensor) -> torch.Tensor:
        """What adapters of one dropout add, `[rows, n, out]`."""
        (weights,) = self.rows.tensors
        down = torch.cat([layer.lora_A[name] for name in names])
        up = torch.cat([layer.lora_B[name] * layer.scaling[name] for name in names], dim=1).t()
        blocks = self.rows.blocks(layer.dropout[names[0]](states) if names[0] in layer.dropout else states)
        # Autocast makes the products' inputs narrow again: widening them first would only copy.
        if not torch.is_autocast_enabled(blocks.device.type):
            blocks = blocks.to(down.dtype)
        by_rank = weights[:, [self.columns[name] for name in names for _ in layer.lora_A[name]]]
        by_rank = by_rank.to(blocks.device, torch.float32)
        # Where the weights themselves are trained, adapters that weigh nothing have a gradient too.
        own = None if weights.requires_grad else own_ranks(by_rank)
        if own is None or own.shape[1] == len(down):
            return (F.linear(blocks, down) * by_rank[:, None]) @ up
        hidden = torch.bmm(blocks, F.embedding(own, down).transpose(1, 2)) * by_rank.gather(1, own)[:, None]
        return torch.bmm(hidden, F.embedding(own, up))


def own_ranks(weights: torch.Tensor) -> torch.Tensor:
    """The columns `[rows, M]` of weights `[rows, R]` that are a row's own, `M` being the most of any row."""
    active = weights != 0
    size = int(active.sum(1).max()) if len(weights) else 0
    return active.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :size]


def stacked_rows(weights: torch.Tensor, device, dtype: torch.dtype) -> Rows:
    """`Rows` for a `StackedPlan`, of weights `[rows, R]` on the CPU, one column a rank of the stack.

    They are the weights, then each row's own columns `[rows, M]` and the weights of these, where `M` is the
    most that any row has; what is too much for a row has the weight 0.
    """
    scales, own = weights.to(device, dtype), own_ranks(weights).to(device)
    return Rows(scales, own, scales.gather(1, own))


class StackedPlan:
    """All adapters of a batch as one pair of matrices, made once for the batch."""

    prepared = True

    def __init__(self, layer: LoraLinear, names: list[str], dtype: torch.dtype, rows: Rows):
        self.rows = rows
        self.down = torch.cat([layer.lora_A[name] for name in names]).to(dtype)
        ups = [layer.lora_B[name] for name in names]
        scales = [
            layer.scaling[name] for name, up in zip(names, ups, strict=True) for _ in range(up.shape[1])
        ]
        scaled = torch.cat(ups, dim=1) * torch.tensor(scales, device=self.down.device)
        # [sum of ranks, out], in rows: what `addmm` takes without turning it.
        self.up = scaled.to(dtype).t().contiguous()
        # What another class of linear returns may be a view of what it keeps.
        self.in_place = type(layer.base_layer) is nn.Linear

    def apply(self, layer: LoraLinear, states: torch.Tensor) -> torch.Tensor:
        """`[rows * k, ..., in]` -> `[rows * k, ..., out]`."""
        output = layer.base_layer(states)
        blocks = self.rows.blocks(states.to(self.down.dtype))
        weights, own, own_weights = self.rows.tensors
        down, up = self.down, self.up
        # The whole stack for every row wastes work on the adapters of the others; each row's own part of it
        # has to be gathered first. With ten adapters the second wins from three states a row on (CPU).
        if blocks.shape[1] * (weights.shape[1] - 2 * own.shape[1]) > 16 * own.shape[1]:
            down, up, weights = down[own].transpose(1, 2), up[own], own_weights
            hidden = torch.bmm(blocks, down) * weights[:, None]
        else:
            hidden = F.linear(blocks, down) * weights[:, None]
        if not self.in_place or output.dtype != hidden.dtype or torch.is_grad_enabled():
            return output + (hidden @ up).view(output.shape).to(output.dtype)
        if up.dim() == 3:
            output.view(len(hidden), -1, output.shape[-1]).baddbmm_(hidden, up)
        else:
            output.view(-1, output.shape[-1]).addmm_(hidden.view(-1, hidden.shape[-1]), up)
        return output


class MergedPlan:
    """One adapter for every row, added to the frozen weight: as fast as the base alone."""

    prepared = True

    def __init__(self, layer: LoraLinear, name: str):
        down, up = layer.lora_A[name], layer.lora_B[name]
        base = layer.base_layer.weight
        self.sources = _sources(layer, name)
        self.weight = torch.addmm(base.float(), up.float(), down.float(), alpha=layer.scaling[name]).to(
            base.dtype
        )

    def is_of(self, layer: LoraLinear, name: str) -> bool:
        """Whether merging again would give the same."""
        now = _sources(layer, name)
        return all(
            new is old and rest == before
            for (new, *rest), (old, *before) in zip(now, self.sources, strict=True)
        )

    def apply(self, layer: LoraLinear, states: torch.Tensor) -> torch.Tensor:
        """`[..., in]` -> `[..., out]`."""
        return F.linear(states, self.weight, layer.base_layer.bias)

    @staticmethod
    def fits(layer: LoraLinear) -> bool:
        """Whether the base is a plain linear with a weight to add to: not quantized, not offloaded."""
        base = layer.base_layer
        hooked = base._forward_hooks or base._forward_pre_hooks or hasattr(base, "_hf_hook")
        # Not by the dtype: torchao's integers call themselves floats.
        return type(base) is nn.Linear and type(base.weight) is nn.Parameter and not hooked


def _sources(layer: LoraLinear, name: str) -> list[tuple]:
    """The tensors a merged weight was made of, with what tells whether their values changed since."""
    tensors = (layer.base_layer.weight, layer.lora_A[name], layer.lora_B[name])
    # Tensors made under inference_mode count no versions.
    return [(t, t.data_ptr(), None if t.is_inference() else t._version) for t in tensors]
