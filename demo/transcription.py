"""From a file and what the visitor asked for to a transcript that grows, window by window."""

import collections
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from speechllm.cli.transcript_formats import Transcript
from speechllm.processing.pipeline_speechllm import TranscriptionOptions, joined

from .visits import CheckedAtEveryToken

# Windows computed together: more would be faster, and leave the progress bar standing for longer.
WINDOWS_AT_ONCE = 4


@dataclass(frozen=True)
class Request:
    """What the visitor chose; empty, zero or one: the checkpoint's own way."""

    language: str = ""
    routing: str = ""
    task: str = "transcribe"
    words: str | None = ""
    window_seconds: float = 30.0
    beams: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 50
    most_tokens: int = 0

    def pipeline_options(self) -> dict[str, Any]:
        """As arguments of the pipeline."""
        generate: dict[str, Any] = {"num_beams": int(self.beams)} if self.beams > 1 else {}
        if self.temperature > 0:
            generate |= {"do_sample": True, "temperature": float(self.temperature)}
            generate |= {"top_p": float(self.top_p), "top_k": int(self.top_k)}
        if self.most_tokens > 0:
            generate["max_new_tokens"] = int(self.most_tokens)
        return {
            "language": self.language or None,
            "routing": self.routing or None,
            "task": None if self.task == "transcribe" else self.task,
            "prompt": (self.words or "").strip() or None,
            "return_timestamps": True,
            "return_language": True,
            "return_confidence": True,
            "generate_kwargs": generate,
        }


@dataclass
class Sound:
    """A whole recording, as the model hears it: contiguous segments, mono."""

    name: str
    segments: list
    sampling_rate: int

    @property
    def duration(self) -> float:
        return self.segments[-1].end if self.segments else 0.0

    @property
    def waveform(self) -> np.ndarray:
        return np.concatenate([segment.waveform for segment in self.segments])


@dataclass
class Hearing:
    """What was heard so far. `done` counts seconds of sound, `took` seconds of waiting."""

    sound: Sound
    results: list[dict] = field(default_factory=list)
    took: float = 0.0

    @property
    def done(self) -> float:
        return self.sound.segments[len(self.results) - 1].end if self.results else 0.0

    @property
    def finished(self) -> bool:
        return len(self.results) == len(self.sound.segments)

    @property
    def scores(self) -> dict[str, float]:
        """The router's probabilities, averaged over the sound; empty where none was asked."""
        total: dict[str, float] = collections.defaultdict(float)
        seconds = 0.0
        for segment, result in self._pairs():
            if result.get("language_scores"):
                seconds += segment.duration
                for label, score in result["language_scores"].items():
                    total[label] += score * segment.duration
        return {label: score / seconds for label, score in total.items()}

    @property
    def transcript(self) -> Transcript:
        """All windows as one, with times in the whole sound."""
        seconds: dict[str, float] = collections.defaultdict(float)
        for segment, result in self._pairs():
            if result["language"]:
                seconds[result["language"]] += segment.duration
        known = [one["confidence"] for one in self.results if one["confidence"] is not None]
        return Transcript(
            self.sound.name,
            joined([result["text"] for result in self.results if result["text"]]),
            [chunk for segment, one in self._pairs() for chunk in later(segment, one, "chunks")],
            max(seconds, key=seconds.__getitem__) if seconds else None,
            float(np.mean(known)) if known else None,
            [guard for segment, one in self._pairs() for guard in later(segment, one, "guarded")],
        )

    def _pairs(self) -> list[tuple[Any, dict]]:
        return list(zip(self.sound.segments, self.results, strict=False))


def later(segment, result: dict, name: str) -> list[dict]:
    """Items of a window's result with their times in the whole sound."""
    shifted = []
    for item in result.get(name, []):
        start, end = (round(segment.start + time, 3) for time in item["timestamp"])
        shifted.append({**item, "timestamp": (start, end)})
    return shifted


def read_sound(pipeline, path: str, window_seconds: float, most_seconds: float) -> Sound:
    """All of a file, cut into windows; one that lasts too long is a `ValueError`."""
    segments: list = []
    longest = min(window_seconds, pipeline.model.config.chunk_length_s or window_seconds)
    for segment in pipeline.preprocess(path, TranscriptionOptions(chunk_length_s=longest)):
        if segment.end > most_seconds:
            raise ValueError(
                f"{Path(path).name} lasts more than {most_seconds / 60:g} min, the most this page takes; "
                "`speechllm transcribe` takes any length"
            )
        segments.append(segment)
    return Sound(Path(path).name, segments, pipeline.processor.sampling_rate)


def transcribe(pipeline, sound: Sound, request: Request, computing, check=None) -> Iterator[Hearing]:
    """The transcript after every few windows. `computing`: a lock, held while there is computing; `check` is
    called at every token, and may raise."""
    hearing, options = Hearing(sound), request.pipeline_options()
    if check is not None:
        options["generate_kwargs"]["stopping_criteria"] = [CheckedAtEveryToken(check)]
    while not hearing.finished:
        first = len(hearing.results)
        waveforms = [segment.waveform for segment in sound.segments[first : first + WINDOWS_AT_ONCE]]
        with computing:
            started = time.perf_counter()
            hearing.results += pipeline(
                waveforms, sampling_rate=sound.sampling_rate, batch_size=WINDOWS_AT_ONCE, **options
            )
            hearing.took += time.perf_counter() - started
        yield hearing
