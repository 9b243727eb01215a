"""The sound of an utterance: its samples, and how long it is without decoding it."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
import soundfile
from speechllm.processing.audio_reading import open_audio, read_audio

from .utterances import Utterance

SAMPLING_RATE = 16000


def read_sound(utterance: Utterance) -> np.ndarray:
    """Float32 `[n]` at 16 kHz; of a long file only the piece that `extra` names by its `offset`."""
    if not utterance.audio and utterance.sound == "":
        raise ValueError("no audio is named")
    if "offset" not in utterance.extra:
        return read_audio(utterance.sound, SAMPLING_RATE)
    start = float(utterance.extra["offset"])
    piece = _seek(utterance.sound, start, utterance.seconds)
    if piece is None:
        piece = _cut(utterance.sound, start, utterance.seconds)
    if not len(piece):
        raise ValueError(f"{utterance.name}: the file ends before its piece begins, at {start:.2f} s")
    return piece


def sound_seconds(utterance: Utterance) -> float:
    """The length that the file's header states, or, where no header can be read, the decoded length."""
    if "offset" in utterance.extra and utterance.seconds is not None:
        return utterance.seconds
    if not utterance.audio and utterance.sound == "":
        raise ValueError("no audio is named")
    try:
        header = soundfile.info(_file(utterance.sound))
    except (RuntimeError, TypeError, OSError):
        return len(read_sound(utterance)) / SAMPLING_RATE
    return header.frames / header.samplerate - float(utterance.extra.get("offset", 0))


def _file(sound: Any) -> Any:
    """What soundfile opens: a path, or the encoded bytes of a dataset's row."""
    if isinstance(sound, dict):
        return io.BytesIO(sound["bytes"]) if sound.get("bytes") is not None else sound.get("path")
    return sound


def _seek(sound: Any, start: float, seconds: float | None) -> np.ndarray | None:
    """The piece, without reading what comes before; None where the format cannot seek."""
    if isinstance(sound, (str, os.PathLike)) and not os.path.exists(sound):
        return None
    try:
        with soundfile.SoundFile(_file(sound)) as file:
            file.seek(min(round(start * file.samplerate), file.frames))
            frames = -1 if seconds is None else round(seconds * file.samplerate)
            samples = file.read(frames, dtype="float32", always_2d=True)
            rate = file.samplerate
    except (RuntimeError, TypeError):
        return None
    return read_audio(samples, SAMPLING_RATE, rate) if len(samples) else samples[:, 0]


def _cut(sound: Any, start: float, seconds: float | None) -> np.ndarray:
    """The piece, from a file that is read from its beginning, and no further than it must be."""
    first = round(start * SAMPLING_RATE)
    last = None if seconds is None else first + round(seconds * SAMPLING_RATE)
    blocks: list[np.ndarray] = []
    held = 0
    for block in open_audio(sound, SAMPLING_RATE):
        blocks.append(block[max(0, first - held) : None if last is None else last - held])
        held += len(block)
        if last is not None and held >= last:
            break
    return np.concatenate(blocks)
