"""Long audio in pieces that a model can take, cut where it is quietest, while it is being read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

HOP_SECONDS = 0.02
# Hops under one energy value: 100 ms bridge the closure of a plosive, which is silent but in mid-word.
SMOOTHED_HOPS = 5
# No encoder makes much of less; a shorter rest is never cut off.
SHORTEST_SECONDS = 0.1


# Without `eq`: comparing arrays gives arrays.
@dataclass(frozen=True, eq=False)
class Segment:
    """A stretch of audio `[n]` and where it lies in its source, in seconds."""

    waveform: np.ndarray
    start: float
    end: float

    @property
    def duration(self) -> float:
        return self.end - self.start

    @property
    def level_db(self) -> float:
        """RMS level in dB below full scale; minus infinity for digital silence."""
        power = float(np.mean(np.square(self.waveform, dtype=np.float64))) if len(self.waveform) else 0.0
        return 10 * math.log10(power) if power > 0 else -math.inf


def split_audio(
    blocks: Iterable[np.ndarray],
    sampling_rate: int,
    limit_seconds: float,
    search_seconds: float | None = None,
) -> Iterator[Segment]:
    """Join `blocks` `[any length]` into contiguous segments of at most `limit_seconds`.

    Audio within the limit is one segment. Longer audio is cut at the quietest point of the last
    `search_seconds` (default: a quarter of the limit) before each limit.
    """
    limit = round(limit_seconds * sampling_rate) if limit_seconds > 0 else 0
    if limit < 2:
        raise ValueError(
            f"segments of {limit_seconds} s at {sampling_rate} Hz hold nothing; give a longer limit"
        )
    if search_seconds is not None and search_seconds < 0:
        raise ValueError(f"search_seconds is {search_seconds}; give 0 or more")
    search = limit // 4 if search_seconds is None else round(search_seconds * sampling_rate)
    shortest = min(round(SHORTEST_SECONDS * sampling_rate), limit // 4)

    parts: list[np.ndarray] = []
    held = offset = 0
    # With so much at hand a cut is safe: what is left is never too short, and no later sample changes it.
    enough = limit + max(shortest, 1)
    for part in _in_parts(blocks, limit):
        parts.append(part)
        held += len(part)
        if held < enough:
            continue
        pending = np.concatenate(parts)
        parts.clear()
        while len(pending) >= enough:
            cut = _quietest(pending[:enough], sampling_rate, limit - search, limit, shortest)
            yield _segment(pending[:cut].copy(), offset, sampling_rate)
            pending, offset = pending[cut:], offset + cut
        parts, held = [pending.copy()], len(pending)
        del pending  # or it would keep what it was cut from until the next join

    if held:
        rest = np.concatenate(parts)
        if held > limit:
            # Less than `shortest` above the limit: the cut moves forward to leave that much.
            cut = _quietest(rest, sampling_rate, limit - search, held - max(shortest, 1), shortest)
            yield _segment(rest[:cut], offset, sampling_rate)
            rest, offset = rest[cut:], offset + cut
        yield _segment(rest, offset, sampling_rate)


def _in_parts(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Blocks of at most `size`: joining an hour that comes in one block would copy it at every cut."""
    for block in blocks:
        for start in range(0, len(block), size):
            yield block[start : start + size]


def _segment(waveform: np.ndarray, offset: int, sampling_rate: int) -> Segment:
    return Segment(waveform, offset / sampling_rate, (offset + len(waveform)) / sampling_rate)


def _quietest(samples: np.ndarray, sampling_rate: int, earliest: int, latest: int, shortest: int) -> int:
    """Where in `[earliest, latest]` the energy around is lowest; the latest of equals."""
    earliest = min(max(earliest, shortest, 1), latest)
    hop = max(round(HOP_SECONDS * sampling_rate), 1)
    # From so far before the earliest cut that a full window lies around it.
    first = max(earliest - hop * SMOOTHED_HOPS // 2, 0)
    region = samples[first : latest + hop * SMOOTHED_HOPS // 2].astype(np.float64)
    hops = len(region) // hop
    if hops < SMOOTHED_HOPS:
        return latest
    energies = np.square(region[: hops * hop]).reshape(hops, hop).sum(axis=1)
    # Sums of sums, not differences of a running total: silence stays exactly 0, and equals stay equal.
    smoothed = np.lib.stride_tricks.sliding_window_view(energies, SMOOTHED_HOPS).sum(axis=1)
    cuts = first + hop * np.arange(len(smoothed)) + hop * SMOOTHED_HOPS // 2
    allowed = (cuts >= earliest) & (cuts <= latest)
    if not allowed.any():
        return latest
    smoothed, cuts = smoothed[allowed], cuts[allowed]
    return int(cuts[len(cuts) - 1 - int(smoothed[::-1].argmin())])
