"""Pieces of speech cut where it is quiet, brought to one level, and joined without a click."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from speechllm.training.data.sounds import SAMPLING_RATE

HOP = SAMPLING_RATE // 50
# Hops under one energy value: 100 ms bridge the closure of a plosive, which is silent in mid-word.
SMOOTHED_HOPS = 5
# RMS of speech as published corpora have it, 26 dB below full scale.
LEVEL = 0.05
PEAK = 0.99


@dataclass(frozen=True, eq=False)
class Piece:
    """Samples `[n]` of one language, what is said in them, and whether that text is only estimated."""

    samples: np.ndarray
    language: str
    text: str
    source: str
    text_is_estimated: bool = False

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLING_RATE


def leveled(samples: np.ndarray) -> np.ndarray:
    """At the common level; digital silence stays what it is."""
    rms = math.sqrt(float(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0
    return samples * np.float32(LEVEL / rms) if rms > 0 else samples


def quietest(samples: np.ndarray, earliest: float, latest: float) -> int:
    """The sample in `[earliest, latest]` seconds with the least energy around it; the first of equals."""
    energies = np.square(samples[: len(samples) // HOP * HOP], dtype=np.float64).reshape(-1, HOP).sum(axis=1)
    smoothed = np.convolve(energies, np.ones(SMOOTHED_HOPS), mode="same")
    first = max(math.ceil(earliest * SAMPLING_RATE / HOP), 1)
    last = min(math.floor(latest * SAMPLING_RATE / HOP), len(smoothed) - 1)
    if first > last:
        return min(round((earliest + latest) / 2 * SAMPLING_RATE), len(samples))
    return (first + int(smoothed[first : last + 1].argmin())) * HOP + HOP // 2


def split_words(text: str, words: list | None, share: float, seconds: float) -> tuple[str, str]:
    """The words before and after a cut at `seconds`, which is `share` of the clip.

    By their middles where the corpus gives `[word, start, end]` for each; otherwise as many as the share of
    the time, which is an estimate.
    """
    if words:
        spoken = [str(word) for word, _, _ in words]
        count = sum((start + end) / 2 < seconds for _, start, end in words)
    else:
        spoken = text.split()
        count = round(share * len(spoken))
    return " ".join(spoken[:count]), " ".join(spoken[count:])


def split_piece(piece: Piece, cut: int, words: list | None = None) -> tuple[Piece, Piece]:
    """Before and after a sample; the texts are exact where the words' times are known."""
    seconds = cut / SAMPLING_RATE
    texts = split_words(piece.text, words, cut / len(piece.samples), seconds)
    before, after = (
        Piece(samples, piece.language, text, piece.source, not words)
        for samples, text in zip((piece.samples[:cut], piece.samples[cut:]), texts, strict=True)
    )
    return before, after


def joined_with_fades(pieces: list[Piece], pauses: list[float], fade: float) -> tuple[np.ndarray, list]:
    """Samples `[n]` of all pieces, and each piece's first and last second in them.

    A pause of 0 overlaps neighbours by `fade` seconds, and their border is the middle of it; otherwise both
    fade into silence.
    """
    width = round(fade * SAMPLING_RATE)
    output = np.zeros(0, dtype=np.float32)
    spans: list[tuple[float, float]] = []
    for piece, pause in zip(pieces, [None, *pauses], strict=True):
        overlap = min(width, len(piece.samples) // 2, len(output) // 2)
        samples = faded(piece.samples, overlap if pause is not None else 0)
        if pause is None:
            start, begins = 0, 0
        elif pause > 0:
            output = faded(output[::-1], overlap)[::-1]
            start = begins = len(output) + round(pause * SAMPLING_RATE)
        else:
            output = faded(output[::-1], overlap)[::-1]
            start = len(output) - overlap
            begins = start + overlap // 2
            spans[-1] = (spans[-1][0], begins / SAMPLING_RATE)
        mixed = np.zeros(start + len(samples), dtype=np.float32)
        mixed[: len(output)] = output
        mixed[start:] += samples
        output = mixed
        spans.append((begins / SAMPLING_RATE, len(output) / SAMPLING_RATE))
    return output, spans


def faded(samples: np.ndarray, width: int) -> np.ndarray:
    """With its first `width` samples faded in; what fades out elsewhere is its complement."""
    if not width:
        return samples
    result = samples.copy()
    result[:width] *= (np.arange(width, dtype=np.float32) + 0.5) / width
    return result
