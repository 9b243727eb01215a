"""Decoding token by token on a CPU: the stock sums, in shapes at which torch is quick.

Its fused attention shares out queries: for one query a row, in half precision, it takes five to ten times as
long as two plain products. In float32, the product of few rows with a whole vocabulary reads at half the
memory's speed unless the vocabulary comes first. All of them round otherwise than stock kernels: callers ask.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import EncoderDecoderCache

from .length_masks import hide

# Up to so many rows the vocabulary comes first.
FEW_ROWS = 8


def attend(
    attention, states: Tensor, speech=None, cache=None, mask=None, token_steps: bool = False, **kwargs
) -> Tensor:
    """What a `WhisperAttention` reads for `states` `[B, L, H]`: of `speech` `[B, T, D]`, or of themselves.

    With `token_steps`, a single token a row reads what `cache` holds by plain products.
    """
    if token_steps and _is_step(attention, states, speech, cache):
        return _step(attention, states, speech, cache, mask)
    read, _ = attention(states, key_value_states=speech, past_key_values=cache, attention_mask=mask, **kwargs)
    return read


def is_watched(attention: nn.Module) -> bool:
    """Whether something waits for its calls, such as attention weights that were asked for."""
    return bool(attention._forward_hooks or attention._forward_pre_hooks)


def _is_step(attention, states: Tensor, speech, cache) -> bool:
    """Whether this is one token a row on a CPU, for which the speech has been cached."""
    return (
        states.shape[1] == 1
        and states.device.type == "cpu"
        and isinstance(cache, EncoderDecoderCache)
        and (speech is None or bool(cache.is_updated.get(attention.layer_idx)))
        and not attention.training
        and not is_watched(attention)
    )


def _step(attention, states: Tensor, speech, cache, mask) -> Tensor:
    def by_head(states: Tensor) -> Tensor:
        return states.unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2)

    if speech is None:
        new = (by_head(attention.k_proj(states)), by_head(attention.v_proj(states)))
        keys, values = cache.self_attention_cache.update(*new, attention.layer_idx)
    else:
        layer = cache.cross_attention_cache.layers[attention.layer_idx]
        keys, values = layer.keys, layer.values
    queries = by_head(attention.q_proj(states) * attention.scaling)
    # In full precision, as fused kernels have it.
    weights = hide(_scores(queries, keys).float(), mask).softmax(dim=-1).to(values.dtype)
    read = weights @ values if speech is None else _read(weights, values)
    return attention.out_proj(read.transpose(1, 2).flatten(2))


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    """`[B, heads, 1, D]`, `[B, heads, T, D]` -> `[B, heads, 1, T]`."""
    if keys.dtype == torch.float32:
        # In this order a quarter faster; in half precision it would take twice as long.
        return (keys @ queries.transpose(2, 3)).transpose(2, 3)
    return queries @ keys.transpose(2, 3)


def _read(weights: Tensor, values: Tensor) -> Tensor:
    """`[B, heads, 1, T]`, `[B, heads, T, D]` -> `[B, heads, 1, D]`, for many frames T."""
    if values.dtype != torch.float32 or not values.is_contiguous():
        return weights @ values
    # A bag of weighed rows is the same sum, and streams the values; the product takes a quarter longer.
    places = _places(values.shape[:-2].numel(), values.shape[-2])
    bags = F.embedding_bag(
        places, values.flatten(0, -2), mode="sum", per_sample_weights=weights.flatten(0, -2)
    )
    return bags.unflatten(0, values.shape[:2]).unsqueeze(2)


@lru_cache(maxsize=4)
def _places(bags: int, frames: int) -> Tensor:
    """Numbers of the rows of each bag, `[bags, frames]`: the same for all layers and tokens."""
    with torch.inference_mode(False):
        return torch.arange(bags * frames, dtype=torch.int32).view(bags, frames)


def vocabulary_scores(head: nn.Module, states: Tensor, token_steps: bool = False) -> Tensor:
    """What `head` says of `states` `[rows, H]`: `[rows, V]`."""
    rows = len(states)
    few = 0 < rows <= FEW_ROWS and states.dtype == torch.float32 and states.device.type == "cpu"
    if not (token_steps and few and type(head) is nn.Linear and head.bias is None):
        return head(states)
    # One row is a product with a vector, for which there is no quick kernel either.
    padded = F.pad(states, (0, 0, 0, 1)) if rows == 1 else states
    return (head.weight @ padded.t()).t()[:rows]
