"""Gates between two cross-attentions, by what they draw a weight for.

With `a` the weight of the primary, what is added to the residual stream is
`primary + (1 - a) * (gain * secondary - primary)`, where `gain` starts at 1. Where it stays there, that is
`a * primary + (1 - a) * secondary`. docs/dual-attention.md says why there is a gain.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...configuration.configuration_adapters import DualAttentionAdapterConfig

# As the original draws its gate.
GATE_STD = 0.02


class GateValues(NamedTuple):
    """What the gate says, `[B, L, weights]` each."""

    primary: Tensor  # weight of the primary, 0 to 1
    secondary: Tensor  # weight of the secondary: both make 1
    gain: Tensor | float  # how loud the secondary is


class TokenGate(nn.Module):
    """One weight for a token, from the residual stream and what both branches read."""

    def __init__(self, config: DualAttentionAdapterConfig, text_config):
        super().__init__()
        width, self.weights = text_config.d_model, self.weights_of(text_config)
        self.bias, self.largest_gain = float(config.gate_bias or 0), float(config.gate_gain or 0)
        self.trunk = nn.Linear(3 * width, config.gate_width(width))
        # The weights, and where there is a gain, the gains.
        self.head = nn.Linear(config.gate_width(width), self.weights * (2 if self.largest_gain else 1))
        for linear in (self.trunk, self.head):
            nn.init.normal_(linear.weight, std=GATE_STD)
            nn.init.zeros_(linear.bias)
        with torch.no_grad():
            self.head.weight[self.weights :].zero_()

    @staticmethod
    def weights_of(text_config) -> int:
        """How many weights a token has."""
        return 1

    def forward(self, states: Tensor, primary: Tensor, secondary: Tensor) -> GateValues:
        """What the gate says of residual stream, primary and secondary, `[B, L, H]` each."""
        dtype = self.trunk.weight.dtype
        seen = torch.cat([states.to(dtype), primary.to(dtype), secondary.to(dtype)], dim=-1)
        said = self.head(torch.tanh(self.trunk(seen)))
        logit = self.bias + said[..., : self.weights]
        gain: Tensor | float = 1.0
        if self.largest_gain:
            gain = 1 + self.largest_gain * torch.tanh(said[..., self.weights :])
        return GateValues(torch.sigmoid(logit), torch.sigmoid(-logit), gain)

    def read_primary(self, attention, read) -> tuple[Tensor, Tensor | None]:
        """What the primary reads, by calling `read`; its heads only where the fusion wants them."""
        return read(), None

    def bias_left(self, attention) -> Tensor | None:
        """Of the second attention what stays where the gate gives it no weight, `[H]`; None is nothing."""
        return None

    def fused(
        self, gate: GateValues, primary: Tensor, secondary: Tensor, primary_heads, heads, layer, attention
    ) -> Tensor:
        """What is added to the residual stream, `[B, L, H]`."""
        # As a difference: of equal branches it is zero to the last bit.
        return primary + gate.secondary * (gate.gain * secondary - primary)


class ChannelGate(TokenGate):
    """A weight for every channel of a token."""

    @staticmethod
    def weights_of(text_config) -> int:
        return text_config.d_model


class HeadGate(TokenGate):
    """A weight for every head of a token; heads are weighed before they are projected.

    The biases of the two projections belong to no head: their difference is added whole.
    """

    @staticmethod
    def weights_of(text_config) -> int:
        return text_config.decoder_attention_heads

    def read_primary(self, attention, read) -> tuple[Tensor, Tensor | None]:
        heads: list[Tensor] = []
        tap = attention.out_proj.register_forward_pre_hook(lambda module, inputs: heads.append(inputs[0]))
        try:
            return read(), heads[0]
        finally:
            tap.remove()

    def bias_left(self, attention) -> Tensor | None:
        # In low rank both projections have the base's bias.
        return getattr(attention.read_proj, "bias", None)

    def fused(
        self, gate: GateValues, primary: Tensor, secondary: Tensor, primary_heads, heads, layer, attention
    ) -> Tensor:
        size = heads.shape[-1] // self.weights
        share = gate.secondary.repeat_interleave(size, dim=-1)
        louder = (gate.secondary * gate.gain).repeat_interleave(size, dim=-1)
        read = attention.read_proj((louder * heads).to(heads.dtype))
        held_back = layer.encoder_attn.out_proj((share * primary_heads).to(primary.dtype))
        difference = nn.functional.dropout(read - held_back, p=layer.dropout, training=layer.training)
        return primary + difference


GATES: dict[str, type[TokenGate]] = {"token": TokenGate, "head": HeadGate, "channel": ChannelGate}
