"""Mixing of corpora by weight: a weight is the share of a batch's clips that a corpus gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Mixture:
    """Which clips an epoch consists of, when corpora are mixed at true proportions.

    Weights .8/.2 make 80 % and 20 % of the clips of every epoch, whatever the sizes of the corpora: a small
    one is repeated, a large one is gone through over several epochs. No clip comes again before every other
    clip of its corpus has come.

    `sizes`: clips of each corpus, which lie one after the other; `size`: clips of an epoch, by default as
    many as there are.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int, size: int | None = None):
        self.shares = mixture_shares(weights)
        if len(sizes) != len(weights):
            raise ValueError(f"{len(sizes)} corpora but {len(weights)} weights")
        for index, (clips, share) in enumerate(zip(sizes, self.shares, strict=True)):
            if share > 0 and clips == 0:
                raise ValueError(f"corpus {index} has a weight of {weights[index]} and no clips")
        self.sizes, self.seed = tuple(sizes), seed
        self.size = sum(sizes) if size is None else size
        self.counts = _apportioned(self.shares, self.size)

    def __len__(self) -> int:
        return self.size

    def indices(self, epoch: int) -> np.ndarray:
        """The clips of an epoch, `[size]`, corpus after corpus; depends on nothing but seed and epoch."""
        drawn, offset = [], 0
        for source, (clips, count) in enumerate(zip(self.sizes, self.counts, strict=True)):
            drawn.append(offset + self._draws(source, clips, epoch * count, count))
            offset += clips
        return np.concatenate(drawn)

    def _draws(self, source: int, clips: int, start: int, count: int) -> np.ndarray:
        """Draws `start ... start + count` of the endless sequence of shuffles of one corpus."""
        if not count:
            return np.zeros(0, dtype=np.int64)
        passes = range(start // clips, (start + count - 1) // clips + 1)
        orders = [np.random.default_rng([self.seed, source, number]).permutation(clips) for number in passes]
        first = start - passes[0] * clips
        return np.concatenate(orders)[first : first + count]


def mixture_shares(weights: Sequence[float]) -> list[float]:
    """Weights that add up to 1."""
    if not weights or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise ValueError(f"weights {list(weights)}: give numbers from 0 on, one of them above it")
    return [weight / sum(weights) for weight in weights]


def _apportioned(shares: Sequence[float], size: int) -> list[int]:
    """Whole numbers that add up to `size`, the largest remainders rounded up."""
    exact = np.array(shares) * size
    counts = np.floor(exact).astype(int)
    for index in np.argsort(counts - exact, kind="stable")[: size - counts.sum()]:
        counts[index] += 1
    return counts.tolist()
