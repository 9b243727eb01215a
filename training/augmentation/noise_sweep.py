"""The same clip at several ratios of one noise, for evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from speechllm.configuration.configuration_strict import suggest

from .levels import check_snr, noise_at
from .noise_sounds import NEED_A_CORPUS, NOISES, NoiseRequest, competing_speech
from .scene import Corpus, Scene, check_corpus, generator_for
from .sound_folder import open_folder

CLEAN = math.inf
SWEEP_SOUNDS = {**NOISES, "competing_speech": competing_speech}
SWEEP_SNRS = (CLEAN, 20.0, 10.0, 5.0, 0.0, -5.0)


def noisy_copies(
    waveform: np.ndarray,
    kind: str,
    snrs: Iterable[float] = SWEEP_SNRS,
    seed: int = 0,
    index: int = 0,
    sampling_rate: int = 16000,
    corpus: Corpus | None = None,
    folder: str | None = None,
) -> dict[float, np.ndarray]:
    """Ratio in dB -> `[n]`, under one and the same stretch of noise; infinity is the clip as it was.

    `kind` is one of `NOISES` or "competing_speech"; `corpus` is for that and for babble, `folder` for noise
    from files. `index` tells clips apart: each has its own stretch.
    """
    if kind not in SWEEP_SOUNDS:
        raise ValueError(f"unknown noise {kind!r}; {suggest(kind, SWEEP_SOUNDS)}")
    if kind in NEED_A_CORPUS:
        check_corpus(f"noise {kind!r}", corpus)
    files = None if folder is None else open_folder("folder", folder)
    samples = np.asarray(waveform, np.float32)
    scene = Scene(samples, sampling_rate, samples, corpus)
    noise = SWEEP_SOUNDS[kind](NoiseRequest(scene, generator_for(seed, index, 0, kind), files))
    copies = {}
    for snr_db in snrs:
        copies[snr_db] = scene.waveform
        if snr_db != CLEAN:
            check_snr("a ratio of the sweep", snr_db)
            added = scene.with_noise(noise_at(snr_db, scene.speech, noise, sampling_rate))
            copies[snr_db] = added.within_full_scale().waveform
    return copies
