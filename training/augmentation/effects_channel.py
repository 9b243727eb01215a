"""What microphone, line and file do to sound: speed, gain, clipping, a narrow band, a codec."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import soundfile
from speechllm.processing.audio_resampling import resample

from .effect_fields import Range, between, chosen_from, number, one_of
from .fourier import band_limited
from .scene import Corpus, Effect, Scene, uniform

TELEPHONE_RATE = 8000
MU, A = 255.0, 87.6


@dataclass(frozen=True)
class Speed(Effect):
    """Faster and higher, or slower and lower, as a tape: the clip gets shorter or longer."""

    # Few, as each has a filter of its own: these are Kaldi's.
    factors: tuple[float, ...] = one_of((0.9, 1.1), 0.5, 2.0)
    # A clip that would become longer keeps its speed: Whisper hears no more at once.
    max_seconds: float = number(1.0, 3600.0, 30.0)

    def apply(self, scene: Scene, draw: np.random.Generator) -> Scene:
        factor = self.factors[int(draw.integers(len(self.factors)))]
        if factor < 1 and len(scene.waveform) > factor * self.max_seconds * scene.sampling_rate:
            return scene
        ratio = Fraction(factor).limit_denominator(100)
        return scene.filtered(lambda waveform: resample(waveform, ratio.numerator, ratio.denominator))


@dataclass(frozen=True)
class Gain(Effect):
    """Louder or quieter; no louder than full scale."""

    gain_db: Range = between(-60.0, 60.0, (-15.0, 6.0))

    def apply(self, scene: Scene, draw: np.random.Generator) -> Scene:
        factor = np.float32(10 ** (uniform(draw, self.gain_db) / 20))
        return scene.filtered(lambda waveform: waveform * factor)


@dataclass(frozen=True)
class Clipping(Effect):
    """A microphone overdriven: whatever is within `depth_db` of the peak is cut off."""

    depth_db: Range = between(0.0, 40.0, (3.0, 15.0))

    def apply(self, scene: Scene, draw: np.random.Generator) -> Scene:
        ceiling = np.abs(scene.waveform).max(initial=0) * 10 ** (-uniform(draw, self.depth_db) / 20)
        return scene.distorted(lambda waveform: waveform.clip(-ceiling, ceiling).astype(np.float32))


@dataclass(frozen=True)
class BandLimit(Effect):
    """A telephone, or a poor microphone."""

    low_hz: Range = between(1.0, 2000.0, (100.0, 300.0))
    high_hz: Range = between(2000.0, 24000.0, (3000.0, 4000.0))

    def apply(self, scene: Scene, draw: np.random.Generator) -> Scene:
        low_hz, high_hz = uniform(draw, self.low_hz), uniform(draw, self.high_hz)
        return scene.filtered(lambda waveform: band_limited(waveform, scene.sampling_rate, low_hz, high_hz))


def mu_law(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """8 bits a sample on a logarithmic scale, as telephones in America and Japan."""
    companded = np.log1p(MU * np.abs(waveform)) / np.log1p(MU)
    return _signed(np.expm1(_eight_bits(companded) * np.log1p(MU)) / MU, waveform)


def a_law(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """8 bits a sample on a scale that is logarithmic above a small level, as telephones elsewhere."""
    scale, size = 1 + np.log(A), np.abs(waveform)
    companded = np.where(size < 1 / A, A * size, 1 + np.log(np.maximum(A * size, 1))) / scale
    quantized = _eight_bits(companded) * scale
    expanded = np.where(quantized < 1, quantized / A, np.exp(quantized - 1) / A)
    return _signed(expanded, waveform)


def g711(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """A telephone line: 8000 samples a second, mu-law."""
    narrow = resample(waveform, sampling_rate, TELEPHONE_RATE)
    return resample(mu_law(narrow, TELEPHONE_RATE), TELEPHONE_RATE, sampling_rate)[: len(waveform)]


def mp3(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """About 10 kbit/s at 16 kHz."""
    return _through_file(waveform, sampling_rate, "MP3", "MPEG_LAYER_III", compression=0.8)


def opus(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """About 10 kbit/s at 16 kHz."""
    return _through_file(waveform, sampling_rate, "OGG", "OPUS", compression=0.99)


CODECS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "mu_law": mu_law,
    "a_law": a_law,
    "g711": g711,
    "mp3": mp3,
    "opus": opus,
}
# What libsndfile must have been built with.
SUBTYPES = {"mp3": ("MP3", "MPEG_LAYER_III"), "opus": ("OGG", "OPUS")}


@dataclass(frozen=True)
class Codec(Effect):
    """Through a lossy codec and back: same length, same place in time."""

    kinds: tuple[str, ...] = chosen_from(CODECS, ("mu_law", "a_law", "g711"))

    def check(self, name: str, corpus: Corpus | None) -> None:
        for kind in self.kinds:
            container, subtype = SUBTYPES.get(kind, (None, None))
            if container and subtype not in soundfile.available_subtypes(container):
                version = soundfile.__libsndfile_version__
                raise ValueError(f"{name}: libsndfile {version} on this machine has no encoder for {kind!r}")

    def apply(self, scene: Scene, draw: np.random.Generator) -> Scene:
        codec = CODECS[self.kinds[int(draw.integers(len(self.kinds)))]]
        return scene.distorted(lambda waveform: codec(waveform, scene.sampling_rate).astype(np.float32))


def _eight_bits(companded: np.ndarray) -> np.ndarray:
    """[0, 1] on 128 steps; the eighth bit is the sign. 0 stays 0, so silence is silent."""
    return np.round(companded * 127) / 127


def _signed(sizes: np.ndarray, waveform: np.ndarray) -> np.ndarray:
    return np.copysign(sizes, waveform).astype(np.float32)


def _through_file(
    waveform: np.ndarray, sampling_rate: int, container: str, subtype: str, compression: float
) -> np.ndarray:
    file = io.BytesIO()
    try:
        soundfile.write(
            file, waveform, sampling_rate, format=container, subtype=subtype, compression_level=compression
        )
    except soundfile.SoundFileError as error:
        raise ValueError(f"{subtype} takes no audio at {sampling_rate} Hz; resample to 16000") from error
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    return np.pad(decoded[: len(waveform)], (0, max(0, len(waveform) - len(decoded))))
