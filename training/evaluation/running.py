"""Runs a recognizer over clips, and notes what it heard and what that took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from speechllm.training.data.sounds import SAMPLING_RATE
from tqdm import tqdm

from .evaluation_sets import Sound
from .provider_base import Heard, Provider, SpeechClip

# Clips are read, sorted by length and recognized so many batches at a time.
WINDOW_BATCHES = 8
UNREADABLE = "cannot be read"


@dataclass(frozen=True)
class Latency:
    """Seconds a clip from its samples to its text, each clip alone."""

    clips: int
    median: float
    slowest_of_20: float  # the 95th percentile
    mean: float
    # Seconds of sound in them, together: latency means nothing without it.
    audio_seconds: float


@dataclass(frozen=True)
class Run:
    """What one recognizer heard in one set. Times are of recognizing alone, not of reading files."""

    heard: tuple[Heard, ...]
    seconds: tuple[float, ...]  # of each clip; 0 where it could not be read
    processing_seconds: float
    configuration: dict[str, Any]
    memory: dict[str, Any]
    latency: Latency | None = None
    reused: bool = False

    @property
    def speed(self) -> float | None:
        """RTFx: seconds of sound for every second of processing, of the clips that were answered."""
        answered = sum(s for s, heard in zip(self.seconds, self.heard, strict=True) if heard.error is None)
        return answered / self.processing_seconds if self.processing_seconds > 0 and answered else None


def run_over(
    provider: Provider, sound: Sound, languages: Sequence[str | None], title: str = ""
) -> tuple[list[Heard], list[float], float]:
    """What is heard in each clip, the clips' lengths, and the seconds of processing."""
    count = len(languages)
    heard, seconds, spent = [Heard()] * count, [0.0] * count, 0.0
    window = max(1, provider.options.batch_size) * WINDOW_BATCHES
    warm = not provider.local
    with tqdm(total=count, unit="clip", desc=title, disable=None) as progress:
        for start in range(0, count, window):
            places = range(start, min(start + window, count))
            clips, failed = read_clips(sound, places, languages)
            for place, reason in failed.items():
                heard[place] = Heard(error=reason)
            # Longest first: what shares a batch is of about one length.
            order = sorted(clips, key=lambda place: -len(clips[place].waveform))
            if order and not warm:
                # The first call anywhere also prepares what every later one uses.
                provider.transcribe([clips[order[-1]]])
                warm = True
            begin = time.perf_counter()
            answers = provider.transcribe([clips[place] for place in order]) if order else []
            spent += time.perf_counter() - begin
            for place, answer in zip(order, answers, strict=True):
                heard[place], seconds[place] = answer, len(clips[place].waveform) / SAMPLING_RATE
            progress.update(len(places))
    return heard, seconds, spent


def read_clips(
    sound: Sound, places: Sequence[int], languages: Sequence[str | None]
) -> tuple[dict[int, SpeechClip], dict[int, str]]:
    """The clips that can be read, and the reasons of those that cannot."""
    clips, failed = {}, {}
    for place in places:
        try:
            waveform = sound(place)
        except (ValueError, OSError) as error:
            failed[place] = f"{UNREADABLE}: {' '.join(str(error).split())}"
            continue
        if np.isfinite(waveform).all():
            clips[place] = SpeechClip(waveform, languages[place])
        else:
            failed[place] = f"{UNREADABLE}: its samples are not finite"
    return clips, failed


def measure_latency(
    provider: Provider, sound: Sound, languages: Sequence[str | None], run: Run, clips: int
) -> Latency | None:
    """Each clip alone: `clips` of them, from the shortest to the longest in even steps."""
    answered = [place for place, heard in enumerate(run.heard) if heard.error is None]
    if not answered:
        return None
    ordered = sorted(answered, key=lambda place: run.seconds[place])
    steps = np.linspace(0, len(ordered) - 1, min(clips, len(ordered))).round().astype(int)
    chosen = [ordered[step] for step in steps]
    readable, _ = read_clips(sound, chosen, languages)
    if provider.local:
        provider.transcribe([readable[chosen[0]]])
    times = []
    for place in chosen:
        begin = time.perf_counter()
        provider.transcribe([readable[place]])
        times.append(time.perf_counter() - begin)
    return Latency(
        len(times),
        float(np.median(times)),
        float(np.quantile(times, 0.95)),
        float(np.mean(times)),
        sum(run.seconds[place] for place in chosen),
    )


def first_clips(run: Run, count: int | None) -> Run:
    """The same for the first `count` clips alone; times are of the whole."""
    return replace(run, heard=run.heard[:count], seconds=run.seconds[:count])
