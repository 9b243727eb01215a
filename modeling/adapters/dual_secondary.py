"""The second cross-attention of a decoder layer, and the places of several in one cache."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.whisper.modeling_whisper import WhisperAttention

from ..token_steps import attend
from .dual_notes import speech_keys


class SecondaryAttention(WhisperAttention):
    """Whisper's cross-attention up to its heads, with a place of its own in the cache.

    The output projection is `read_proj`: what is read is wanted before and after it.
    """

    def __init__(self, text_config, index: int):
        # Behind the slots of the primaries.
        slot = text_config.decoder_layers + index
        super().__init__(
            embed_dim=text_config.d_model,
            num_heads=text_config.decoder_attention_heads,
            dropout=text_config.attention_dropout,
            is_decoder=True,
            layer_idx=slot,
            config=text_config,
        )
        self.slot = slot
        self.read_proj: Any = self.out_proj
        self.out_proj: Any = nn.Identity()

    def heads(self, normed: Tensor, encoder_states, encoder_mask, cache, **kwargs) -> Tensor:
        """What the heads read, side by side: `[B, L, H]`."""
        if cache is not None:
            make_room(cache.cross_attention_cache, self.slot + 1)
        if cache is None or not cache.is_updated.get(self.slot):
            # Only then: to widen a base's half precision for every token is to copy all frames.
            encoder_states = encoder_states.to(normed.dtype)
        return attend(self, normed, encoder_states, cache, encoder_mask, **kwargs)

    def keys(self, encoder_states: Tensor, cache) -> Tensor:
        """Keys of the speech, which it has just read: `[B, heads, T, D]`."""
        return speech_keys(self, encoder_states, cache)

    def joins(self, primary: nn.Module, states: Tensor, cache) -> bool:
        """Whether it reads for `states` together with the primary, in `read_both`: with own keys never."""
        return False

    def copy(self, primary: nn.Module) -> None:
        """Start from the primary's weights."""
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            source = getattr(primary, name)
            if not source.weight.is_floating_point():
                raise ValueError(
                    f"a secondary attention cannot be copied from weights in {source.weight.dtype}; "
                    "set rank, or compose on an unquantized base"
                )
            target = self.read_proj if name == "out_proj" else getattr(self, name)
            copy_parameters(source, target)

    def borrow(self, primary: nn.Module) -> None:
        """Nothing: it has weights of its own."""

    def input_dtype(self, states: Tensor) -> torch.dtype:
        """The dtype in which it wants what it reads."""
        return self.q_proj.weight.dtype


def copy_parameters(source: nn.Module, target: nn.Module) -> None:
    """Give `target` the values of `source`; on the meta device, where there are none, nothing happens."""
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            parameter.copy_(source.get_parameter(name))


def make_room(cache, slots: int) -> None:
    """Give a cache of a fixed number of layers further ones, of the kind it has."""
    while cache.layer_class_to_replicate is None and len(cache.layers) < slots:
        first = cache.layers[0]
        size = {"max_cache_len": first.max_cache_len} if hasattr(first, "max_cache_len") else {}
        cache.layers.append(type(first)(**size))
