"""What two cross-attentions did in a forward pass, or in several: for a loss, and for pictures."""

import torch
from torch import Tensor

from ..length_masks import hide


class DualNotes:
    """Tensors by name and layer, one entry a call: decoding makes a call for every token.

    "gate" `[B, L, weights]`: the primary's share. "heads" `[B, L, H]`: what the secondary's heads read.
    "primary", "secondary" `[B, heads, L, T]`: attention maps, where they were asked for.
    """

    def __init__(self, layers: int, with_maps: bool = False):
        self.with_maps = with_maps
        self._calls: dict[str, list[list[Tensor]]] = {}
        self._layers = layers

    def add(self, index: int, **tensors: Tensor) -> None:
        """Keep what layer `index` did in a call."""
        for name, tensor in tensors.items():
            self._calls.setdefault(name, [[] for _ in range(self._layers)])[index].append(tensor)

    def gates(self) -> Tensor:
        """The primary's share, `[layers, B, L, weights]`, over all tokens of all calls."""
        return torch.stack([torch.cat(calls, dim=1) for calls in self._calls["gate"]])

    def maps(self, branch: str) -> Tensor:
        """Attention maps of "primary" or "secondary", `[layers, B, heads, L, T]`."""
        if branch not in self._calls:
            raise ValueError(f"no attention maps of {branch!r} were kept; note with maps=True")
        return torch.stack([torch.cat(calls, dim=2) for calls in self._calls[branch]])

    def pooled(self, labels: Tensor | None) -> list[Tensor]:
        """What each layer's secondary read, `[B, H]`, over the tokens that are labelled, in one pass."""
        read = [calls[-1] for calls in self._calls["heads"]]
        if labels is None:
            return [heads.mean(dim=1) for heads in read]
        # A prompt comes before the labels.
        counted = (labels != -100).to(read[0])[..., None]  # B, N, 1
        tokens = counted.sum(dim=1).clamp(min=1)
        return [(heads[:, -labels.shape[1] :] * counted).sum(dim=1) / tokens for heads in read]


@torch.no_grad()
def attention_map(attention, normed: Tensor, keys: Tensor, mask) -> Tensor:
    """`[B, heads, L, T]` of a cross-attention that has just run: fast kernels do not give their weights."""
    queries = by_head(attention, attention.q_proj(normed) * attention.scaling)
    return hide(queries.float() @ keys.float().transpose(2, 3), mask).softmax(dim=-1)


def speech_keys(attention, encoder_states: Tensor, cache) -> Tensor:
    """Keys `[B, heads, T, D]` of the speech that a stock cross-attention has just read."""
    if cache is None:
        return by_head(attention, attention.k_proj(encoder_states))
    return cache.cross_attention_cache.layers[attention.layer_idx].keys


def by_head(attention, states: Tensor) -> Tensor:
    """`[B, T, H]` -> `[B, heads, T, D]`."""
    return states.unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2)
