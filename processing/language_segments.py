"""Code-switching: pieces are cut where their language changes, and each part is transcribed by itself."""

from dataclasses import replace
from typing import Any

import torch

from .audio_segments import Segment
from .memory_release import release_freed_memory
from .pipeline_windows import Piece, Window

# The pipeline's `routing` that routes stretches of a clip instead of clips.
SEGMENTS = "segments"


def in_segments(options: Any, config) -> Any:
    """Options of a call that asks for it, where the checkpoint can do it and the call names no language."""
    if getattr(config, "router_config", None) is None:
        raise ValueError(
            f"routing={SEGMENTS!r} needs a router, which this checkpoint has not: train one, or say language="
        )
    if options.language is not None:
        raise ValueError(
            f"routing={SEGMENTS!r} finds the languages by itself: leave language={options.language!r} out"
        )
    return replace(options, return_language=True)


def split_by_language(window: Window, model, processor) -> Window:
    """The parts of a window's pieces, which each piece gets as its own; they are batched like pieces."""
    cut = Window(window.batch_size)
    for batch in window.batches():
        features = processor([piece.segment.waveform for piece in batch]).to(model.device)
        for piece, segments in zip(batch, model.language_segments(**features), strict=True):
            piece.parts = language_parts(piece.segment, segments, processor.sampling_rate)
            piece.release()
            for part in piece.parts:
                if part.guarded is None:
                    cut.add(part)
        release_freed_memory()
    return cut


def language_parts(whole: Segment, segments: list, sampling_rate: int) -> list[Piece]:
    """A piece for each language segment of a segment; together they are all of it."""
    # By the first sample of each: the encoder's frames may end a little before or after the sound.
    starts = [0, *(round(segment.start * sampling_rate) for segment in segments[1:]), len(whole.waveform)]
    seconds = [whole.start, *(whole.start + start / sampling_rate for start in starts[1:-1]), whole.end]
    parts = []
    for place, segment in enumerate(segments):
        samples = whole.waveform[starts[place] : starts[place + 1]].copy()
        part = Piece.of(Segment(samples, seconds[place], seconds[place + 1]))
        part.language, part.language_scores = segment.language, segment.scores
        part.adapter_weights = segment.weights
        parts.append(part)
    return parts


def routing_of(batch: list[Piece], options: Any) -> dict[str, Any]:
    """Arguments of `generate` that say which adapters a batch takes."""
    if options.routing != SEGMENTS:
        return {} if options.routing is None else {"routing": options.routing}
    weights = [piece.adapter_weights for piece in batch]
    # Without a bank there is nothing to weigh: the languages alone are told.
    return {} if weights[0] is None else {"routing_weights": torch.stack(weights)}
