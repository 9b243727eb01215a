"""Sets of clips to evaluate on, by name; and their sound, clean or under noise."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from speechllm.configuration.configuration_strict import suggest
from speechllm.training.augmentation.levels import check_snr
from speechllm.training.augmentation.noise_sounds import NEED_A_CORPUS, NEED_A_FOLDER
from speechllm.training.augmentation.noise_sweep import CLEAN, SWEEP_SNRS, SWEEP_SOUNDS, noisy_copies
from speechllm.training.augmentation.sound_folder import open_folder
from speechllm.training.data.sounds import SAMPLING_RATE, read_sound
from speechllm.training.data.sources import load_source, source_from
from speechllm.training.data.utterances import Utterance

from .provider_base import file_states
from .systems import check_name, name_of

Sound = Callable[[int], np.ndarray]
# Babble reads the same few clips again and again.
CLIPS_KEPT = 64


@dataclass(frozen=True)
class EvaluationSet:
    """Clips that are scored together."""

    name: str
    origin: str
    utterances: tuple[Utterance, ...]
    # All of the manifest, also what a limit or a choice of languages left out: what babble is made of.
    neighbours: tuple[Utterance, ...]
    split: str | None = None

    def facts(self) -> dict[str, Any]:
        """What results say of it."""
        languages = Counter(item.language or "unknown" for item in self.utterances)
        return {
            "origin": self.origin,
            "split": self.split,
            "clips": len(self.utterances),
            "clips_in_manifest": len(self.neighbours),
            "clips_without_words": sum(not item.text.strip() for item in self.utterances),
            "languages": dict(sorted(languages.items())),
            # Of names, texts and sizes, not of places and dates: the same on every machine.
            "fingerprint": fingerprint([_facts(item) for item in self.utterances]),
        }


@dataclass(frozen=True)
class NoiseSweep:
    """Which noises at which ratios, over how many clips of each set (None: all)."""

    kinds: tuple[str, ...] = ("white", "babble")
    snrs: tuple[float, ...] = SWEEP_SNRS
    clips: int | None = None
    folder: str | None = None
    # Clips that babble and competing speech are made of; None: the other clips of the same set.
    babble: tuple[Utterance, ...] | None = None

    def __post_init__(self):
        for kind in self.kinds:
            if kind not in SWEEP_SOUNDS:
                raise ValueError(f"unknown noise {kind!r}; {suggest(kind, SWEEP_SOUNDS)}")
        for snr_db in self.snrs:
            if snr_db != CLEAN:
                check_snr("--snr", snr_db)
        if (self.folder is not None) != bool(NEED_A_FOLDER & {*self.kinds}):
            raise ValueError("--noise files and --noise-folder go together")
        if self.folder is not None:
            open_folder("--noise-folder", self.folder)

    def conditions(self) -> list[Condition]:
        """Every noise at every ratio; what is clean is the same under all of them, and no condition."""
        noisy = [snr_db for snr_db in self.snrs if snr_db != CLEAN]
        return [Condition(kind, snr_db) for kind in self.kinds for snr_db in noisy]


@dataclass(frozen=True)
class Condition:
    """One noise at one ratio."""

    noise: str
    snr_db: float

    @property
    def name(self) -> str:
        return f"{self.noise}@{self.snr_db:g}dB"


def read_set(
    text: str, limit: int | None = None, languages: Sequence[str] | None = None, columns: Any = None
) -> EvaluationSet:
    """`test.jsonl`, `NAME=test.jsonl`, or, for a corpus of any kind, `NAME=preset=fleurs,language=it`."""
    name, fields = _named_source(text)
    source = source_from({**fields, **({"columns": columns} if columns else {})}, default_split="test")
    everything = load_source(source)
    chosen = [item for item in everything if languages is None or item.language in languages]
    if not chosen:
        there = sorted({item.language or "unknown" for item in everything})
        wanted = f"in {', '.join(languages or ())}; there are {', '.join(there)}" if there else "at all"
        raise ValueError(f"{name}: there are no clips {wanted}")
    check_name("set", name)
    origin = fields.get("path") or text.partition("=")[2]
    split = source.split or (Path(origin).stem if source.kind == "manifest" else None)
    return EvaluationSet(name, origin, tuple(chosen[:limit]), tuple(everything), split)


def _named_source(text: str) -> tuple[str, dict[str, str]]:
    """The name of a set, and the fields of its source."""
    name, separator, rest = text.partition("=")
    if not separator or Path(text).exists():
        return name_of(str(Path(text).with_suffix(""))), {"path": text}
    if "=" not in rest:
        return name, {"path": rest}
    fields: dict[str, str] = {}
    for part in rest.split(","):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"--data {text}: {part!r} is no key=value of a data source")
        fields[key.strip()] = value.strip()
    return name, fields


def clean_sound(chosen: EvaluationSet) -> Sound:
    """Clip `index` of the set as it is."""
    return lambda index: read_sound(chosen.utterances[index])


def noisy_sound(chosen: EvaluationSet, condition: Condition, sweep: NoiseSweep, seed: int) -> Sound:
    """Clip `index` of the set at exactly the condition's ratio. A clip has the same stretch of noise at every
    ratio, in every run, whatever other clips are evaluated."""
    voices = SoundList(chosen.neighbours if sweep.babble is None else sweep.babble)

    def sound(index: int) -> np.ndarray:
        utterance = chosen.utterances[index]
        copies = noisy_copies(
            read_sound(utterance),
            condition.noise,
            [condition.snr_db],
            seed,
            zlib.crc32(utterance.name.encode()),
            SAMPLING_RATE,
            voices if condition.noise in NEED_A_CORPUS else None,
            sweep.folder if condition.noise in NEED_A_FOLDER else None,
        )
        return copies[condition.snr_db]

    return sound


class SoundList(Sequence):
    """The sounds of utterances, read when asked for; the last few are kept."""

    def __init__(self, utterances: Sequence[Utterance]):
        self.utterances = utterances
        self._read = lru_cache(CLIPS_KEPT)(partial(_sound_at, utterances))

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: Any) -> Any:
        return self._read(index)


def _sound_at(utterances: Sequence[Utterance], index: int) -> np.ndarray:
    return read_sound(utterances[index])


def sound_identity(
    chosen: EvaluationSet, condition: Condition | None, sweep: NoiseSweep | None, seed: int
) -> dict[str, Any]:
    """All that the sounds of a set depend on. Not their texts, which may be mended afterwards."""
    identity: dict[str, Any] = {"clips": fingerprint([_state(item) for item in chosen.utterances])}
    if condition is None or sweep is None:
        return identity
    identity |= {"noise": condition.noise, "snr_db": condition.snr_db, "seed": seed}
    if condition.noise in NEED_A_CORPUS:
        voices = chosen.neighbours if sweep.babble is None else sweep.babble
        identity["voices"] = fingerprint([_state(item) for item in voices])
    if condition.noise in NEED_A_FOLDER:
        identity["files"] = fingerprint(file_states(sweep.folder or ""))
    return identity


def _facts(item: Utterance) -> list[Any]:
    return [item.name, item.text, item.language, [size for _, size, _ in file_states(item.audio)]]


def _state(item: Utterance) -> list[Any]:
    place = [item.extra.get("offset"), item.seconds] if "offset" in item.extra else []
    return [item.audio, item.name, item.language, *place, file_states(item.audio)]


def fingerprint(value: Any) -> str:
    """A short hash of plain values."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
