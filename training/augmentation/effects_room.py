"""Reverberation: rooms drawn from an image-source model, or given impulse responses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .effect_fields import Range, between, path
from .fourier import convolved
from .levels import active_power
from .scene import Corpus, Effect, Scene, uniform
from .sound_folder import SoundFolder, open_folder

SPEED_OF_SOUND = 343.0
# Single reflections are computed so far; after them they are so dense that noise with the room's decay
# sounds the same. Their number grows with the cube of this time.
EARLY_SECONDS = 0.06
SINC_TAPS = 32
# Distance of speaker and microphone from the walls, in metres.
WALL_MARGIN = 0.5


@dataclass(frozen=True)
class Reverberation(Effect):
    """Speech in a room. It does not come later, longer or louder than it was; noise is added after it."""

    # Seconds until the sound has fallen by 60 dB: an office has .3, a bare hall 1.
    decay_seconds: Range = between(0.05, 3.0, (0.2, 0.8))
    length_metres: Range = between(2.0, 50.0, (3.0, 10.0))
    height_metres: Range = between(2.0, 20.0, (2.4, 4.0))
    # Distance of the speaker from the microphone, as far as the room has space for it.
    distance_metres: Range = between(0.2, 20.0, (0.5, 3.0))
    # Recorded impulse responses, in place of the drawn rooms.
    folder: str | None = path()

    def check(self, name: str, corpus: Corpus | None) -> None:
        _ = self.responses

    @cached_property
    def responses(self) -> SoundFolder | None:
        return None if self.folder is None else open_folder("reverberation.folder", self.folder)

    def apply(self, scene: Scene, draw: np.random.Generator) -> Scene:
        rate = scene.sampling_rate
        if self.responses is None:
            response = self.drawn_room(draw).response(rate, draw)
        else:
            response = self.responses.whole(rate, draw)
        response = from_direct_sound(response)
        before = active_power(scene.speech, rate)
        after = active_power(convolved(scene.speech, response), rate)
        if after == 0:
            return scene
        response = response * np.float32(math.sqrt(before / after))
        return scene.filtered(lambda waveform: convolved(waveform, response))

    def drawn_room(self, draw: np.random.Generator) -> Room:
        """A room, with speaker and microphone in it."""
        size = np.array(
            [
                uniform(draw, self.length_metres),
                uniform(draw, self.length_metres),
                uniform(draw, self.height_metres),
            ]
        )
        microphone = draw.uniform(WALL_MARGIN, size - WALL_MARGIN)
        direction = draw.standard_normal(3)
        wanted = microphone + uniform(draw, self.distance_metres) * direction / np.linalg.norm(direction)
        speaker = np.clip(wanted, WALL_MARGIN, size - WALL_MARGIN)
        return Room(size, speaker, microphone, uniform(draw, self.decay_seconds))


@dataclass(frozen=True, eq=False)
class Room:
    """A box of metres `size` [3] whose walls all reflect alike."""

    size: np.ndarray
    speaker: np.ndarray
    microphone: np.ndarray
    decay_seconds: float

    def response(self, sampling_rate: int, draw: np.random.Generator) -> np.ndarray:
        """Impulse response `[m]`, from the moment of the sound until it has fallen by 60 dB."""
        samples = math.ceil((self.decay_seconds + EARLY_SECONDS) * sampling_rate)
        response = self._tail(samples, sampling_rate, draw)
        early = min(math.ceil(EARLY_SECONDS * sampling_rate), samples)
        response[:early] = self._reflections(early, sampling_rate)
        return response.astype(np.float32)

    def _reflections(self, samples: int, sampling_rate: int) -> np.ndarray:
        """`[samples]`: each image of the speaker, as late and as faint as it is far."""
        reach = EARLY_SECONDS * SPEED_OF_SOUND
        offsets, reflections = zip(*(self._images(axis, reach) for axis in range(3)), strict=True)
        # x, y, z -> one entry an image
        squared = _sums(*[offset**2 for offset in offsets])
        bounces = _sums(*reflections)
        near = squared <= reach**2
        distances, bounces = np.sqrt(squared[near]), bounces[near]
        # A wall turns the wave over. Without that every reflection is positive, and their sum a thump.
        strengths = (-self._wall_reflection()) ** bounces / (4 * np.pi * np.maximum(distances, 0.1))
        return _impulses(distances / SPEED_OF_SOUND * sampling_rate, strengths, samples)

    def _images(self, axis: int, reach: float) -> tuple[np.ndarray, np.ndarray]:
        """Of the images along one axis: distance from the microphone, number of reflections."""
        size, speaker, microphone = self.size[axis], self.speaker[axis], self.microphone[axis]
        cells = np.arange(-math.ceil(reach / (2 * size)) - 1, math.ceil(reach / (2 * size)) + 2)
        offsets = np.concatenate([2 * cells * size + speaker, 2 * cells * size - speaker]) - microphone
        return offsets, np.concatenate([np.abs(2 * cells), np.abs(2 * cells - 1)])

    def _wall_reflection(self) -> float:
        """The amplitude that a wall gives back, by Eyring's formula for the decay."""
        volume = self.size.prod()
        surface = 2 * (volume / self.size).sum()
        return math.exp(-12 * math.log(10) * volume / (SPEED_OF_SOUND * surface * self.decay_seconds))

    def _tail(self, samples: int, sampling_rate: int, draw: np.random.Generator) -> np.ndarray:
        """`[samples]` of noise whose power is that of the images: so many a second, so faint by then."""
        density = SPEED_OF_SOUND / (4 * np.pi * self.size.prod()) / sampling_rate
        seconds = np.arange(samples) / sampling_rate
        envelope = math.sqrt(density) * np.exp(-3 * math.log(10) / self.decay_seconds * seconds)
        return envelope * draw.standard_normal(samples)


def from_direct_sound(response: np.ndarray) -> np.ndarray:
    """`[m]` without what precedes the loudest sample: the words stay where they were in time."""
    return response[int(np.abs(response).argmax()) :]


def _sums(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """`[x, y, z]`: the sum of one number of each."""
    return x[:, None, None] + y[None, :, None] + z[None, None, :]


def _impulses(places: np.ndarray, strengths: np.ndarray, samples: int) -> np.ndarray:
    """`[samples]` with an impulse at each place `[k]`, between samples too: a windowed sinc."""
    taps = np.arange(-SINC_TAPS // 2 + 1, SINC_TAPS // 2 + 1)
    whole = np.floor(places).astype(int)
    distance = taps[None, :] - (places - whole)[:, None]  # k, taps
    kernel = np.sinc(distance) * np.cos(np.pi * distance / (SINC_TAPS + 1)) ** 2
    positions = whole[:, None] + taps[None, :] + SINC_TAPS
    longest = samples + 2 * SINC_TAPS
    inside = positions < longest
    weights = strengths[:, None] * kernel
    summed = np.bincount(positions[inside], weights[inside], minlength=longest)
    return summed[SINC_TAPS : SINC_TAPS + samples]
