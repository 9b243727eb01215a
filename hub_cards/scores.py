"""Numbers of an evaluation in one form, wherever they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# What a card shows as shares; the rest of what an evaluation counts is in its file.
METRICS = {"wer": "WER", "cer": "CER"}
OTHER_RATES = {"repetition_rate": "texts that repeat themselves", "empty_rate": "texts that are empty"}


@dataclass(frozen=True)
class Score:
    """A share with its confidence interval: of a whole set, of one language in it, or under one noise."""

    set: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    clips: int | None = None
    language: str | None = None
    noise: str | None = None
    snr_db: float | None = None

    def percent(self) -> str:
        """ "21.3 (18.0–24.1)"."""
        told = f"{100 * self.value:.1f}"
        if self.low is None or self.high is None:
            return told
        return f"{told} ({100 * self.low:.1f}–{100 * self.high:.1f})"


@dataclass(frozen=True)
class Evaluation:
    """Scores, and where they come from.

    `by_training`: counted by the run itself, on the sets by which it chose its best step.
    """

    scores: list[Score]
    by_training: bool
    normaliser: str | None = None
    # Set -> where it is on the Hub: keys `id`, `config`, `split`, `revision`.
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    # What went worst: `set`, `said`, `heard`, `wer`.
    worst: list[dict[str, Any]] = field(default_factory=list)
    other_rates: dict[str, dict[str, float]] = field(default_factory=dict)
    # When it was made, ISO 8601.
    date: str | None = None
    # How likely a rate lies in its interval.
    confidence: float | None = None

    @property
    def whole_sets(self) -> list[Score]:
        return [one for one in self.scores if one.language is None and one.noise is None]

    @property
    def languages(self) -> list[Score]:
        return [one for one in self.scores if one.language is not None]

    @property
    def noisy(self) -> list[Score]:
        return [one for one in self.scores if one.noise is not None]


def training_evaluation(results: Mapping[str, Any]) -> Evaluation | None:
    """What a run counted on its own evaluation sets; without intervals."""
    metrics, data = results.get("metrics") or {}, results.get("data") or {}
    scores = [
        Score(name, metric, float(values[metric]), clips=data.get("clips", {}).get(f"eval {name}"))
        for name, values in metrics.items()
        for metric in METRICS
        if isinstance(values.get(metric), (int, float))
    ]
    if not scores:
        return None
    rates = {
        name: {rate: float(values[rate]) for rate in OTHER_RATES if rate in values}
        for name, values in metrics.items()
    }
    return Evaluation(scores, True, data.get("normaliser"), other_rates=rates, date=results.get("began"))
