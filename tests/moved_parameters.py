"""Parameters as if they had been trained."""

from collections.abc import Iterable

import torch
from torch import nn


@torch.no_grad()
def move(parameters: Iterable[nn.Parameter], size: float, seed: int = 1) -> None:
    """Move them from where they start: zeros, ones and copies hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.add_(size * torch.randn(parameter.shape, generator=generator))
