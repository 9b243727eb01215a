"""Utterances as PyTorch datasets: read when asked for, and nothing lost silently."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .mixing import Mixture
from .sounds import SAMPLING_RATE, read_sound
from .utterances import Utterance

logger = logging.getLogger(__name__)

# What a letter costs next to a second of audio: four bytes make a token, 25 tokens cost what a second does.
SECONDS_PER_BYTE = 0.01
Item = dict[str, Any]


def item_of(utterance: Utterance, audio: np.ndarray) -> Item:
    """What the collator gets: the sound, float32 `[n]` at 16 kHz, and what is known of it."""
    return {
        "audio": audio,
        "text": utterance.text,
        "language": utterance.language,
        "task": utterance.task,
        "prompt": utterance.prompt,
        "id": utterance.id or utterance.name,
        "seconds": len(audio) / SAMPLING_RATE,
    }


class SpeechDataset(torch.utils.data.Dataset):
    """Map-style: item `i` is utterance `i`, decoded when it is asked for.

    A clip that cannot be read is named in the log, counted in `failures()`, and replaced by the readable clip
    that is next shorter: the same one every time, and no larger than its batch has room for.
    """

    def __init__(self, utterances: Sequence[Utterance], name: str = "data", mixture: Mixture | None = None):
        if not utterances:
            raise ValueError(f"{name} holds no clips")
        self.utterances, self.name, self.mixture = list(utterances), name, mixture
        seconds = np.array([item.seconds or 0.0 for item in self.utterances])
        self._by_length = np.argsort(seconds, kind="stable")
        self._rank = np.empty(len(seconds), dtype=np.int64)
        self._rank[self._by_length] = np.arange(len(seconds))
        # Shared: worker processes note failures here that the main process reports.
        self._failed = torch.zeros(len(self.utterances), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> Item:
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        rank = int(self._rank[index])
        # Down the lengths first, then up from the clip itself.
        for candidate in [*range(rank, -1, -1), *range(rank + 1, len(self))]:
            item = self._read(int(self._by_length[candidate]))
            if item is not None:
                return item
        raise RuntimeError(f"{self.name}: none of its {len(self)} clips can be read; the log names them")

    def failures(self) -> list[str]:
        """Names of the clips that could not be read so far, in this process or a worker."""
        return [self.utterances[index].name for index in self._failed.nonzero()[:, 0].tolist()]

    def costs(self, seconds_per_byte: float = SECONDS_PER_BYTE) -> np.ndarray:
        """Seconds of audio and of text, `[n, 2]`, for `BudgetBatchSampler`."""
        unknown = [item.name for item in self.utterances if item.seconds is None]
        if unknown:
            raise ValueError(
                f"{self.name}: {len(unknown)} clips of unknown length, {unknown[0]} first; filter them"
            )
        audio = [item.seconds for item in self.utterances]
        text = [seconds_per_byte * len(item.text.encode()) for item in self.utterances]
        return np.stack([np.array(audio, dtype=np.float64), np.array(text)], axis=1)

    @property
    def hours(self) -> float:
        return sum(item.seconds or 0.0 for item in self.utterances) / 3600

    def _read(self, index: int) -> Item | None:
        if self._failed[index]:
            return None
        utterance = self.utterances[index]
        try:
            return item_of(utterance, read_sound(utterance))
        except (ValueError, OSError) as error:
            self._failed[index] = True
            logger.warning(
                "%s: %s cannot be read and is replaced by another clip: %s", self.name, utterance.name, error
            )
            return None
