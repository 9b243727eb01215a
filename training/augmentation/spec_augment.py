"""SpecAugment: bands of frequency and stretches of time taken out of features, anew in every epoch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .effect_fields import Fields, count, number
from .scene import generator_for


@dataclass(frozen=True)
class SpecAugment(Fields):
    """Masks of drawn width at drawn places. The sizes are LibriSpeech's double policy for 80 mels."""

    frequency_masks: int = count(0, 100, 2)
    # Channels of mel, at the most.
    frequency_width: int = count(1, 1000, 27)
    time_masks: int = count(0, 100, 2)
    # Frames, at the most, and as a share of the clip: short ones keep enough to be understood by.
    time_width: int = count(1, 100000, 100)
    time_share: float = number(0, 1, 0.2)
    probability: float = number(0, 1, 1.0)

    def masks(
        self, channels: int, length: int, keys: tuple[int, int, int]
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Starts and ends of bands and of stretches, for a clip of `length` frames."""
        draw = generator_for(*keys, "spec_augment")
        if draw.random() >= self.probability:
            return [], []

        def drawn(number: int, widest: float, end: int) -> list[tuple[int, int]]:
            widths = draw.integers(0, int(min(widest, end)) + 1, number)
            starts = [int(draw.integers(0, end - int(width) + 1)) for width in widths]
            return [(start, start + int(width)) for start, width in zip(starts, widths, strict=True)]

        bands = drawn(self.frequency_masks, self.frequency_width, channels)
        widest = min(self.time_width, self.time_share * length)
        return bands, drawn(self.time_masks, widest, length)


def spec_augment(
    features: Tensor, lengths: Tensor, fields: SpecAugment, seed: int, indices: list[int], epoch: int
) -> Tensor:
    """[B, mel, T] with masks at each row's own mean; frames beyond `lengths` [B] are left alone.

    A row's masks depend on its index and the epoch, not on the batch it is in.
    """
    if features.ndim != 3 or len(lengths) != len(features) or len(indices) != len(features):
        raise ValueError(
            f"SpecAugment takes features [B, mel, T] with a length and an index a row, not "
            f"{list(features.shape)} with {len(lengths)} lengths and {len(indices)} indices"
        )
    augmented = features.clone()
    for row, (length, index) in enumerate(zip(lengths.tolist(), indices, strict=True)):
        speech = augmented[row, :, :length]
        mean = features[row, :, :length].float().mean().to(features.dtype)
        bands, stretches = fields.masks(len(speech), length, (seed, index, epoch))
        for start, end in bands:
            speech[start:end] = mean
        for start, end in stretches:
            speech[:, start:end] = mean
    return augmented
