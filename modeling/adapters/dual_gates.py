"""Gates between two cross-attentions, by what they draw a weight for.

With `z` what the gate says, the weight of the primary is `a = sigmoid(bias + z)`, and what is added to the
residual stream is `primary + (1 - a) * ((1 - gain * tanh(z)) * secondary - primary)`. Without gain that is
`a * primary + (1 - a) * secondary`. docs/dual-attention.md says why there is a gain.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ...configuration.configuration_adapters import DualAttentionAdapterConfig

# As the original draws its gate.
GATE_STD = 0.02
# Spread of the last layer's weights at the start: at 0 nothing is said, so the fusion is exact.
HEAD_STDS = {"exact": 0.0, "published": GATE_STD}


class TokenGate(nn.Module):
    """One weight for a token, from the residual stream and what both branches read."""

    def __init__(self, config: DualAttentionAdapterConfig, text_config):
        super().__init__()
        width = text_config.d_model
        self.bias, self.gain = float(config.gate_bias or 0), float(config.gate_gain or 0)
        self.trunk = nn.Linear(3 * width, config.gate_width(width))
        self.head = nn.Linear(config.gate_width(width), self.weights(text_config))
        nn.init.normal_(self.trunk.weight, std=GATE_STD)
        nn.init.normal_(self.head.weight, std=HEAD_STDS[config.init])
        nn.init.zeros_(self.trunk.bias)
        nn.init.zeros_(self.head.bias)

    @staticmethod
    def weights(text_config) -> int:
        """How many weights a token has."""
        return 1

    def forward(self, states: Tensor, primary: Tensor, secondary: Tensor) -> Tensor:
        """What the gate says of `[B, L, H]` three times: `[B, L, weights]`."""
        dtype = self.trunk.weight.dtype
        seen = torch.cat([states.to(dtype), primary.to(dtype), secondary.to(dtype)], dim=-1)
        return self.head(torch.tanh(self.trunk(seen)))

    def primary_share(self, gate: Tensor) -> Tensor:
        """The weight of the primary, 0 to 1."""
        return torch.sigmoid(self.bias + gate)

    def secondary_parts(self, gate: Tensor) -> tuple[Tensor, Tensor]:
        """The weight of the secondary, and how loud it is."""
        return torch.sigmoid(-self.bias - gate), 1 - self.gain * torch.tanh(gate)

    def read_primary(self, attention, read) -> tuple[Tensor, Any]:
        """What the primary reads, by calling `read`; its heads only where the fusion wants them."""
        return read(), None

    def fused(self, gate, primary, secondary, primary_heads, heads, layer, attention) -> Tensor:
        """What is added to the residual stream, `[B, L, H]`."""
        share, gain = self.secondary_parts(gate)
        return primary + share * (gain * secondary - primary)


class ChannelGate(TokenGate):
    """A weight for every channel of a token."""

    @staticmethod
    def weights(text_config) -> int:
        return text_config.d_model


class HeadGate(TokenGate):
    """A weight for every head of a token; heads are weighed before they are projected.

    The biases of the two projections belong to no head: their difference is added whole.
    """

    @staticmethod
    def weights(text_config) -> int:
        return text_config.decoder_attention_heads

    def read_primary(self, attention, read) -> tuple[Tensor, Any]:
        heads: list[Tensor] = []
        tap = attention.out_proj.register_forward_pre_hook(lambda module, inputs: heads.append(inputs[0]))
        try:
            return read(), heads
        finally:
            tap.remove()

    def fused(self, gate, primary, secondary, primary_heads, heads, layer, attention) -> Tensor:
        size = heads.shape[-1] // gate.shape[-1]
        share, gain = (part.repeat_interleave(size, dim=-1) for part in self.secondary_parts(gate))
        read = attention.read_proj((share * (gain * heads)).to(heads.dtype))
        held_back = layer.encoder_attn.out_proj((share * primary_heads[0]).to(primary.dtype))
        difference = nn.functional.dropout(read - held_back, p=layer.dropout, training=layer.training)
        return primary + difference


GATES: dict[str, type[TokenGate]] = {"token": TokenGate, "head": HeadGate, "channel": ChannelGate}
