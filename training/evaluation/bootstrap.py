"""How sure an error rate is: rates of sets drawn anew from the same clips, with replacement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
# Numbers held at once: drawing 10,000 times from 100,000 clips would take gigabytes.
BLOCK = 4_000_000


@dataclass(frozen=True)
class Interval:
    """Between its ends lies the rate, with a probability of `CONFIDENCE`."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A rate less that of the reference on the same clips: below 0 it is better than the reference."""

    difference: float
    interval: Interval | None
    # Two-sided: how often clips drawn anew would say the opposite, or nothing.
    p: float | None
    clips: int


def rates(errors: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Errors for every word or character said; where nothing was said, 1 if anything was heard, else 0."""
    errors, said = np.asarray(errors, float), np.asarray(said, float)
    return np.where(said > 0, errors / np.maximum(said, 1), errors > 0)


def drawn_sums(columns: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sums `[resamples, k]` of the rows `[n, k]` of as many clips, drawn with replacement.

    The draws depend on `n`, `resamples` and `seed` alone: columns of two systems see the same clips.
    """
    count, generator = len(columns), np.random.default_rng(seed)
    block = max(1, BLOCK // count)
    sums = np.empty((resamples, columns.shape[1]))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = generator.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        sums[start : start + rows] = times @ columns.astype(float)
    return sums


def rate_interval(errors: np.ndarray, said: np.ndarray, resamples: int, seed: int) -> Interval | None:
    """The percentile interval of an error rate over clips `[n]`; None for fewer than two."""
    if len(errors) < 2:
        return None
    sums = drawn_sums(np.stack([errors, said], axis=1), resamples, seed)
    return _interval(rates(sums[:, 0], sums[:, 1]))


def paired_difference(
    errors: np.ndarray, reference: np.ndarray, said: np.ndarray, resamples: int, seed: int
) -> Difference:
    """Of errors `[n]` against the reference's `[n]` on the same clips, in which `said` `[n]` words are."""
    columns = np.stack([errors, reference, said], axis=1)
    total = columns.sum(axis=0)
    difference = float(rates(total[0], total[2]) - rates(total[1], total[2]))
    if len(errors) < 2:
        return Difference(difference, None, None, len(errors))
    sums = drawn_sums(columns, resamples, seed)
    drawn = rates(sums[:, 0], sums[:, 2]) - rates(sums[:, 1], sums[:, 2])
    # One more in both: a p value of 0 would claim more than so many draws can know.
    tails = (np.array([(drawn <= 0).sum(), (drawn >= 0).sum()]) + 1) / (resamples + 1)
    return Difference(difference, _interval(drawn), float(min(1.0, 2 * tails.min())), len(errors))


def _interval(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))
