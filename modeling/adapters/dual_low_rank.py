"""A second cross-attention that is the first one plus differences of low rank, and reads what that one reads.

With `h` the encoder states, its keys are `K + up(down(h))`, where `K` are the primary's; so are its values.
So of a query `q` the scores are `q K + (q up) down(h)`, and what weights `p` read is `p V + (p down(h)) up`.
`down(h)` is narrow and the same for all heads: it is all that the cache keeps besides the primary's keys and
values, and a token reads those once for both attentions.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.whisper.modeling_whisper import eager_attention_forward

from ..length_masks import hide
from .dual_secondary import SecondaryAttention, make_room

# Of the low-rank differences' way down; the way up starts at zero.
DOWN_STD = 0.02


class LowRankShift(nn.Module):
    """A linear of the base plus a difference of low rank, zero at the start."""

    base: Any

    def __init__(self, source: nn.Linear, rank: int):
        super().__init__()
        self.down = nn.Linear(source.in_features, rank, bias=False)
        self.up = nn.Linear(rank, source.out_features, bias=False)
        nn.init.normal_(self.down.weight, std=DOWN_STD)
        nn.init.zeros_(self.up.weight)

    def forward(self, states: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`."""
        return self.shifted(self.base(states), states)

    def shifted(self, output: Tensor, states: Tensor) -> Tensor:
        """The base's output of `states`, with the difference."""
        return output + self.up(self.narrow(states)).to(output.dtype)

    def narrow(self, states: Tensor) -> Tensor:
        """`[..., in]` -> `[..., rank]`."""
        return self.down(states.to(self.down.weight.dtype))


class LowRankSecondaryAttention(SecondaryAttention):
    """The primary's projections, each with a difference of low rank."""

    config: Any
    q_proj: Any
    k_proj: Any
    v_proj: Any
    PARTS = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "read_proj": "out_proj"}

    def __init__(self, text_config, index: int, rank: int):
        super().__init__(text_config, index)
        self.primary_slot = index
        for name in self.PARTS:
            setattr(self, name, LowRankShift(getattr(self, name), rank))

    def copy(self, primary: nn.Module) -> None:
        """Nothing: it is the primary until its differences are trained."""

    def borrow(self, primary: nn.Module) -> None:
        """Use these linears of the base, at this call. They are not children: the base has them."""
        for name, source in self.PARTS.items():
            shift, linear = getattr(self, name), getattr(primary, source)
            if shift.__dict__.get("base") is not linear:
                object.__setattr__(shift, "base", linear)

    def input_dtype(self, states: Tensor) -> torch.dtype:
        return states.dtype

    def heads(self, normed: Tensor, encoder_states, encoder_mask, cache, **kwargs) -> Tensor:
        if cache is None:
            return super().heads(normed, encoder_states, encoder_mask, cache, **kwargs)
        self._remember(encoder_states, cache)
        queries = (self.q_proj(normed) * self.scaling).unflatten(-1, (self.num_heads, self.head_dim))
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        heads, _ = attend(
            self,
            queries.transpose(1, 2).contiguous(),
            self.keys(encoder_states, cache),
            self._values(cache),
            encoder_mask,
            dropout=self.dropout if self.training else 0.0,
            scaling=1.0,
            **kwargs,
        )
        return heads.flatten(2)

    def _remember(self, encoder_states: Tensor, cache) -> None:
        """Keep the narrow states of the speech, `[B, 1, T, rank]`, in the place of keys and values."""
        if not cache.is_updated.get(self.slot):
            make_room(cache.cross_attention_cache, self.slot + 1)
            narrow = [shift.narrow(encoder_states).unsqueeze(1) for shift in (self.k_proj, self.v_proj)]
            cache.cross_attention_cache.update(*narrow, self.slot)
            cache.is_updated[self.slot] = True

    def keys(self, encoder_states: Tensor, cache) -> Tensor:
        if cache is None:
            return super().keys(encoder_states, cache)
        near, own = self._remembered(cache)
        return self._shifted(self.k_proj, near.keys, own.keys)

    def _values(self, cache) -> Tensor:
        near, own = self._remembered(cache)
        return self._shifted(self.v_proj, near.values, own.values)

    def _remembered(self, cache) -> tuple[Any, Any]:
        """What a cache keeps of the speech: the primary's keys and values, and the narrow states."""
        layers = cache.cross_attention_cache.layers
        return layers[self.primary_slot], layers[self.slot]

    def _shifted(self, shift: LowRankShift, near: Tensor, narrow: Tensor) -> Tensor:
        """The primary's keys or values `[B, heads, T, D]` with the difference."""
        wide = shift.up(narrow[:, 0]).unflatten(-1, (self.num_heads, self.head_dim))
        return near + wide.transpose(1, 2).to(near.dtype)

    def joins(self, primary: nn.Module, states: Tensor, cache) -> bool:
        """For a single token, once the cache holds the speech."""
        return (
            cache is not None
            and states.shape[1] == 1
            and bool(cache.is_updated.get(self.slot))
            and not (self.training or primary.training)
        )

    def read_both(self, normed: Tensor, encoder_mask, cache) -> tuple[Tensor, Tensor]:
        """What primary and secondary read for a token: their heads, and these projected, `[B, 2, H]` each.

        `normed` `[B, 2, H]` is the token as either of them wants it.
        """
        near, own = self._remembered(cache)
        queries = second_shifted(self.q_proj, normed) * self.scaling
        queries = queries.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)  # B, heads, 2, D
        scores = queries @ near.keys.transpose(2, 3)
        # What follows in full precision, as fast kernels do it.
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))  # B, heads, 2, T
        up = self._by_head(self.k_proj)
        asked = torch.bmm(queries[:, :, 1].transpose(0, 1).to(up.dtype), up).transpose(0, 1)  # B, heads, rank
        scores[:, :, 1] += asked @ own.keys[:, 0].transpose(1, 2)
        weights = hide(scores, encoder_mask).softmax(dim=-1)
        read = weights.to(near.values.dtype) @ near.values  # B, heads, 2, D
        up = self._by_head(self.v_proj).transpose(1, 2)
        narrow = weights[:, :, 1].to(up.dtype) @ own.values[:, 0]  # B, heads, rank
        read[:, :, 1] += torch.bmm(narrow.transpose(0, 1), up).transpose(0, 1)
        heads = read.transpose(1, 2).flatten(2)
        return heads, second_shifted(self.read_proj, heads)

    def _by_head(self, shift: LowRankShift) -> Tensor:
        """The way up, `[heads, D, rank]`."""
        return shift.up.weight.unflatten(0, (self.num_heads, self.head_dim))


def second_shifted(shift: LowRankShift, states: Tensor) -> Tensor:
    """The base's linear of `[B, 2, in]`, the second of each two with the difference: `[B, 2, out]`."""
    output = shift.base(states)
    return torch.cat([output[:, :1], shift.shifted(output[:, 1:], states[:, 1:])], dim=1)
