"""Sounds that are mixed with speech, by name: `[n]` float32 each, at whatever level they come out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .levels import active_power
from .scene import Scene, other_clip
from .sound_folder import SoundFolder

BABBLE_VOICES = 6
MAINS_HZ = (50.0, 60.0)
HUM_HARMONICS = 12
# Under it nothing is heard, and 1/f would put most of the power there.
LOWEST_HZ = 20.0


@dataclass(frozen=True, eq=False)
class NoiseRequest:
    """What is asked of a kind of noise: as much as there is speech in the scene."""

    scene: Scene
    draw: np.random.Generator
    files: SoundFolder | None = None

    @property
    def length(self) -> int:
        return len(self.scene.waveform)


def white_noise(request: NoiseRequest) -> np.ndarray:
    """Equal power at all frequencies."""
    return request.draw.standard_normal(request.length, dtype=np.float32)


def pink_noise(request: NoiseRequest) -> np.ndarray:
    """Power falls as 1/f, 3 dB an octave."""
    return _falling(request, exponent=1.0)


def brown_noise(request: NoiseRequest) -> np.ndarray:
    """Power falls as 1/f², 6 dB an octave: wind, traffic, a ventilator."""
    return _falling(request, exponent=2.0)


def hum_noise(request: NoiseRequest) -> np.ndarray:
    """Mains hum: a low tone and its harmonics, each with its own phase and strength."""
    draw = request.draw
    strengths = draw.uniform(0.2, 1, HUM_HARMONICS) / np.arange(1, HUM_HARMONICS + 1)
    phases = draw.uniform(0, 2 * np.pi, HUM_HARMONICS)
    # A per mille off, as mains are.
    turns = draw.choice(MAINS_HZ) * draw.uniform(0.999, 1.001) / request.scene.sampling_rate
    tone = np.exp(2j * np.pi * turns * np.arange(request.length)).astype(np.complex64)
    # The k-th harmonic is the k-th power of the tone: a polynomial, cheaper than sines.
    hum = np.zeros_like(tone)
    for coefficient in (strengths * np.exp(1j * phases)).astype(np.complex64)[::-1]:
        hum += coefficient
        hum *= tone
    return hum.imag.copy()


def babble_noise(request: NoiseRequest) -> np.ndarray:
    """Several voices of the corpus at once, equally loud, none to be followed."""
    scene, babble = request.scene, np.zeros(request.length, np.float32)
    for _ in range(BABBLE_VOICES):
        voice = other_clip(scene, request.draw)
        power = active_power(voice, scene.sampling_rate)
        babble += looped(voice, request.length, request.draw) / np.float32(power**0.5)
    return babble


def file_noise(request: NoiseRequest) -> np.ndarray:
    """A stretch of one of the folder's files, from anywhere in it."""
    if request.files is None:
        raise ValueError("noise from files was asked for, but there is no folder")
    return request.files.stretch(request.length, request.scene.sampling_rate, request.draw)


def competing_speech(request: NoiseRequest) -> np.ndarray:
    """One other utterance: all of a shorter one somewhere in the clip, or some stretch of a longer one."""
    length, draw = request.length, request.draw
    other = other_clip(request.scene, draw)
    if len(other) >= length:
        start = int(draw.integers(len(other) - length + 1))
        return other[start : start + length]
    start = int(draw.integers(length - len(other) + 1))
    return np.pad(other, (start, length - len(other) - start))


NOISES: dict[str, Callable[[NoiseRequest], np.ndarray]] = {
    "white": white_noise,
    "pink": pink_noise,
    "brown": brown_noise,
    "hum": hum_noise,
    "babble": babble_noise,
    "files": file_noise,
}
NEED_A_CORPUS = frozenset(["babble", "competing_speech"])
NEED_A_FOLDER = frozenset(["files"])


def looped(sound: np.ndarray, length: int, draw: np.random.Generator) -> np.ndarray:
    """`length` samples of `sound` `[m]` from a drawn place on, over and over where it is shorter."""
    start = int(draw.integers(len(sound)))
    return np.take(sound, np.arange(start, start + length), mode="wrap")


def _falling(request: NoiseRequest, exponent: float) -> np.ndarray:
    """Noise whose power falls with frequency to the power of `exponent`."""
    length, draw = request.length, request.draw
    # The spectrum of white noise is white: one transform, not two.
    bins = length // 2 + 1
    spectrum = draw.standard_normal((2, bins), dtype=np.float32)
    frequencies = np.fft.rfftfreq(length, 1 / request.scene.sampling_rate)
    weights = np.maximum(frequencies, LOWEST_HZ) ** (-exponent / 2)
    weights[0] = 0
    noise = np.fft.irfft((spectrum[0] + 1j * spectrum[1]) * weights, length)
    return noise.astype(np.float32)
