"""A transformer encoder as the bridge: every token has seen the whole clip."""

from torch import Tensor, nn

from ...configuration.configuration_adapters import TransformerAdapterConfig
from .adapter_base import FeedForward, SpeechAdapter, SpeechAttention, SpeechFrames


class TransformerAdapterLayer(nn.Module):
    """Self-attention and an MLP, normed after each (the original) or before each (`norm_first`)."""

    def __init__(self, config: TransformerAdapterConfig):
        super().__init__()
        width = config.hidden_size
        self.norm_first = config.norm_first
        rotary = config.positions == "rotary"
        self.attention = SpeechAttention(width, config.num_attention_heads, config.dropout, rotary)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, config.intermediate_size, width, dropout=config.dropout)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def attend(self, states: Tensor, mask: Tensor | None) -> Tensor:
        return self.dropout(self.attention(states, states, mask))

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """[B, T, width], [B, T] bool or None -> [B, T, width]"""
        if self.norm_first:
            states = states + self.attend(self.attention_norm(states), mask)
            return states + self.dropout(self.feed_forward(self.feed_forward_norm(states)))
        states = self.attention_norm(states + self.attend(states, mask))
        return self.feed_forward_norm(states + self.dropout(self.feed_forward(states)))


class TransformerAdapter(SpeechAdapter):
    """Linear, transformer layers, Linear, LayerNorm."""

    config: TransformerAdapterConfig

    def __init__(self, config: TransformerAdapterConfig, input_size: int, output_size: int):
        super().__init__(config, input_size, output_size)
        self.input_projection = nn.Linear(config.stack_factor * input_size, config.hidden_size)
        self.layers = nn.ModuleList(TransformerAdapterLayer(config) for _ in range(config.num_hidden_layers))
        self.output_projection = nn.Linear(config.hidden_size, output_size)
        self.output_norm = nn.LayerNorm(output_size)

    def bridge(self, frames: SpeechFrames) -> tuple[Tensor, None]:
        frames = frames.stacked(self.config.stack_factor)
        mask = frames.mask()
        # B, N, stack_factor * D_in -> B, N, width
        states = self.input_projection(frames.states)
        for layer in self.layers:
            states = layer(states, mask)
        return self.output_norm(self.output_projection(states)), None
