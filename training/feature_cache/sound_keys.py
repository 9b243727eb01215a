"""What a sound is called in a cache: by its samples, and by the place that it was read from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

import numpy as np

from ..data.utterances import Utterance


def audio_hash(waveform: np.ndarray) -> str:
    """Of samples `[n]` float32 at 16 kHz: the same sound is the same key, whatever file it comes in."""
    return hashlib.blake2b(np.ascontiguousarray(waveform, np.float32).tobytes(), digest_size=16).hexdigest()


def audio_number(key: str) -> int:
    """What augmentation draws by: a sound's own number."""
    return int(key[:8], 16)


def source_key(utterance: Utterance) -> str | None:
    """Where a sound lies, with size and date, so that it need not be read to be known; `None`: read it.

    A path, or encoded bytes of a dataset's row; for a piece of a long file also where it begins and ends.
    """
    piece = f"{utterance.extra['offset']}+{utterance.seconds}" if "offset" in utterance.extra else ""
    sound = utterance.sound
    if isinstance(sound, Mapping):
        if sound.get("bytes") is not None:
            return f"bytes {hashlib.blake2b(sound['bytes'], digest_size=16).hexdigest()} {piece}"
        sound = sound.get("path")
    if not isinstance(sound, (str, os.PathLike)):
        return None
    try:
        facts = os.stat(sound)
    except OSError:
        return None
    return f"{os.path.abspath(sound)} {facts.st_size} {facts.st_mtime_ns} {piece}"
