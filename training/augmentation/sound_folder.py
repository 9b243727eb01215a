"""A folder of recordings: noises, or impulse responses of rooms."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
from speechllm.processing.audio_resampling import resample

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif")
# A stretch of a file may be silent: other places are tried before it is taken as it is.
MOST_DRAWS = 4


@lru_cache(maxsize=16)
def open_folder(name: str, folder: str) -> SoundFolder:
    """The folder, listed and checked once a process; `name` is what errors call it."""
    return SoundFolder(name, folder)


class SoundFolder:
    """The sound files of a folder and its sub-folders; every one is opened once, so that none fails later."""

    def __init__(self, name: str, folder: str):
        self.name, self.folder = name, Path(folder)
        if not self.folder.is_dir():
            raise ValueError(f"{name} is no folder: {folder}")
        if not os.access(self.folder, os.R_OK | os.X_OK):
            raise ValueError(f"{name} cannot be read: {folder}; check its permissions")
        # Sorted: the order of a directory differs between machines.
        self.paths = sorted(path for path in self.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not self.paths:
            raise ValueError(f"{name} holds no sound files: {folder}; it takes {', '.join(SUFFIXES)}")
        for path in self.paths:
            self._check(path)

    def _check(self, path: Path) -> None:
        try:
            frames = soundfile.info(path).frames
        except (soundfile.SoundFileError, OSError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{self.name}: {path.name} cannot be read ({reason}); remove it") from error
        if frames < 1:
            raise ValueError(f"{self.name}: {path.name} holds no samples; remove it")

    def whole(self, sampling_rate: int, draw: np.random.Generator) -> np.ndarray:
        """A drawn file `[m]`, its first channel."""
        path = self.paths[int(draw.integers(len(self.paths)))]
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        return resample(samples[:, 0], rate, sampling_rate)

    def stretch(self, length: int, sampling_rate: int, draw: np.random.Generator) -> np.ndarray:
        """`[length]` of a drawn file, from a drawn place on; repeated where the file is shorter."""
        for _ in range(MOST_DRAWS):
            samples = self._stretch(length, sampling_rate, draw)
            if samples.any():
                break
        return samples

    def _stretch(self, length: int, sampling_rate: int, draw: np.random.Generator) -> np.ndarray:
        path = self.paths[int(draw.integers(len(self.paths)))]
        with soundfile.SoundFile(path) as file:
            wanted = -(-length * file.samplerate // sampling_rate)
            if file.frames > wanted:
                # A long recording is read where it is needed only.
                file.seek(int(draw.integers(file.frames - wanted)))
            block = file.read(min(wanted, file.frames), dtype="float32", always_2d=True)
            rate = file.samplerate
        samples = resample(np.ascontiguousarray(block.mean(axis=1)), rate, sampling_rate)
        return np.resize(samples, length)
