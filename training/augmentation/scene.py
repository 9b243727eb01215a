"""A clip on its way through the effects: what is heard, what of it is noise, and where chance comes from."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .effect_fields import Fields, number
from .levels import measured_snr

# `corpus[i]` is a waveform, or an item of a dataset that holds one under "audio".
Corpus = Sequence[Any]
# Clips of a corpus that are tried before it counts as unreadable: single bad files stop no training.
MOST_DRAWS = 8


@dataclass(frozen=True, eq=False)
class Scene:
    """Speech with what has been done to it. `noise` is what was added, at the scale it has in `waveform`."""

    waveform: np.ndarray  # [n] float32
    sampling_rate: int
    source: np.ndarray  # [m], the clip as it came
    corpus: Corpus | None = None
    noise: np.ndarray | None = None  # [n]
    snr_db: float | None = None  # as measured when noise was added last

    @property
    def speech(self) -> np.ndarray:
        """What there is besides the noise."""
        return self.waveform if self.noise is None else self.waveform - self.noise

    def with_noise(self, noise: np.ndarray) -> Scene:
        """The scene with `noise` `[n]` on top of what noise there is."""
        total = noise if self.noise is None else self.noise + noise
        snr_db = measured_snr(self.speech, total, self.sampling_rate)
        return replace(self, waveform=self.waveform + noise, noise=total, snr_db=snr_db)

    def filtered(self, linear: Callable[[np.ndarray], np.ndarray]) -> Scene:
        """The scene after a linear change, which its noise undergoes as well."""
        noise = None if self.noise is None else linear(self.noise)
        return replace(self, waveform=linear(self.waveform), noise=noise)

    def distorted(self, change: Callable[[np.ndarray], np.ndarray]) -> Scene:
        """The scene after a change that has no meaning for the noise alone, which stays what it was."""
        return replace(self, waveform=change(self.waveform))

    def within_full_scale(self) -> Scene:
        """Turned down as a whole where it would leave [-1, 1]: nothing is clipped in passing."""
        peak = float(np.abs(self.waveform).max(initial=0))
        # A little lower than 1, which rounding could pass.
        return self if peak <= 1 else self.filtered(lambda waveform: waveform * np.float32(0.9999 / peak))


@dataclass(frozen=True)
class Effect(Fields):
    """One change to a scene, made with a probability."""

    probability: float = number(0, 1, 0.5)

    @abstractmethod
    def apply(self, scene: Scene, draw: np.random.Generator) -> Scene:
        """The scene after the effect, with all chance taken from `draw`."""

    def check(self, name: str, corpus: Corpus | None) -> None:
        """Raise `ValueError` where what the effect needs besides its fields is not there."""


def generator_for(seed: int, index: int, epoch: int, name: str) -> np.random.Generator:
    """The same stream for the same four, on every machine, in every worker and process."""
    # By name: an effect that is added or left out changes no other's draws.
    return np.random.default_rng([seed, index, epoch, zlib.crc32(name.encode())])


def uniform(draw: np.random.Generator, ends: tuple[float, float]) -> float:
    """A number from a range."""
    return float(draw.uniform(*ends))


def check_corpus(name: str, corpus: Corpus | None) -> None:
    """Raise `ValueError` unless there are clips to take besides the one that is augmented."""
    if corpus is None or len(corpus) < 2:
        clips = "none was given" if corpus is None else f"this one holds {len(corpus)}"
        raise ValueError(f"{name} takes clips from a corpus of at least 2; {clips}")


def other_clip(scene: Scene, draw: np.random.Generator) -> np.ndarray:
    """A clip `[m]` of the corpus that is not the scene's own."""
    corpus = scene.corpus
    if corpus is None:
        raise ValueError("other clips were asked for, but there is no corpus")
    problem: Exception | str = ""
    start = int(draw.integers(len(corpus)))
    for step in range(MOST_DRAWS):
        try:
            item = corpus[(start + step) % len(corpus)]
            waveform = np.asarray(item["audio"] if isinstance(item, Mapping) else item, np.float32)
        except (ValueError, OSError) as error:
            problem = error
            continue
        # By its samples: the index a caller draws with may count in another set.
        if waveform.ndim == 1 and waveform.any() and not np.array_equal(waveform, scene.source):
            return waveform
        problem = f"shape {list(waveform.shape)}, silent or the clip itself"
    raise ValueError(f"{MOST_DRAWS} clips of the corpus in turn are of no use; the last: {problem}")
