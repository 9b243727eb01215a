"""Filters by Fourier transform, for whole clips."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=4096)
def fast_length(length: int) -> int:
    """The next length whose only factors are 2, 3 and 5: the transform of others is several times slower."""
    # length / odd, rounded up to a power of two, for every odd factor worth a try
    return min(odd << max(-(-length // odd) - 1, 0).bit_length() for odd in (1, 3, 5, 9, 15, 25, 27))


def convolved(waveform: np.ndarray, response: np.ndarray) -> np.ndarray:
    """`[n]`: the first `n` samples of `waveform` `[n]` filtered by `response` `[m]`."""
    size = fast_length(len(waveform) + len(response))
    spectrum = np.fft.rfft(waveform, size) * np.fft.rfft(response, size)
    return np.fft.irfft(spectrum, size)[: len(waveform)].astype(np.float32)


def band_limited(waveform: np.ndarray, sampling_rate: int, low_hz: float, high_hz: float) -> np.ndarray:
    """`[n]` without what lies outside the band; 30 dB down a quarter of an octave beyond either edge."""
    # Room for the filter to ring in, or the end would be heard at the beginning.
    size = fast_length(len(waveform) + sampling_rate // 10)
    frequencies = np.maximum(np.fft.rfftfreq(size, 1 / sampling_rate), 1e-3)
    gain = _edge(np.log2(low_hz / frequencies)) * _edge(np.log2(frequencies / high_hz))
    return np.fft.irfft(np.fft.rfft(waveform, size) * gain, size)[: len(waveform)].astype(np.float32)


def _edge(octaves_beyond: np.ndarray) -> np.ndarray:
    """1 inside, 0 from a quarter of an octave beyond the edge on, a cosine between."""
    return 0.5 + 0.5 * np.cos(np.pi * np.clip(octaves_beyond * 4, 0, 1))
