"""Frame stacking and an MLP: each token is a few neighbouring frames, seen at once."""

from torch import Tensor

from ...configuration.configuration_adapters import MLPAdapterConfig
from .adapter_base import FeedForward, SpeechAdapter, SpeechFrames


class MLPAdapter(SpeechAdapter):
    """Stack `stack_factor` frames, then Linear, activation, Linear."""

    config: MLPAdapterConfig

    def __init__(self, config: MLPAdapterConfig, input_size: int, output_size: int):
        super().__init__(config, input_size, output_size)
        stacked_size = config.stack_factor * input_size
        self.feed_forward = FeedForward(stacked_size, config.hidden_size, output_size, config.activation)

    def bridge(self, frames: SpeechFrames) -> tuple[Tensor, None]:
        # B, T, D_in -> B, N, stack_factor * D_in -> B, N, D_out
        return self.feed_forward(frames.stacked(self.config.stack_factor).states), None
