"""Effects that add a sound to the speech, at a ratio of active levels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .effect_fields import Range, chosen_from, path, snr_range
from .levels import active_power, noise_at
from .noise_sounds import NEED_A_CORPUS, NEED_A_FOLDER, NOISES, NoiseRequest, competing_speech
from .scene import Corpus, Effect, Scene, check_corpus, uniform
from .sound_folder import SoundFolder, open_folder


@dataclass(frozen=True)
class Noise(Effect):
    """One kind of noise under the whole clip. On digital silence it is as loud as under ordinary speech."""

    snr_db: Range = snr_range((0.0, 20.0))
    kinds: tuple[str, ...] = chosen_from(NOISES, ("white", "pink", "brown", "hum"))
    folder: str | None = path()

    def check(self, name: str, corpus: Corpus | None) -> None:
        if NEED_A_CORPUS & set(self.kinds):
            check_corpus(f"{name} of kind 'babble'", corpus)
        if bool(NEED_A_FOLDER & set(self.kinds)) != (self.folder is not None):
            lacks = "folder is not given" if self.folder is None else f"kinds are {', '.join(self.kinds)}"
            raise ValueError(f"{name}: kind 'files' and a folder go together, but {lacks}")
        _ = self.files

    @cached_property
    def files(self) -> SoundFolder | None:
        return None if self.folder is None else open_folder("noise.folder", self.folder)

    def apply(self, scene: Scene, draw: np.random.Generator) -> Scene:
        kind = self.kinds[int(draw.integers(len(self.kinds)))]
        snr_db = uniform(draw, self.snr_db)
        noise = NOISES[kind](NoiseRequest(scene, draw, self.files))
        return scene.with_noise(noise_at(snr_db, scene.speech, noise, scene.sampling_rate))


@dataclass(frozen=True)
class CompetingSpeech(Effect):
    """Another utterance of the corpus, which begins anywhere in the clip or has begun before it."""

    sir_db: Range = snr_range((5.0, 20.0))

    def check(self, name: str, corpus: Corpus | None) -> None:
        check_corpus(name, corpus)

    def apply(self, scene: Scene, draw: np.random.Generator) -> Scene:
        sir_db = uniform(draw, self.sir_db)
        # Another's words over silence would be the only words, and the target has none.
        if active_power(scene.speech, scene.sampling_rate) == 0:
            return scene
        other = competing_speech(NoiseRequest(scene, draw))
        return scene.with_noise(noise_at(sir_db, scene.speech, other, scene.sampling_rate))
