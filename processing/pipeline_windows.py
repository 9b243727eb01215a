"""What a pipeline works on: segments of sources on their way, and windows of them, sorted and batched."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .audio_segments import Segment
from .word_times import TimedWord

# Quieter than this (RMS, dB below full scale) nobody speaks, but a language model would go on writing.
SILENCE_DB = -60.0
# Segments are gathered, sorted by length and batched in windows of so many batches ...
WINDOW_BATCHES = 8
# ... or fewer, once they last so long and fill their batches: the bound on memory for long recordings.
WINDOW_SECONDS = 600.0
NOTHING = np.zeros(0, dtype=np.float32)


@dataclass
class Piece:
    """One segment of a source on its way: what it sounds like, then what it says."""

    segment: Segment
    text: str = ""
    # Its parts, in seconds from its start; none where nothing was said.
    spans: list[tuple[float, float, str]] = field(default_factory=list)
    words: list[TimedWord] = field(default_factory=list)
    confidence: float | None = None
    language: str | None = None
    language_scores: dict[str, float] | None = None
    guarded: str | None = None
    error: str | None = None
    # Where its language changes, the pieces it was cut into, and what each takes of the adapters, [N].
    parts: list["Piece"] = field(default_factory=list)
    adapter_weights: Any = None

    @classmethod
    def of(cls, segment: Segment) -> "Piece":
        """A segment to transcribe; where nobody speaks there is nothing to do."""
        piece = cls(segment)
        if segment.level_db <= SILENCE_DB:
            piece.guarded = "silence"
            piece.release()
        return piece

    @property
    def timestamp(self) -> tuple[float, float]:
        return self.times(0.0, self.segment.duration)

    def times(self, start: float, end: float) -> tuple[float, float]:
        """A stretch of the segment as times in the source."""
        return (round(self.segment.start + start, 3), round(self.segment.start + end, 3))

    def release(self) -> None:
        """Forget the sound: what was heard is no longer needed, and an hour of it would be much."""
        self.segment = replace(self.segment, waveform=NOTHING)


class Window:
    """Segments gathered for sorting. `closed` says that its last source ends in it."""

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.pieces: list[Piece] = []
        self.seconds = 0.0
        self.closed = False

    def add(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.seconds += piece.segment.duration

    def full(self) -> bool:
        """Whether it holds enough, in whole batches: a few rows take nearly as long as a batch of them."""
        if not self.pieces or len(self.pieces) % self.batch_size:
            return False
        # Single segments need no sorting, and nobody need wait for others.
        enough = WINDOW_BATCHES * self.batch_size if self.batch_size > 1 else 1
        return len(self.pieces) >= enough or self.seconds >= WINDOW_SECONDS

    def batches(self) -> Iterator[list[Piece]]:
        """Longest first: what shares a batch is of about one length, and memory peaks at once."""
        ordered = sorted(self.pieces, key=lambda piece: -piece.segment.duration)
        for start in range(0, len(ordered), self.batch_size):
            yield ordered[start : start + self.batch_size]
