"""Effects by name, and the object that puts clips through those a recipe asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from speechllm.configuration.configuration_strict import suggest
from torch import Tensor

from .effects_added import CompetingSpeech, Noise
from .effects_channel import BandLimit, Clipping, Codec, Gain, Speed
from .effects_room import Reverberation
from .scene import Corpus, Effect, Scene, generator_for
from .spec_augment import SpecAugment, spec_augment

# In the order in which sound meets them, whatever the order in a recipe: mouth, room, microphone, line, file.
EFFECTS: dict[str, type[Effect]] = {
    "speed": Speed,
    "reverberation": Reverberation,
    "competing_speech": CompetingSpeech,
    "noise": Noise,
    "gain": Gain,
    "clipping": Clipping,
    "band_limit": BandLimit,
    "codec": Codec,
}
# The one that works on features.
SPEC_AUGMENT = "spec_augment"


@dataclass(frozen=True, eq=False)
class Mixed:
    """A clip with what is known of it."""

    waveform: np.ndarray  # [n], with all effects
    # [n], what was mixed in, at its scale in `waveform`; zeros where nothing was. Clipping and codecs act
    # on the sum only: up to those, `waveform - noise` is the speech.
    noise: np.ndarray
    # As measured when the noise was added: infinite where none was, minus infinity where it is all there is.
    snr_db: float


class Augmentation:
    """Puts clips through effects. What comes out depends on seed, index and epoch, and on nothing else."""

    def __init__(
        self,
        effects: Mapping[str, Effect],
        seed: int,
        corpus: Corpus | None = None,
        spec_augment: SpecAugment | None = None,
    ):
        self.effects = {name: effects[name] for name in EFFECTS if name in effects}
        self.seed = seed
        self.corpus = corpus
        self.spec_augment = spec_augment

    def __call__(self, waveform: np.ndarray, sampling_rate: int, index: int, epoch: int) -> np.ndarray:
        """`[n]` float32 within [-1, 1] -> the same, augmented; under `speed` of another length."""
        return self._scene(waveform, sampling_rate, index, epoch).waveform

    def mix(self, waveform: np.ndarray, sampling_rate: int, index: int, epoch: int) -> Mixed:
        """As a call, with the noise and its ratio to the speech."""
        scene = self._scene(waveform, sampling_rate, index, epoch)
        noise = np.zeros_like(scene.waveform) if scene.noise is None else scene.noise
        return Mixed(scene.waveform, noise, math.inf if scene.snr_db is None else scene.snr_db)

    def features(self, features: Tensor, lengths: Tensor, indices: list[int], epoch: int) -> Tensor:
        """[B, mel, T] with SpecAugment where the recipe has it."""
        if self.spec_augment is None:
            return features
        return spec_augment(features, lengths, self.spec_augment, self.seed, indices, epoch)

    def _scene(self, waveform: np.ndarray, sampling_rate: int, index: int, epoch: int) -> Scene:
        waveform = np.asarray(waveform, np.float32)
        if waveform.ndim != 1 or not np.isfinite(waveform).all():
            fault = f"has shape {list(waveform.shape)}" if waveform.ndim != 1 else "is not finite"
            raise ValueError(f"clip {index} {fault}; augmentation takes finite samples [n]")
        scene = Scene(waveform, sampling_rate, waveform, self.corpus)
        if not len(waveform):
            return scene
        for name, effect in self.effects.items():
            draw = generator_for(self.seed, index, epoch, name)
            if draw.random() < effect.probability:
                scene = effect.apply(scene, draw).within_full_scale()
        return scene


def build_augmentation(
    fields: Mapping[str, Any] | None, seed: int, corpus: Corpus | None = None
) -> Augmentation:
    """From a recipe's `{"noise": {"probability": 0.5, "snr_db": [0, 20]}, ...}`; an effect of `None` is off.

    `corpus` is what babble and competing speech are taken from: `corpus[i]` a waveform or a dataset's item.
    No clip competes with itself.
    """
    given = {name: values for name, values in (fields or {}).items() if values is not None}
    for name in given:
        if name not in EFFECTS and name != SPEC_AUGMENT:
            raise ValueError(f"unknown augmentation {name!r}; {suggest(str(name), [*EFFECTS, SPEC_AUGMENT])}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"the seed of an augmentation is a whole number from 0 on, not {seed!r}")
    features = given.pop(SPEC_AUGMENT, None)
    effects = {name: EFFECTS[name].from_mapping(name, values) for name, values in given.items()}
    for name, effect in effects.items():
        effect.check(name, corpus)
    masks = None if features is None else SpecAugment.from_mapping(SPEC_AUGMENT, features)
    return Augmentation(effects, seed, corpus, masks)
