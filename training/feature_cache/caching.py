"""Runs the frozen encoder once over utterances, and keeps what it computes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from speechllm.configuration.encoder_specs import encoder_spec
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..augmentation.augmentation import Augmentation
from ..data.filters import reading_problem
from ..data.sounds import SAMPLING_RATE, read_sound, sound_seconds
from ..data.utterances import Utterance
from .identity import (
    MANIFEST,
    check_identity,
    encoder_identity,
    keeps_silence,
    read_cache_manifest,
    refuse_trained_encoder,
    write_cache_manifest,
)
from .sound_keys import audio_hash, audio_number, source_key
from .storage import STORAGES, Row, known_rows, open_part, packed, part_paths, remove_partial, write_part

logger = logging.getLogger(__name__)

# What an interruption may cost: about ten minutes of speech of Whisper base in float16.
PART_BYTES = 32 * 1024**2
TOO_LONG = "too long for the encoder"


@dataclass(frozen=True)
class Clip:
    """One piece of work: an utterance, as it is (copy 0) or augmented as in that epoch."""

    utterance: Utterance
    copy: int
    source: str | None
    seconds: float


@dataclass(frozen=True)
class Dropped:
    """A clip that is not in the cache, and why."""

    clip: str
    audio: str
    reason: str
    detail: str = ""


@dataclass
class Heard:
    """A batch as it comes from a worker: features of the clips that could be read, with their keys."""

    clips: list[Clip]
    hashes: list[str]
    features: Any = None
    lengths: Any = None
    dropped: list[Dropped] = field(default_factory=list)


class BatchReader(torch.utils.data.Dataset):
    """Item `i` is batch `i`, read, augmented and turned into features: the work of the reading processes."""

    def __init__(self, batches: list[list[Clip]], processor, augmentation: Augmentation | None, most: int | None):
        self.batches, self.processor, self.augmentation, self.most = batches, processor, augmentation, most

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Heard:
        heard = Heard([], [])
        waveforms = []
        for clip in self.batches[index]:
            try:
                waveform = read_sound(clip.utterance)
                key = audio_hash(waveform)
                if clip.copy:
                    waveform = self._augmented(waveform, key, clip.copy)
            except (ValueError, OSError) as error:
                heard.dropped.append(dropped(clip.utterance, reading_problem(error), str(error)))
                continue
            heard.clips.append(clip)
            heard.hashes.append(key)
            waveforms.append(waveform)
        return self._with_features(heard, waveforms) if waveforms else heard

    def _augmented(self, waveform, key: str, copy: int):
        assert self.augmentation is not None
        return self.augmentation(waveform, SAMPLING_RATE, audio_number(key), copy)

    def _with_features(self, heard: Heard, waveforms: list) -> Heard:
        inputs, _ = self.processor.speech(waveforms)
        features, lengths = inputs["input_features"], inputs["input_features_mask"].sum(-1)
        for place, clip in enumerate(heard.clips):
            if clip.copy and self.augmentation is not None and self.augmentation.spec_augment is not None:
                number, row = audio_number(heard.hashes[place]), slice(place, place + 1)
                features[row] = self.augmentation.features(features[row], lengths[row], [number], clip.copy)
        fits = [self.most is None or int(length) <= self.most for length in lengths]
        heard.dropped += [
            dropped(clip.utterance, TOO_LONG, f"{clip.seconds:.1f} s")
            for clip, fitting in zip(heard.clips, fits, strict=True)
            if not fitting
        ]
        rows = [place for place, fitting in enumerate(fits) if fitting]
        clips, hashes = [heard.clips[row] for row in rows], [heard.hashes[row] for row in rows]
        longest = int(lengths[rows].max()) if rows else 0
        axis = encoder_axis(self.processor)
        return Heard(clips, hashes, features[rows].narrow(axis, 0, min(longest, features.shape[axis])), lengths[rows], heard.dropped)


def encoder_axis(processor) -> int:
    """The axis of time in a batch of features."""
    # Log-mel has channels before time; waveforms and filter banks begin with time.
    return 2 if type(processor.feature_extractor).__name__ == "WhisperFeatureExtractor" else 1
