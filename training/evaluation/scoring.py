"""From texts to errors of every clip, and from those to rates of any group of clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from speechllm.training.data.normalisers import Normaliser, normaliser
from speechllm.training.data.utterances import Utterance

from ..recognition_errors import jiwer, repeats_itself, share
from .bootstrap import Interval, rate_interval, rates
from .provider_base import Heard
from .running import Run

HITS, SUBSTITUTIONS, DELETIONS, INSERTIONS = range(4)
KINDS = {"equal": HITS, "substitute": SUBSTITUTIONS, "delete": DELETIONS, "insert": INSERTIONS}
ALIGNERS: dict[str, Callable[..., Any]] = {
    "words": jiwer.process_words,
    "characters": jiwer.process_characters,
}
# Written without spaces: what counts as a word is nobody's guess, and characters are compared.
UNSPACED_LANGUAGES = frozenset(["zh", "yue", "ja", "th", "lo", "my", "km", "bo"])
# Name -> seconds from, and up to.
LENGTHS = {
    "0-2 s": (0.0, 2.0),
    "2-5 s": (2.0, 5.0),
    "5-10 s": (5.0, 10.0),
    "10-20 s": (10.0, 20.0),
    "20-30 s": (20.0, 30.0),
    "over 30 s": (30.0, float("inf")),
}
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Normalisers:
    """One normaliser for all languages, and others for single ones."""

    default: Normaliser = field(default_factory=lambda: normaliser("basic"))
    special: Mapping[str, Normaliser] = field(default_factory=dict)

    @classmethod
    def named(cls, names: Sequence[str]) -> Normalisers:
        """From `basic` or `basic/1`, and any number of `zh=chinese`."""
        default, special = "basic", {}
        for name in names:
            language, separator, chosen = name.rpartition("=")
            if separator:
                special[language] = normaliser(chosen)
            else:
                default = chosen
        return cls(normaliser(default), special)

    def of(self, language: str | None) -> Normaliser:
        return self.special.get(language or "", self.default)

    def facts(self) -> dict[str, dict[str, str | int]]:
        """Names and versions, of all languages under "default"."""
        chosen = {"default": self.default, **self.special}
        return {language: {"name": one.name, "version": one.version} for language, one in chosen.items()}

    def __str__(self) -> str:
        return ", ".join([str(self.default), *(f"{name}: {one}" for name, one in self.special.items())])


@dataclass(frozen=True)
class JudgedClips:
    """Clips with what one system made of them, and its errors: rows of equal length."""

    utterances: tuple[Utterance, ...]
    heard: tuple[Heard, ...]
    seconds: np.ndarray  # [n]
    said_texts: tuple[str, ...]  # normalised
    heard_texts: tuple[str, ...]
    words: np.ndarray  # [n, 4]: hits, substitutions, deletions, insertions
    characters: np.ndarray  # [n, 4]

    def __len__(self) -> int:
        return len(self.utterances)

    def take(self, places: Sequence[int] | np.ndarray) -> JudgedClips:
        """The clips at these places."""
        rows = [int(place) for place in places]
        return JudgedClips(
            tuple(self.utterances[row] for row in rows),
            tuple(self.heard[row] for row in rows),
            self.seconds[rows],
            tuple(self.said_texts[row] for row in rows),
            tuple(self.heard_texts[row] for row in rows),
            self.words[rows],
            self.characters[rows],
        )

    @property
    def answered(self) -> np.ndarray:
        """Whether each clip was recognized at all, `[n]`."""
        return np.array([heard.error is None for heard in self.heard], dtype=bool)

    @property
    def unspaced(self) -> bool:
        """Whether characters are what their error rate should be read in."""
        return bool(self.utterances) and all(
            (item.language or "") in UNSPACED_LANGUAGES for item in self.utterances
        )


@dataclass(frozen=True)
class Score:
    """Error rates of a group of clips with their intervals; failed clips are counted and in no rate."""

    clips: int
    failed: int
    seconds: float
    said_words: int
    said_characters: int
    # None where no clip was answered.
    wer: float | None
    wer_interval: Interval | None
    cer: float | None
    cer_interval: Interval | None
    substitutions: int
    deletions: int
    insertions: int
    # Clips in which nothing is said, and words that were heard in them.
    silent_clips: int
    words_in_silence: int
    repetition_rate: float
    empty_rate: float
    # "wer", or "cer" for languages written without spaces.
    measure: str

    @property
    def rate(self) -> float | None:
        return self.cer if self.measure == "cer" else self.wer

    @property
    def interval(self) -> Interval | None:
        return self.cer_interval if self.measure == "cer" else self.wer_interval


def judge_run(utterances: Sequence[Utterance], run: Run, normalisers: Normalisers) -> JudgedClips:
    """Normalised texts and errors of a run."""
    ways = [normalisers.of(item.language) for item in utterances]
    said = [way(item.text) for way, item in zip(ways, utterances, strict=True)]
    heard = [way(one.text) for way, one in zip(ways, run.heard, strict=True)]
    return JudgedClips(
        tuple(utterances),
        run.heard,
        np.array(run.seconds, dtype=float),
        tuple(said),
        tuple(heard),
        clip_counts(heard, said, "words"),
        clip_counts(heard, said, "characters"),
    )


def joined(parts: Sequence[JudgedClips]) -> JudgedClips:
    """The clips of several sets as those of one."""
    return JudgedClips(
        tuple(item for part in parts for item in part.utterances),
        tuple(one for part in parts for one in part.heard),
        np.concatenate([part.seconds for part in parts]),
        tuple(text for part in parts for text in part.said_texts),
        tuple(text for part in parts for text in part.heard_texts),
        np.concatenate([part.words for part in parts]),
        np.concatenate([part.characters for part in parts]),
    )


def clip_counts(heard: Sequence[str], said: Sequence[str], unit: str) -> np.ndarray:
    """Hits, substitutions, deletions and insertions of every clip, `[n, 4]`; `unit`: words or characters."""
    counts = np.zeros((len(said), 4), dtype=np.int64)
    spoken = [place for place, text in enumerate(said) if text.strip()]
    # jiwer takes no empty reference: what is heard in silence is all insertions.
    for place in {*range(len(said))} - {*spoken}:
        counts[place, INSERTIONS] = (
            len(heard[place].split()) if unit == "words" else len(heard[place].strip())
        )
    if spoken:
        aligned = ALIGNERS[unit]([said[place] for place in spoken], [heard[place] for place in spoken])
        for place, chunks in zip(spoken, aligned.alignments, strict=True):
            for chunk in chunks:
                # An insertion has no length in what was said.
                length = max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
                counts[place, KINDS[chunk.type]] += length
    return counts


def errors_of(counts: np.ndarray) -> np.ndarray:
    """Errors of each clip, `[n]`."""
    return counts[:, SUBSTITUTIONS] + counts[:, DELETIONS] + counts[:, INSERTIONS]


def said_of(counts: np.ndarray) -> np.ndarray:
    """Words or characters said in each clip, `[n]`."""
    return counts[:, HITS] + counts[:, SUBSTITUTIONS] + counts[:, DELETIONS]


def score(clips: JudgedClips, resamples: int, seed: int) -> Score:
    """The rates of all clips together."""
    failed = int((~clips.answered).sum())
    clips = clips.take(np.flatnonzero(clips.answered))
    found: dict[str, Any] = {}
    for name, counts in (("wer", clips.words), ("cer", clips.characters)):
        errors, said = errors_of(counts), said_of(counts)
        found[name] = float(rates(errors.sum(), said.sum())) if len(clips) else None
        found[f"{name}_interval"] = rate_interval(errors, said, resamples, seed)
    silent = said_of(clips.words) == 0
    spoken = [text for text, is_silent in zip(clips.heard_texts, silent, strict=True) if not is_silent]
    totals = clips.words.sum(axis=0)
    return Score(
        clips=len(clips),
        failed=failed,
        seconds=float(clips.seconds.sum()),
        said_words=int(said_of(clips.words).sum()),
        said_characters=int(said_of(clips.characters).sum()),
        substitutions=int(totals[SUBSTITUTIONS]),
        deletions=int(totals[DELETIONS]),
        insertions=int(totals[INSERTIONS]),
        silent_clips=int(silent.sum()),
        words_in_silence=int(clips.words[silent, INSERTIONS].sum()),
        repetition_rate=share(map(repeats_itself, clips.heard_texts)),
        empty_rate=share(not text.strip() for text in spoken),
        measure="cer" if clips.unspaced else "wer",
        **found,
    )


def groups_by_language(clips: JudgedClips) -> dict[str, np.ndarray]:
    """Language -> places of its clips, by name."""
    names = np.array([item.language or UNKNOWN for item in clips.utterances])
    return {str(name): np.flatnonzero(names == name) for name in sorted({*names.tolist()})}


def groups_by_length(clips: JudgedClips) -> dict[str, np.ndarray]:
    """ "2-5 s" -> places of its clips, short ones first. Clips that could not be read have no length."""
    found = {
        name: np.flatnonzero((clips.seconds >= low) & (clips.seconds < high) & (clips.seconds > 0))
        for name, (low, high) in LENGTHS.items()
    }
    return {name: places for name, places in found.items() if len(places)}
