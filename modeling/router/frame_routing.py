"""Where in a clip the language changes: the router on sliding windows, smoothed, as segments of time."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...configuration.configuration_router import RouterConfig
from ...configuration.encoder_specs import encoder_spec
from ...configuration.speech_lengths import chain_length
from ..length_masks import length_mask
from .language_router import LanguageRouter

# Overlapping windows are copies of their frames: so many at once keep the copies below 100 MB.
WINDOWS_AT_ONCE = 1024
# Half a second of speech proves nothing beyond this, whatever an overconfident router says: at the default
# penalty, one window cannot win the two changes that it takes to be an island.
LEAST_PROBABILITY = 1e-3


class LanguageSegment(NamedTuple):
    """A stretch of one language, in seconds of its clip."""

    start: float
    end: float
    label: str


class WindowGrid(NamedTuple):
    """Which frames each window of a clip covers: window `w` begins at frame `w * hop`."""

    size: int  # frames of a window; a clip's last one may have fewer
    hop: int
    frames_per_second: float

    def counts(self, lengths: Tensor) -> Tensor:
        """Frames [B] -> windows [B]; a clip shorter than a window is one, a clip without frames none."""
        more = ((lengths - self.size).clamp(min=0) + self.hop - 1) // self.hop
        return torch.where(lengths > 0, more + 1, 0)

    def ends(self, length: int) -> list[float]:
        """For each window of a clip of `length` frames the second when all of it has been heard."""
        count = int(self.counts(torch.tensor([length])))
        return [min(w * self.hop + self.size, length) / self.frames_per_second for w in range(count)]

    def borders(self, length: int) -> list[float]:
        """The seconds between which windows decide, one more than windows: half-way between middles."""
        count = int(self.counts(torch.tensor([length])))
        inner = [((w + 0.5) * self.hop + self.size / 2) / self.frames_per_second for w in range(count - 1)]
        seconds = length / self.frames_per_second
        return [0.0, *(min(border, seconds) for border in inner), seconds]


def window_grid(config: RouterConfig, frames_per_second: float) -> WindowGrid:
    """The windows of a router on an encoder of that rate; at least one frame each."""
    size = max(round(config.window_seconds * frames_per_second), 1)
    hop = max(round(config.hop_seconds * frames_per_second), 1)
    return WindowGrid(size, min(hop, size), frames_per_second)


def encoder_frame_rate(audio_config) -> float:
    """States that an encoder makes of a second of sound: what a further 1000 s of it add."""
    spec = encoder_spec(audio_config)
    steps = spec.frame_steps(audio_config)
    short, long = (chain_length(seconds * spec.inputs_per_second, steps) for seconds in (1, 1001))
    return (long - short) / 1000


@torch.no_grad()
def window_probabilities(router: LanguageRouter, states: Tensor, lengths: Tensor, grid: WindowGrid) -> Tensor:
    """[B, T, D], [B] -> [B, W, labels], W the most windows of any clip; zero beyond a clip's own."""
    counts = grid.counts(lengths.to(states.device))
    most = int(counts.max()) if len(counts) else 0
    output = states.new_zeros(len(states), most, len(router.config.labels), dtype=torch.float32)
    if not most:
        return output
    clips, windows = length_mask(counts, most).nonzero(as_tuple=True)
    starts = windows * grid.hop
    sizes = (lengths.to(states.device)[clips] - starts).clamp(max=grid.size)
    within = torch.arange(grid.size, device=states.device)
    pieces = (part.split(WINDOWS_AT_ONCE) for part in (clips, windows, starts, sizes))
    for clip, window, start, size in zip(*pieces, strict=True):
        frames = (start[:, None] + within).clamp(max=states.shape[1] - 1)
        # B, T, D -> n, size, D
        output[clip, window] = router.probabilities(states[clip[:, None], frames], size)
    return output


def unsmoothed(probabilities: Tensor, counts: Tensor, config: RouterConfig) -> Tensor:
    """Every window by itself."""
    return probabilities.argmax(dim=-1)


def median_smoothed(probabilities: Tensor, counts: Tensor, config: RouterConfig) -> Tensor:
    """Each label's median over `median_windows` neighbours; a clip's first and last window are repeated."""
    reach = config.median_windows // 2
    places = torch.arange(-reach, probabilities.shape[1] + reach, device=counts.device)
    last = (counts - 1).clamp(min=0)[:, None]
    places = torch.minimum(places.clamp(min=0).expand(len(counts), -1), last)
    rows = torch.arange(len(counts), device=counts.device)[:, None]
    # B, W + 2 * reach, L -> B, W, L, neighbours
    neighbours = probabilities[rows, places].unfold(1, config.median_windows, 1)
    return neighbours.median(dim=-1).values.argmax(dim=-1)


def viterbi_smoothed(probabilities: Tensor, counts: Tensor, config: RouterConfig) -> Tensor:
    """The likeliest sequence of labels where each change costs `switch_penalty`."""
    evidence = probabilities.clamp(min=LEAST_PROBABILITY).log()
    # Windows beyond a clip say nothing, so its path ends where the clip does and stays there.
    evidence = evidence.masked_fill(~length_mask(counts, evidence.shape[1])[..., None], 0)
    stay = torch.arange(evidence.shape[-1], device=evidence.device).expand(len(evidence), -1)
    score, came_from = torch.zeros_like(evidence[:, 0]), []
    for window in evidence.unbind(dim=1):
        best, best_label = score.max(dim=-1, keepdim=True)
        switched = best - config.switch_penalty
        came_from.append(torch.where(score >= switched, stay, best_label))
        score = torch.maximum(score, switched) + window
    label = score.argmax(dim=-1, keepdim=True)
    path = []
    for previous in reversed(came_from):
        path.append(label)
        label = previous.gather(-1, label)
    return torch.cat(path[::-1], dim=-1)


SMOOTHERS: dict[str, Callable[[Tensor, Tensor, RouterConfig], Tensor]] = {
    "viterbi": viterbi_smoothed,
    "median": median_smoothed,
    "none": unsmoothed,
}


def window_labels(probabilities: Tensor, counts: Tensor, config: RouterConfig) -> Tensor:
    """[B, W, labels], windows [B] -> the label's index for every window, [B, W]; -1 beyond a clip's own."""
    if not probabilities.shape[1]:
        return counts.new_zeros(len(counts), 0)
    labels = SMOOTHERS[config.smoothing](probabilities, counts, config)
    return labels.masked_fill(~length_mask(counts, labels.shape[1]), -1)


def language_segments(labels: list[str], borders: list[float], shortest: float) -> list[LanguageSegment]:
    """Decisions, and the W + 1 seconds between which they hold, to segments that cover the clip.

    Segments below `shortest` seconds go to their longer neighbour, the shortest first.
    """
    segments = [
        LanguageSegment(start, end, label)
        for label, (start, end) in zip(labels, itertools.pairwise(borders), strict=True)
    ]
    segments = joined(segments)
    while len(segments) > 1:
        place = min(range(len(segments)), key=lambda index: segments[index].end - segments[index].start)
        if segments[place].end - segments[place].start >= shortest:
            break
        neighbours = [index for index in (place - 1, place + 1) if 0 <= index < len(segments)]
        longer = max(neighbours, key=lambda index: segments[index].end - segments[index].start)
        segments[place] = segments[place]._replace(label=segments[longer].label)
        segments = joined(segments)
    return segments


def joined(segments: list[LanguageSegment]) -> list[LanguageSegment]:
    """Neighbours of one label as one segment."""
    runs: list[LanguageSegment] = []
    for segment in segments:
        if runs and runs[-1].label == segment.label:
            runs[-1] = runs[-1]._replace(end=segment.end)
        else:
            runs.append(segment)
    return runs


def route_frames(
    router: LanguageRouter, states: Tensor, lengths: Tensor, frames_per_second: float
) -> list[list[LanguageSegment]]:
    """[B, T, D], [B] -> for every clip its segments by language; none for a clip without frames."""
    config = router.config
    grid = window_grid(config, frames_per_second)
    probabilities = window_probabilities(router, states, lengths, grid)
    counts = grid.counts(lengths.to(states.device))
    found = window_labels(probabilities, counts, config).cpu()
    routed = []
    for row, count, length in zip(found, counts.tolist(), lengths.tolist(), strict=True):
        names = [config.labels[index] for index in row[:count].tolist()]
        borders = grid.borders(length) if count else [0.0]
        routed.append(language_segments(names, borders, config.shortest_segment_seconds))
    return routed
