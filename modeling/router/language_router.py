"""Which language is spoken, from the states of the frozen encoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...configuration.configuration_router import RouterConfig
from ..length_masks import length_mask
from .router_heads import ROUTER_HEADS


class LanguageRouter(nn.Module):
    """Normed states, pooled over each clip's own frames, to one logit a label.

    The norm has no weights: every head begins with a layer that would absorb them, and without them the mean
    of the normed frames is a constant of a clip, which training may keep instead of its frames.
    """

    def __init__(self, config: RouterConfig, encoder_width: int):
        super().__init__()
        self.config = config
        self.encoder_width = encoder_width
        self.head = ROUTER_HEADS[config.head](config, encoder_width)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """[B, T, D] in any dtype, right-padded, and [B] -> logits [B, labels]; padding may hold anything."""
        return self.classify(self.pool(states, lengths))

    def probabilities(self, states: Tensor, lengths: Tensor) -> Tensor:
        """[B, T, D], [B] -> [B, labels] in float32, calibrated."""
        return self.calibrated(self(states, lengths))

    def calibrated(self, logits: Tensor) -> Tensor:
        """[..., labels] logits -> probabilities under the fitted temperature."""
        return (logits.float() / self.config.temperature).softmax(dim=-1)

    def pool(self, states: Tensor, lengths: Tensor) -> Tensor:
        """[B, T, D], [B] -> [B, P]: what the head makes of a clip before it decides."""
        # Autocast would round the frames; the router costs too little to be worth that.
        with torch.autocast(states.device.type, enabled=False):
            return self.head.pool(*self.receive(states, lengths))

    def classify(self, pooled: Tensor) -> Tensor:
        """[B, P] -> logits [B, labels]"""
        with torch.autocast(pooled.device.type, enabled=False):
            return self.head.classifier(pooled)

    def receive(self, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """Normed frames in the router's dtype, zero in the padding, and their mask if there is padding."""
        if states.shape[-1] != self.encoder_width or states.shape[:1] != lengths.shape:
            raise ValueError(
                f"states of shape {list(states.shape)} with lengths of shape {list(lengths.shape)} do not "
                f"fit a router of states [clips, frames, {self.encoder_width}] with lengths [clips]"
            )
        shortest, longest = torch.stack(torch.aminmax(lengths)).tolist()
        if shortest < 0 or longest > states.shape[1]:
            raise ValueError(
                f"lengths from {shortest} to {longest} do not fit states of {states.shape[1]} frames"
            )
        size = max(longest, 1)
        # A clip without any frame is one frame of silence: kernels need something.
        states = F.pad(states, (0, 0, 0, max(size - states.shape[1], 0)))[:, :size]
        states = states.to(next(self.parameters()).dtype)
        if shortest >= size:
            return self.normed(states), None
        mask = length_mask(lengths.to(states.device), size)
        # Zero before the norm, as a gradient through a NaN is NaN; a norm of zeros is zero.
        return self.normed(torch.where(mask[..., None], states, 0)), mask

    def normed(self, states: Tensor) -> Tensor:
        """Every frame with mean 0 and variance 1 over its channels: a clip's level says nothing."""
        return F.layer_norm(states, (self.encoder_width,))

    def calibrate(self, temperature: float) -> None:
        """Keep a fitted temperature, in the config, so that a checkpoint has it."""
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature={temperature} must be above 0")
        self.config.temperature = float(temperature)
