"""Learned prefix tokens that read the speech: a soft prompt whose content is what was said."""

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ...configuration.configuration_adapters import PrefixAdapterConfig
from .adapter_base import FeedForward, SpeechAdapter, SpeechAttention, SpeechFrames, add_positions


class PrefixAdapter(SpeechAdapter):
    """Prefix tokens, cross-attention to the speech, an MLP; each with a residual and a norm after it."""

    config: PrefixAdapterConfig

    def __init__(self, config: PrefixAdapterConfig, input_size: int, output_size: int):
        super().__init__(config, input_size, output_size)
        width = config.hidden_size or output_size
        self.prefix = nn.Parameter(torch.empty(1, config.num_prefix_tokens, width))
        self.input_projection = nn.Linear(input_size, width)
        self.attention = SpeechAttention(width, config.num_attention_heads, config.dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, config.mlp_size(), width, dropout=config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.output_projection = nn.Linear(width, output_size) if config.hidden_size else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The prefix starts about as quiet as a language model's own embeddings."""
        init.normal_(self.prefix, mean=0.0, std=0.02)

    def bridge(self, frames: SpeechFrames) -> tuple[Tensor, None]:
        batch = frames.states.shape[0]
        if self.config.window_frames is not None:
            frames = frames.windows(self.config.window_frames)
        speech = self.input_projection(frames.states)
        if self.config.positions == "sinusoidal":
            speech = add_positions(speech)
        # B * W, prefix tokens, width; without windows W is 1
        tokens = self.attention_norm(self.prefix + self.attention(self.prefix, speech, frames.mask()))
        tokens = self.feed_forward_norm(tokens + self.dropout(self.feed_forward(tokens)))
        return self.output_projection(tokens).reshape(batch, -1, self.output_size), None
