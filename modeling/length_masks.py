"""Lengths to masks: which positions of a right-padded batch are real; and scores without the others."""

import torch

from ..configuration.encoder_specs import encoder_spec


def length_mask(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """Lengths `[B]` -> bool `[B, size]`, true where a position is real."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def mask_if_padded(lengths: torch.Tensor, size: int) -> torch.Tensor | None:
    """`length_mask`, or `None` when every row is full: attention is faster without a mask."""
    return None if bool((lengths >= size).all()) else length_mask(lengths, size)


def input_lengths(config, input_features: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Real inputs of each clip, `[B]`, of a batch of features; without a mask all of them are."""
    if mask is not None:
        return mask.sum(-1).long()
    size = input_features.shape[encoder_spec(config.audio_config).time_axis]
    return torch.full((len(input_features),), size, device=input_features.device)


def hide(scores: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Scores `[B, heads, L, T]`, in place, without the frames that an encoder's mask of any kind hides."""
    if mask is None:
        return scores
    if mask.dim() == 2:
        mask = mask[:, None, None, :].bool()
    hidden = ~mask if mask.dtype == torch.bool else mask < -1
    return scores.masked_fill_(hidden, torch.finfo(scores.dtype).min)
