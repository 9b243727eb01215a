"""Which frames each token of a text takes: dynamic time warping over where its decoder looked."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Differences between attention weights below this are rounding, and are not blown up.
LEAST_SPREAD = 1e-12


def standing_out(weights: Tensor, filter_width: int) -> Tensor:
    """Attention weights `[heads, N, T]` -> how much more than others a token looks at one, `[N, T]`."""
    spread, mean = torch.std_mean(weights, dim=1, keepdim=True, correction=0)
    normed = (weights - mean) / spread.clamp(min=LEAST_SPREAD)
    total = torch.zeros_like(normed[0])
    # Head by head: the planes of one stay in the processor's cache, which is four times as fast.
    for head in normed:
        total += median_filter(head, filter_width)
    return total


def median_filter(rows: Tensor, width: int) -> Tensor:
    """Medians of `width` neighbours (odd) along the last dimension of `[N, T]`, which its ends reflect."""
    reach, size = width // 2, rows.shape[-1]
    if size <= reach:
        return rows
    padded = F.pad(rows, (reach, reach), mode="reflect")
    planes = [padded[..., start : start + size] for start in range(width)]
    # Of more than half of the neighbours, neither the least nor the greatest is the median: these two leave
    # and another neighbour comes, until one is left. Sorting all of them takes eight times as long.
    kept, rest = planes[: reach + 2], planes[reach + 2 :]
    while len(kept) > 1:
        for place in range(1, len(kept)):
            kept[0], kept[place] = torch.minimum(kept[0], kept[place]), torch.maximum(kept[0], kept[place])
        for place in range(1, len(kept) - 1):
            kept[place], kept[-1] = torch.minimum(kept[place], kept[-1]), torch.maximum(kept[place], kept[-1])
        kept, rest = kept[1:-1] + rest[:1], rest[1:]
    return kept[0]


def first_frames(matrices: list[np.ndarray]) -> list[np.ndarray]:
    """The frame at which each token begins, `[N]`, for matrices `[N, T]` of gains that differ in size.

    The first token begins at the first frame and the last one ends at the last; each step between goes on by
    a token, by a frame or by both, and the way on which most is gained is taken.
    """
    counts = np.array([len(matrix) for matrix in matrices])
    frame = np.array([matrix.shape[1] - 1 for matrix in matrices])
    rows, tokens = np.arange(len(matrices)), int(counts.max())
    entries, together = _ways(matrices, tokens, int(frame.max()) + 1)
    firsts = np.zeros((tokens, len(matrices)), dtype=np.int64)
    for token in range(tokens - 1, 0, -1):
        entry = entries[token, rows, frame]
        counted = token < counts
        firsts[token] = np.where(counted, entry, 0)
        frame = np.where(counted, entry - together[token, rows, entry], frame)
    return [firsts[:count, row] for row, count in enumerate(counts)]


def _ways(matrices: list[np.ndarray], tokens: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """For every token and frame, `[N, B, T]`: where the best way to there enters the token, and whether by a
    step in both directions.

    A token takes a stretch of frames, whose gain is a difference of two running sums, so the best entry is a
    running maximum: one pass over all frames and rows a token, none over single frames.
    """
    gains = np.zeros((tokens, len(matrices), frames), dtype=np.float32)
    for row, matrix in enumerate(matrices):
        gains[: matrix.shape[0], row, : matrix.shape[1]] = matrix
    entries = np.zeros(gains.shape, dtype=np.int32)
    together = np.zeros(gains.shape, dtype=bool)
    places = np.arange(frames, dtype=np.int32)
    gained = gains[0].cumsum(axis=-1, dtype=np.float64)  # B, T
    for token in range(1, tokens):
        sums = gains[token].cumsum(axis=-1, dtype=np.float64)
        earlier = np.pad(gained[:, :-1], ((0, 0), (1, 0)), constant_values=-np.inf)
        together[token] = earlier >= gained
        lead = np.maximum(earlier, gained) - (sums - gains[token])
        best = np.maximum.accumulate(lead, axis=-1)
        better = np.ones(lead.shape, dtype=bool)
        better[:, 1:] = lead[:, 1:] > best[:, :-1]
        entries[token] = np.maximum.accumulate(np.where(better, places, 0), axis=-1)
        gained = best + sums
    return entries, together
