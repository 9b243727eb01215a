"""Strided convolutions as the bridge: fewer tokens, each a smooth summary of its neighbourhood."""

from torch import Tensor, nn
from torch.nn import functional as F

from ...configuration.configuration_adapters import ConvAdapterConfig
from ...configuration.speech_lengths import chain_length
from .adapter_base import FeedForward, SpeechAdapter, SpeechFrames, zero_beyond


class ConvAdapter(SpeechAdapter):
    """Convolutions with GELU, one for each stride, then Linear, GELU, Linear."""

    config: ConvAdapterConfig

    def __init__(self, config: ConvAdapterConfig, input_size: int, output_size: int):
        super().__init__(config, input_size, output_size)
        widths = [input_size] + [config.hidden_size] * len(config.strides)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(widths[index], widths[index + 1], config.kernel_size, stride, config.padding)
            for index, stride in enumerate(config.strides)
        )
        self.feed_forward = FeedForward(config.hidden_size, config.hidden_size, output_size)

    def bridge(self, frames: SpeechFrames) -> tuple[Tensor, None]:
        states, lengths = frames.states, frames.lengths
        for convolution, step in zip(self.convolutions, self.config.length_steps(), strict=True):
            # B, T, D -> B, D, T -> B, T', D
            states = F.gelu(convolution(states.transpose(1, 2)).transpose(1, 2))
            lengths = chain_length(lengths, [step])
            if frames.padded:
                # The bias has filled the padding, and the next kernel would reach into it.
                states = zero_beyond(states, lengths)
        return self.feed_forward(states), None
