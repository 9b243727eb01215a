"""Learned queries over windows of frames: a fixed number of tokens a second, chosen by attention."""

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ...configuration.configuration_adapters import QFormerAdapterConfig
from .adapter_base import FeedForward, SpeechAdapter, SpeechAttention, SpeechFrames, add_positions


class QFormerAdapterLayer(nn.Module):
    """Self-attention among a window's queries, cross-attention to its frames, an MLP; normed before each."""

    def __init__(self, config: QFormerAdapterConfig):
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        self.self_attention_norm = nn.LayerNorm(width)
        self.self_attention = SpeechAttention(width, heads, config.dropout)
        self.cross_attention_norm = nn.LayerNorm(width)
        self.cross_attention = SpeechAttention(width, heads, config.dropout)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, config.intermediate_size, width, dropout=config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, queries: Tensor, speech: Tensor, mask: Tensor | None) -> Tensor:
        """[B * W, queries, width], [B * W, frames, width], [B * W, frames] bool or None -> as the queries"""
        normed = self.self_attention_norm(queries)
        queries = queries + self.dropout(self.self_attention(normed, normed, None))
        normed = self.cross_attention_norm(queries)
        queries = queries + self.dropout(self.cross_attention(normed, speech, mask))
        return queries + self.dropout(self.feed_forward(self.feed_forward_norm(queries)))


class QFormerAdapter(SpeechAdapter):
    """`tokens_per_window` queries for every `window_frames` frames, and no look beyond the window."""

    config: QFormerAdapterConfig

    def __init__(self, config: QFormerAdapterConfig, input_size: int, output_size: int):
        super().__init__(config, input_size, output_size)
        width = config.hidden_size
        self.queries = nn.Parameter(torch.empty(1, config.tokens_per_window, width))
        self.input_projection = nn.Linear(input_size, width)
        self.input_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(QFormerAdapterLayer(config) for _ in range(config.num_hidden_layers))
        self.output_norm = nn.LayerNorm(width)
        self.output_projection = nn.Linear(width, output_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Queries start small and different: equal ones would stay equal for ever."""
        init.normal_(self.queries, mean=0.0, std=0.02)

    def bridge(self, frames: SpeechFrames) -> tuple[Tensor, None]:
        batch = frames.states.shape[0]
        windows = frames.windows(self.config.window_frames)
        mask = windows.mask()
        # Positions within the window: without them a window is a bag of frames.
        speech = self.input_norm(add_positions(self.input_projection(windows.states)))
        tokens = self.queries.expand(speech.shape[0], -1, -1)
        for layer in self.layers:
            tokens = layer(tokens, speech, mask)
        # B * W, tokens of a window, width -> B, N, D_out
        return self.output_projection(self.output_norm(tokens)).reshape(batch, -1, self.output_size), None
