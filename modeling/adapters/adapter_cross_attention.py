"""Adapters that live inside an encoder-decoder: how its decoder reads the speech."""

import contextlib

from torch import Tensor, nn
from torch.nn import functional as F

from ...configuration.configuration_adapters import AdapterConfig
from ..token_steps import attend


class DecoderAdapter(nn.Module):
    """The cross-attention block of every decoder layer; here the stock one, which adds nothing.

    `text_config` is the encoder-decoder's config, `decoder_layers` its layers: a module that starts from
    their weights copies them in its constructor, and holds no reference.
    """

    def __init__(self, config: AdapterConfig, text_config, decoder_layers: nn.ModuleList):
        super().__init__()
        self.config = config

    def attend(
        self, index: int, layer, states: Tensor, encoder_states, encoder_mask, cache, **kwargs
    ) -> Tensor:
        """Residual stream `[B, L, H]` of decoder layer `index` before and after the speech was read.

        `encoder_states` `[B, T, D]`; `encoder_mask` as the attention wants it, or `None`; `cache` keeps keys
        and values of the speech between steps.
        """
        return states + self.primary(layer, states, encoder_states, encoder_mask, cache, **kwargs)

    def primary(self, layer, states: Tensor, encoder_states, encoder_mask, cache, **kwargs) -> Tensor:
        """What the stock cross-attention reads, `[B, L, H]`."""
        asked = layer.encoder_attn_layer_norm(states)
        read = attend(layer.encoder_attn, asked, encoder_states, cache, encoder_mask, **kwargs)
        return F.dropout(read, p=layer.dropout, training=layer.training)

    @property
    def supervised(self) -> bool:
        """Whether it has a loss of its own, for which a forward pass has to keep notes."""
        return False

    def noting(self):
        """Within the block, keep what `auxiliary_loss` wants to know; here nothing."""
        return contextlib.nullcontext()

    def auxiliary_loss(self, notes, batch: dict) -> Tensor | None:
        """The adapter's own loss, a mean over the clips of `batch`; `None` where there is none."""
        return None


class CrossAttentionAdapter(DecoderAdapter):
    """The encoder-decoder as it is."""
