"""A mixture of experts as the bridge: each token takes the experts that suit its sound or language."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...configuration.configuration_adapters import MoEAdapterConfig
from .adapter_base import FeedForward, SpeechAdapter, SpeechFrames


class MoEAdapter(SpeechAdapter):
    """Stacked frames through a shared expert, plus the likeliest few of the routed ones."""

    config: MoEAdapterConfig

    def __init__(self, config: MoEAdapterConfig, input_size: int, output_size: int):
        super().__init__(config, input_size, output_size)
        sizes = (config.stack_factor * input_size, config.hidden_size, output_size)
        self.router = nn.Linear(sizes[0], config.num_experts, bias=False)
        self.shared_expert = FeedForward(*sizes)
        self.experts = nn.ModuleList(FeedForward(*sizes) for _ in range(config.num_experts))

    def bridge(self, frames: SpeechFrames) -> tuple[Tensor, Tensor | None]:
        frames = frames.stacked(self.config.stack_factor)
        mask = frames.mask()
        if mask is None:
            mask = torch.ones(frames.states.shape[:2], dtype=torch.bool, device=frames.states.device)
        # B, N, D -> M, D: experts and losses see the M tokens that hold speech, and no padding.
        tokens = frames.states[mask]
        logits = self.route(tokens)
        mixed = self.mix(tokens, logits.softmax(dim=-1))
        spread = mixed.new_zeros(*mask.shape, self.output_size)
        spread[mask] = mixed
        return spread, self.auxiliary_loss(logits) if self.training else None

    def route(self, tokens: Tensor) -> Tensor:
        """[M, D] -> [M, experts] logits, always in float32: half precision flips close calls."""
        with torch.autocast(tokens.device.type, enabled=False):
            return F.linear(tokens.float(), self.router.weight.float())

    def mix(self, tokens: Tensor, probabilities: Tensor) -> Tensor:
        """[M, D], [M, experts] -> [M, D_out]"""
        # Left as they are, not rescaled to add up to 1: with one expert per token that would be the
        # constant 1, and no gradient would reach the router.
        weights, choices = probabilities.topk(self.config.num_experts_per_token, dim=-1)
        mixed = self.shared_expert(tokens)
        for index, expert in enumerate(self.experts):
            # An expert that nobody chose still runs, on no rows: every process has the same gradients.
            rows, ranks = torch.where(choices == index)
            share = expert(tokens[rows]) * weights[rows, ranks, None]
            mixed = mixed.index_add(0, rows, share.to(mixed.dtype))
        return mixed

    def auxiliary_loss(self, logits: Tensor) -> Tensor:
        """[M, experts] -> scalar: even use of the experts, and logits that do not grow without bound."""
        config, slots = self.config, self.config.num_experts_per_token
        count = max(logits.shape[0], 1)
        probabilities = logits.softmax(dim=-1)
        choices = probabilities.topk(slots, dim=-1).indices
        chosen = F.one_hot(choices, config.num_experts).sum(dim=(0, 1)) / (count * slots)
        balance = config.num_experts * (chosen * (probabilities.sum(dim=0) / count)).sum()
        z = logits.logsumexp(dim=-1).square().sum() / count
        return config.balance_loss_weight * balance + config.router_z_loss_weight * z
