"""How loud speech and noise are, and how they are brought to a ratio.

Every level is an *active* level: the mean power of the 20 ms frames within 30 dB of the loudest 100 ms.
Silence around speech, or between the bursts of a noise, then changes no ratio.
"""

from __future__ import annotations

import math

import numpy as np

FRAMES_PER_SECOND = 50
# Frames under the loudest stretch: a click is no measure of how loud speech is.
LOUDEST_FRAMES = 5
ACTIVE_RANGE_DB = 30.0
# What speech is taken to measure where there is none: noise on silence is then as loud as elsewhere.
SPEECH_POWER = 10 ** (-26 / 10)
LOWEST_SNR_DB, HIGHEST_SNR_DB = -20.0, 60.0


def active_power(waveform: np.ndarray, sampling_rate: int) -> float:
    """Mean power of the frames of `[n]` in which there is something; 0 for silence."""
    hop = max(1, sampling_rate // FRAMES_PER_SECOND)
    padded = np.zeros(-(-len(waveform) // hop) * hop, np.float64)
    padded[: len(waveform)] = waveform
    energies = np.square(padded).reshape(-1, hop).sum(axis=1)  # frames
    if not energies.any():
        return 0.0
    # The last frame may be short, so power is energy over the samples that are there.
    sizes = np.full(len(energies), hop)
    sizes[-1] = len(waveform) - hop * (len(energies) - 1)
    powers = energies / sizes
    stretch = min(LOUDEST_FRAMES, len(powers))
    loudest = np.convolve(powers, np.full(stretch, 1 / stretch), mode="valid").max()
    active = powers >= loudest * 10 ** (-ACTIVE_RANGE_DB / 10)
    return float(energies[active].sum() / sizes[active].sum())


def decibels(power_ratio: float) -> float:
    """`10 log10`, minus infinity for nothing."""
    return 10 * math.log10(power_ratio) if power_ratio > 0 else -math.inf


def measured_snr(speech: np.ndarray, noise: np.ndarray, sampling_rate: int) -> float:
    """dB between the active levels of speech `[n]` and noise `[n]`; infinite where there is no noise."""
    noise_power = active_power(noise, sampling_rate)
    if noise_power == 0:
        return math.inf
    return decibels(active_power(speech, sampling_rate) / noise_power)


def noise_at(snr_db: float, speech: np.ndarray, noise: np.ndarray, sampling_rate: int) -> np.ndarray:
    """`noise` `[n]` scaled to lie `snr_db` below `speech`, or below ordinary speech where that is silent."""
    noise_power = active_power(noise, sampling_rate)
    if noise_power == 0:
        return np.zeros_like(noise)
    speech_power = active_power(speech, sampling_rate) or SPEECH_POWER
    return (noise * math.sqrt(speech_power / noise_power * 10 ** (-snr_db / 10))).astype(np.float32)


def check_snr(name: str, snr_db: float) -> None:
    """Raise `ValueError` for a ratio at which there is nothing left to hear, or nothing mixed in."""
    if not LOWEST_SNR_DB <= snr_db <= HIGHEST_SNR_DB:
        raise ValueError(f"{name} is {snr_db} dB; a sane ratio is {LOWEST_SNR_DB:g} to {HIGHEST_SNR_DB:g} dB")
