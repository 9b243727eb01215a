"""What two cross-attentions did in a forward pass, or in several: for a loss, and for pictures."""

import torch
from torch import Tensor


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
def attention_map(attention, normed: Tensor, encoder_states: Tensor, mask, cache) -> Tensor:
    """`[B, heads, L, T]` of a cross-attention that has just run: fast kernels do not give their weights."""
    shape = (len(normed), -1, attention.num_heads, attention.head_dim)
    queries = (attention.q_proj(normed) * attention.scaling).view(shape).transpose(1, 2)
    if cache is None:
        keys = attention.k_proj(encoder_states.to(normed.dtype)).view(shape).transpose(1, 2)
    else:
        keys = cache.cross_attention_cache.layers[attention.layer_idx].keys
    scores = queries.float() @ keys.float().transpose(2, 3)
    if mask is not None and mask.dim() == 2:
        mask = mask[:, None, None, :].bool()
    if mask is not None:
        hidden = ~mask if mask.dtype == torch.bool else mask < -1
        scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1)
