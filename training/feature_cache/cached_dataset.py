"""A cache read as a dataset: what `SpeechDataset` gives, with encoder states in place of the sound."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speechllm.configuration.encoder_specs import ENCODER_SPECS

from ..data.datasets import SECONDS_PER_BYTE, Item, SpeechDataset, item_of
from ..data.mixing import Mixture
from ..data.sounds import read_sound
from ..data.utterances import Utterance
from .clip_reading import Dropped, drop_key
from .identity import check_identity, read_cache_manifest
from .sound_keys import audio_hash, source_key
from .storage import STORAGES, known_rows, open_part, part_paths

logger = logging.getLogger(__name__)
ABSENT = (-1, -1)


class CachedFeatures(SpeechDataset):
    """Map-style: item `i` is utterance `i`, with `encoder_states` `[T, D]` as stored and their `scales`.

    `identity` is `encoder_identity(model, processor)` of the model that will be trained; a cache that
    another encoder made is refused, and one that lacks clips as well. Clips that could not be cached count as
    `failures()`, and are replaced as in a `SpeechDataset`. Where the cache holds augmented copies, epoch `e`
    takes copy `e` modulo their number, of which the first is the clip as it is.
    """

    def __init__(
        self,
        folder: Path | str,
        utterances: Sequence[Utterance],
        identity: Mapping[str, Any],
        name: str = "data",
        mixture: Mixture | None = None,
    ):
        self.folder = Path(folder)
        manifest = read_cache_manifest(self.folder)
        check_identity(self.folder, manifest["encoder"], identity)
        self.storage, self.width = manifest["storage"], manifest["encoder"]["width"]
        self.copies, self.epoch = manifest["copies"] + 1, 0
        self._paths = part_paths(self.folder)
        self._tables: list[Any] | None = None
        self._rows = np.full((len(utterances), self.copies, 2), ABSENT, dtype=np.int64)
        self._inputs = np.zeros((len(utterances), self.copies), dtype=np.int64)
        self._find(utterances, name, {Dropped(**item).key for item in manifest.get("dropped", [])})
        rate = ENCODER_SPECS[manifest["encoder"]["encoder_type"]].inputs_per_second
        self._seconds = self._inputs.max(axis=1) / rate
        known = [
            item if item.seconds is not None else replace(item, seconds=float(seconds))
            for item, seconds in zip(utterances, self._seconds, strict=True)
        ]
        super().__init__(known, name, mixture)
        self._failed |= torch.from_numpy(self._inputs[:, 0] == 0)

    def set_epoch(self, epoch: int) -> None:
        """Which copies the clips come in from now on."""
        self.epoch = epoch

    def costs(self, seconds_per_byte: float = SECONDS_PER_BYTE) -> np.ndarray:
        """As in a `SpeechDataset`; of its copies the longest counts for a clip."""
        shortest = self._seconds[self._seconds > 0].min()
        text = [seconds_per_byte * len(item.text.encode()) for item in self.utterances]
        return np.stack([np.maximum(self._seconds, shortest), np.array(text)], axis=1)

    def __getstate__(self) -> dict[str, Any]:
        """Without the mapped files: a worker process maps them itself."""
        return {**self.__dict__, "_tables": None}

    def _find(self, utterances: Sequence[Utterance], name: str, dropped: set[tuple]) -> None:
        """Where in the parts every clip lies, by its source, or else by its sound."""
        by_source: dict[str, str] = {}
        by_sound: dict[tuple[str, int], tuple[int, int, int]] = {}
        for table, row, fields in known_rows(self._opened()):
            by_source[fields["source"]] = fields["audio_hash"]
            if fields["held"]:
                by_sound[fields["audio_hash"], fields["copy"]] = (table, row, fields["inputs"])
        read, missing = 0, []
        for place, utterance in enumerate(utterances):
            source = source_key(utterance)
            key = by_source.get(source) if source else None
            if key is None and drop_key(utterance) in dropped:
                continue
            if key is None:
                read, key = read + 1, _heard(utterance)
            found = [by_sound.get((key or "", copy)) for copy in range(self.copies)]
            if None in found:
                missing.append(utterance.name)
                continue
            self._rows[place] = [entry[:2] for entry in found if entry]
            self._inputs[place] = [entry[2] for entry in found if entry]
        if read:
            logger.info("%s: %d clips lie elsewhere than when they were cached, and were read", name, read)
        if missing:
            raise ValueError(
                f"{name}: the feature cache in {self.folder} lacks {len(missing)} of "
                f"{len(utterances)} clips, {missing[0]} first (new or changed, or caching "
                "was interrupted): run cache-features again"
            )
        if not self._inputs.any():
            raise ValueError(
                f"{name}: none of its {len(utterances)} clips could be cached; see {self.folder}"
            )

    def _read(self, index: int) -> Item | None:
        if self._failed[index]:
            return None
        table, row = self._rows[index, self.epoch % self.copies].tolist()
        stored = self._opened()[table]
        scales = stored["scales"][row].as_buffer()
        states = np.frombuffer(stored["states"][row].as_buffer(), dtype=STORAGES[self.storage].kind)
        item = item_of(self.utterances[index], np.zeros(0, dtype=np.float32))
        del item["audio"]
        return item | {
            "encoder_states": states.reshape(-1, self.width),
            "scales": None if scales is None else np.frombuffer(scales, dtype=np.float32),
            "feature_length": int(self._inputs[index, self.epoch % self.copies]),
            "seconds": float(self._seconds[index]),
        }

    def _opened(self) -> list[Any]:
        if self._tables is None:
            self._tables = [open_part(path) for path in self._paths]
        return self._tables


def _heard(utterance: Utterance) -> str | None:
    """The key of a sound that has to be read; `None` where it can't be."""
    try:
        return audio_hash(read_sound(utterance))
    except (ValueError, OSError):
        return None
