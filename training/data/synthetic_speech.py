"""Synthetic speech: voices read sentences of `fortunes` or phrases of a dictionary. Never for a test.

Every clip is marked `"synthetic": true`, and an evaluation set refuses clips so marked.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm.auto import tqdm

from .catalan_phrases import catalan_phrases
from .catalan_sentences import catalan_sentences
from .filters import DropReport, FilterSettings, filter_utterances, sentence_key
from .fortunes import english_sentences
from .preparation import summary
from .utterances import Utterance, read_manifest, write_manifest
from .voices import VOICES

# What can be read in a language; what comes first is read unless another is named.
TEXTS: dict[str, dict[str, Callable[[Path], list[str]]]] = {
    "en": {"sentences": english_sentences},
    "ca": {"phrases": catalan_phrases, "sentences": catalan_sentences},
}


def prepare_synthetic(
    folder: Path,
    root: Path = Path("/usr/share"),
    clips: int = 1000,
    voices: Sequence[str] | None = None,
    seed: int = 0,
    apart: Sequence[Path] = (),
    language: str = "en",
    texts: str | None = None,
) -> list[dict[str, Any]]:
    """Write `folder/train.jsonl` and the sounds beside it; a second run keeps what is spoken already.

    `apart`: manifests of which no sentence may be spoken, those of test sets. `texts`: which of the
    language's `TEXTS`.
    """
    readings = TEXTS[language]
    if texts not in (None, *readings):
        raise ValueError(f"no {texts!r} in {language!r}: there are {', '.join(readings)}")
    chosen = _installed_voices(voices, language)
    barred = {sentence_key(item.text) for manifest in apart for item in read_manifest(manifest)}
    read = readings[texts or next(iter(readings))]
    sentences = [text for text in read(root) if sentence_key(text) not in barred]
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
    report = DropReport(f"synthetic-{language}")
    kept = filter_utterances(utterances, FilterSettings(), (), report)
    write_manifest(folder / "train.jsonl", kept)
    return [summary(report.name, {"train": kept}, report)]


def _installed_voices(voices: Sequence[str] | None, language: str) -> list[str]:
    there = [name for name, voice in VOICES.items() if voice.language == language]
    unknown = sorted(set(voices or ()) - set(there))
    if unknown:
        raise ValueError(f"unknown voices {unknown}; of {language!r} there are {sorted(there)}")
    missing = [name for name in voices or () if not VOICES[name].is_there()]
    found = [name for name in voices or there if VOICES[name].is_there()]
    if missing or not found:
        commands = dict.fromkeys(VOICES[name].install for name in missing or there)
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
    language = VOICES[voice].language
    return Utterance(str(target), text, language=language, speaker=f"synthetic-{voice}", id=name, extra=extra)
