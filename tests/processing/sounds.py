"""Sounds, whole and broken, for the tests of reading audio."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from speechllm.processing.audio_reading import read_audio

RATE = 16000
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not on PATH")


def tone(seconds: float = 1.0, rate: int = RATE, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def error_of(source, **options) -> str:
    with pytest.raises(ValueError) as caught:
        read_audio(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def cut(path: Path, fraction: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path


def without_xing(path: Path) -> Path:
    """Take the first frame, which holds the frame count and no sound, off an mp3 file."""
    data = path.read_bytes()
    assert b"Xing" in data[:200] or b"Info" in data[:200]
    path.write_bytes(data[data.index(data[:2], 4) :])
    return path
