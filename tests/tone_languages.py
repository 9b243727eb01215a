"""Two "languages" that a tiny Whisper can tell apart: low tones and high ones."""

from pathlib import Path

import numpy as np
import soundfile
from speechllm.training.data.utterances import Utterance, write_manifest

RATE = 16000
# Hertz between which a language's syllables lie; "it" and "fr" have adapters in the tests' banks.
PITCHES = {"it": (150.0, 350.0), "fr": (1800.0, 3200.0)}


def spoken(language: str, seconds: float, generator: np.random.Generator) -> np.ndarray:
    """Syllables of a quarter of a second, each at a pitch of the language, in a little noise: `[n]`.

    About as loud as `write_switched` makes what it joins: a random encoder hears loudness before all else.
    """
    size = RATE // 4
    count = -(-round(seconds * RATE) // size)
    time = np.arange(size) / RATE
    fade = np.minimum(1, 30 * np.minimum(time, time[::-1]))
    pitches = generator.uniform(*PITCHES[language], size=count)
    sound = np.concatenate([np.sin(2 * np.pi * pitch * time) * fade for pitch in pitches])
    sound = sound[: round(seconds * RATE)]
    return (0.08 * sound + 0.003 * generator.standard_normal(len(sound))).astype(np.float32)


def write_corpus(folder: Path, count: int, seed: int, longest: float = 2.5) -> Path:
    """A manifest of `count` clips of half a second and more, the languages in turn."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    utterances = []
    for number in range(count):
        language = list(PITCHES)[number % len(PITCHES)]
        sound = spoken(language, generator.uniform(0.5, longest), generator)
        path = folder / f"{number}.wav"
        soundfile.write(path, sound, RATE)
        name = f"{folder.name}-{number}"
        utterances.append(Utterance(str(path), f"word {number}", language, len(sound) / RATE, id=name))
    write_manifest(folder / "manifest.jsonl", utterances)
    return folder / "manifest.jsonl"
