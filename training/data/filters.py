"""Which utterances are trained on: the rest is counted by reason, and the first few of each are named."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from tqdm.auto import tqdm

from .cleaning import check_rules, clean_text
from .normalisers import normaliser
from .sounds import SAMPLING_RATE, read_sound, sound_seconds
from .utterances import Utterance

logger = logging.getLogger(__name__)

REASONS = (
    "unreadable",
    "not finite",
    "empty text",
    "damaged text",
    "refused text",
    "long text",
    "too short",
    "too long",
    "too few characters a second",
    "too many characters a second",
    "sentence of an evaluation set",
    "not in this set",
)
NAMED_PER_REASON = 3
PROGRESS_FROM = 2000


@dataclass(frozen=True)
class FilterSettings:
    """Limits of what is kept; None is no limit."""

    min_seconds: float | None = 0.2
    max_seconds: float | None = 30.0
    max_characters: int | None = None
    # Outside of these a transcript belongs to another clip: speech has some 4 (Chinese) to 25 a second.
    min_characters_per_second: float | None = 0.3
    max_characters_per_second: float | None = 35.0
    # An empty transcript says "nobody speaks": a target worth training on, if the corpus means it.
    keep_silence: bool = False
    # Decode every clip now rather than find the broken ones on the way.
    check_audio: bool = False


class DropReport:
    """Counts of what a set lost. Shared with worker processes, whose drops are counted here too."""

    def __init__(self, name: str = "data"):
        self.name = name
        self._counts = torch.zeros(len(REASONS), dtype=torch.int64).share_memory_()
        self._kept = torch.zeros(2, dtype=torch.float64).share_memory_()

    @property
    def dropped(self) -> dict[str, int]:
        """Reason -> clips, of the reasons that occurred."""
        counts = zip(REASONS, self._counts.tolist(), strict=True)
        return {reason: count for reason, count in counts if count}

    @property
    def kept(self) -> int:
        return int(self._kept[0])

    @property
    def hours(self) -> float:
        return float(self._kept[1]) / 3600

    def drop(self, reason: str, utterance: Utterance, detail: str = "") -> None:
        """Count one clip; the first few of each reason are named in the log."""
        index = REASONS.index(reason)
        self._counts[index] += 1
        if self._counts[index] <= NAMED_PER_REASON:
            more = f": {detail}" if detail else ""
            logger.warning("%s: %s is left out: %s%s", self.name, utterance.name, reason, more)

    def keep(self, seconds: float | None) -> None:
        self._kept += torch.tensor([1.0, seconds or 0.0], dtype=torch.float64)

    def line(self) -> str:
        """The whole report in one line."""
        lost = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items()) or "none"
        total = sum(self.dropped.values())
        return f"{self.name}: {self.kept} clips, {self.hours:.2f} h kept; {total} dropped ({lost})"


def text_problem(
    utterance: Utterance, settings: FilterSettings, rules: Sequence[str], barred: Collection[str] = ()
) -> tuple[Utterance, str | None]:
    """The utterance with its text cleaned, and why its text disqualifies it, if it does."""
    text, reason = clean_text(utterance.text, rules)
    utterance = replace(utterance, text=text)
    if reason is None and not text and not settings.keep_silence:
        reason = "empty text"
    elif reason is None and settings.max_characters is not None and len(text) > settings.max_characters:
        reason = "long text"
    elif reason is None and barred and text and sentence_key(text) in barred:
        reason = "sentence of an evaluation set"
    return utterance, reason


def length_problem(text: str, seconds: float, settings: FilterSettings) -> str | None:
    """Why a clip of this length disqualifies itself, if it does."""
    rate = len(text) / seconds if seconds > 0 else 0.0
    # Silence is as long as it is.
    slowest = settings.min_characters_per_second if text else None
    limits = (
        ("too short", settings.min_seconds is not None and seconds < settings.min_seconds),
        ("too long", settings.max_seconds is not None and seconds > settings.max_seconds),
        ("too few characters a second", slowest is not None and rate < slowest),
        ("too many characters a second", _above(rate, settings.max_characters_per_second)),
    )
    return next((reason for reason, exceeded in limits if exceeded), None)


def filter_utterances(
    utterances: Sequence[Utterance],
    settings: FilterSettings | None = None,
    rules: Iterable[str] = (),
    report: DropReport | None = None,
    barred: Collection[str] = (),
) -> list[Utterance]:
    """Those that can be used, with clean texts and known lengths; `report` counts the others.

    `barred`: keys (`sentence_key`) of sentences that must not occur, those of evaluation sets.
    """
    settings, rules = settings or FilterSettings(), check_rules(rules)
    report = report or DropReport()
    kept = []
    for utterance in tqdm(utterances, desc=report.name, disable=len(utterances) < PROGRESS_FROM):
        utterance, reason = text_problem(utterance, settings, rules, barred)
        detail = utterance.text[:60]
        if reason is None:
            utterance, reason, detail = _measured(utterance, settings)
        if reason is not None:
            report.drop(reason, utterance, detail)
            continue
        report.keep(utterance.seconds)
        kept.append(utterance)
    logger.info(report.line())
    return kept


def sentence_key(text: str) -> str:
    """What makes two transcripts the same sentence."""
    return normaliser("basic")(text)


def reading_problem(error: Exception) -> str:
    """The reason under which a clip that could not be read is counted."""
    return "not finite" if "its samples are" in str(error) else "unreadable"


def _measured(utterance: Utterance, settings: FilterSettings) -> tuple[Utterance, str | None, str]:
    try:
        if settings.check_audio:
            utterance = replace(utterance, seconds=len(read_sound(utterance)) / SAMPLING_RATE)
        elif utterance.seconds is None:
            utterance = replace(utterance, seconds=sound_seconds(utterance))
    except (ValueError, OSError) as error:
        return utterance, reading_problem(error), str(error)
    seconds = utterance.seconds or 0.0
    return utterance, length_problem(utterance.text, seconds, settings), f"{seconds:.2f} s"


def _above(value: float, limit: float | None) -> bool:
    return limit is not None and value > limit
