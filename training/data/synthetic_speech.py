"""Synthetic speech: Debian's voices read sentences of `fortunes`. For training, never for a test.

Every clip is marked `"synthetic": true`, and an evaluation set refuses clips so marked.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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


def _flite(voice: str) -> Callable[[str, Path], list[str]]:
    return lambda text, target: ["flite", "-voice", voice, "-t", text, "-o", str(target)]


def _espeak(voice: str) -> Callable[[str, Path], list[str]]:
    return lambda text, target: ["espeak-ng", "-v", voice, "-w", str(target), text]


# Name -> the command that speaks a text into a WAV file. All of them speak English.
VOICES = {
    "slt": _flite("slt"),
    "rms": _flite("rms"),
    "awb": _flite("awb"),
    "kal16": _flite("kal16"),
    "espeak-us": _espeak("en-us"),
    "espeak-gb": _espeak("en-gb"),
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
    programs = {name: command("", Path("x"))[0] for name, command in VOICES.items()}
    missing = sorted({programs[name] for name in voices or () if shutil.which(programs[name]) is None})
    found = [name for name in voices or VOICES if shutil.which(programs[name])]
    if missing or not found:
        raise ValueError(
            f"not installed: apt-get install {' '.join(missing or sorted({*programs.values()}))}"
        )
    return found


def _spoken(voice: str, text: str, folder: Path) -> Utterance:
    """The clip as FLAC, half the size of what the voice writes."""
    name = f"{voice}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    target, spoken, partial = (folder / f"{name}{end}" for end in (".flac", ".wav", ".partial"))
    if not target.is_file():
        subprocess.run(VOICES[voice](text, spoken), check=True, capture_output=True)
        samples, rate = soundfile.read(spoken, dtype="int16")
        soundfile.write(partial, samples, rate, format="FLAC")
        partial.replace(target)
        spoken.unlink()
    extra = {"synthetic": True, "origin": VOICES[voice]("", Path("x"))[0]}
    return Utterance(str(target), text, language="en", speaker=f"synthetic-{voice}", id=name, extra=extra)
