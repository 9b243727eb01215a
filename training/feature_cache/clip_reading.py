"""What the reading processes of a caching run do: sounds to batches of features, with the sounds' keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from speechllm.configuration.speech_lengths import chain_length

from ..augmentation.augmentation import Augmentation
from ..data.filters import reading_problem
from ..data.sounds import SAMPLING_RATE, read_sound
from ..data.utterances import Utterance
from .sound_keys import audio_hash, audio_number

TOO_LONG = "too long for the encoder"


@dataclass(frozen=True)
class Clip:
    """One piece of work: an utterance as it is (copy 0), or augmented as in the epoch of that number."""

    utterance: Utterance
    copy: int
    source: str | None
    seconds: float


@dataclass(frozen=True)
class Dropped:
    """A clip that is not in the cache, and why."""

    clip: str
    audio: str
    offset: float | None
    reason: str
    detail: str

    @property
    def key(self) -> tuple[str, str, float | None]:
        return self.clip, self.audio, self.offset


@dataclass
class Heard:
    """A batch of features with their clips and keys; and the clips that could not be had."""

    clips: list[Clip] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    features: Any = None
    lengths: Any = None
    dropped: list[Dropped] = field(default_factory=list)


class ClipBatches(torch.utils.data.Dataset):
    """Item `i` is batch `i`, read, augmented and turned into features. `most`: inputs it may have."""

    def __init__(
        self, batches: Sequence[list[Clip]], processor, augmentation: Augmentation | None, most: int | None
    ):
        self.batches, self.processor, self.augmentation, self.most = batches, processor, augmentation, most

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Heard:
        heard, waveforms = Heard(), []
        for clip in self.batches[index]:
            try:
                key, waveform = self._read(clip)
            except (ValueError, OSError) as error:
                heard.dropped.append(dropped(clip.utterance, reading_problem(error), str(error)))
                continue
            if (
                self.most is not None
                and chain_length(len(waveform), self.processor.feature_steps) > self.most
            ):
                heard.dropped.append(
                    dropped(clip.utterance, TOO_LONG, f"{len(waveform) / SAMPLING_RATE:.1f} s")
                )
                continue
            heard.clips.append(clip)
            heard.hashes.append(key)
            waveforms.append(waveform)
        if waveforms:
            inputs, _ = self.processor.speech(waveforms)
            heard.lengths = inputs["input_features_mask"].sum(-1)
            heard.features = self._masked(heard, inputs["input_features"])
        return heard

    def _read(self, clip: Clip) -> tuple[str, np.ndarray]:
        waveform = read_sound(clip.utterance)
        key = audio_hash(waveform)
        if clip.copy and self.augmentation is not None:
            waveform = self.augmentation(waveform, SAMPLING_RATE, audio_number(key), clip.copy)
        return key, waveform

    def _masked(self, heard: Heard, features: torch.Tensor) -> torch.Tensor:
        """Features with SpecAugment on the augmented copies, where the recipe has it."""
        if self.augmentation is None or self.augmentation.spec_augment is None:
            return features
        for row, clip in enumerate(heard.clips):
            if clip.copy:
                one, number = slice(row, row + 1), audio_number(heard.hashes[row])
                features[one] = self.augmentation.features(
                    features[one], heard.lengths[one], [number], clip.copy
                )
        return features


def drop_key(utterance: Utterance) -> tuple[str, str, float | None]:
    """By what a clip is found among the dropped; several may be pieces of one file."""
    return utterance.name, utterance.audio, utterance.extra.get("offset")


def dropped(utterance: Utterance, reason: str, detail: str) -> Dropped:
    clip, audio, offset = drop_key(utterance)
    return Dropped(clip, audio, offset, reason, detail)


def as_it_is(heard: Any) -> Any:
    """For a loader, which would turn what it can into tensors."""
    return heard


def length_batches(clips: Sequence[Clip], budget: float, whole: float | None) -> list[list[Clip]]:
    """Clips of like length, the longest first, as many as a budget of padded seconds holds, and at least one.

    `whole`: seconds that every clip takes in the encoder, whatever its length.
    """
    batches: list[list[Clip]] = []
    for clip in sorted(clips, key=lambda clip: -clip.seconds):
        # The first of a batch is its longest.
        longest = whole or max((batches[-1][0] if batches else clip).seconds, 0.01)
        if batches and (len(batches[-1]) + 1) * longest <= budget:
            batches[-1].append(clip)
        else:
            batches.append([clip])
    return batches
