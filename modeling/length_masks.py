"""Lengths to masks: which positions of a right-padded batch are real."""

import torch


def length_mask(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """Lengths `[B]` -> bool `[B, size]`, true where a position is real."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def mask_if_padded(lengths: torch.Tensor, size: int) -> torch.Tensor | None:
    """`length_mask`, or `None` when every row is full: attention is faster without a mask."""
    return None if bool((lengths >= size).all()) else length_mask(lengths, size)
