"""Batches of clips of like length, as many as a budget allows, instead of a fixed number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .mixing import Mixture

# How much shorter than the longest clip of its batch a clip may be, where there are clips enough.
BUCKET_WIDTH = 0.06
# Which clips a mixture draws differs from epoch to epoch, and with it the number of batches, a little;
# a trainer that resumes needs the same number in every epoch.
MIXTURE_HEADROOM = 0.03


class BudgetBatchSampler:
    """Batches of indices whose padded cost stays below `budget`; each index once an epoch.

    `costs` `[n]` or `[n, parts]`, say seconds of audio and of text (`SpeechDataset.costs`). A batch costs its
    rows times its longest audio, plus its rows times its longest text: what it takes in memory once padded.

    Which clips meet is drawn anew each epoch from `seed` and `set_epoch`, the number of batches stays.
    That number is a multiple of `multiple_of` (processes x accumulation steps: give the product, and one
    process sees the batches that several see); batches are divided for it, no clip is dropped or repeated.
    With `accelerate`, set `even_batches=False`: it deals the batches out in turn.
    """

    def __init__(
        self,
        costs: np.ndarray | Sequence,
        budget: float,
        seed: int = 0,
        shuffle: bool = True,
        multiple_of: int = 1,
        mixture: Mixture | None = None,
        names: Sequence[str] | None = None,
    ):
        costs = np.asarray(costs, dtype=np.float64)
        self.costs = costs[:, None] if costs.ndim == 1 else costs
        self.budget, self.seed, self.shuffle = budget, seed, shuffle
        self.multiple_of, self.mixture, self.epoch = multiple_of, mixture, 0
        if len(self.costs) == 0:
            raise ValueError("no clips to make batches of")
        self._refuse_above_budget(names)
        self._batches = self._count()

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[list[int]]:
        batches = _divided(self._plan(self.epoch), self._batches)
        order = np.arange(len(batches))
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch, 1]).permutation(len(batches))
        # A mixture may, rarely, make more batches than were promised: these come in a later epoch.
        for index in order[: self._batches]:
            yield batches[index].tolist()

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def sampler(self) -> BudgetBatchSampler:
        """Where accelerate looks for `set_epoch`, once it has wrapped this for several processes."""
        return self

    def cost(self, batch: Sequence[int]) -> float:
        """What a batch takes once it is padded."""
        return float(len(batch) * self.costs[batch].max(axis=0).sum())

    def padding(self, part: int = 0) -> float:
        """The share of this epoch's batches that is padding, of audio (part 0) or of another part."""
        batches = list(self)
        padded = sum(len(batch) * self.costs[batch, part].max() for batch in batches)
        return 1 - sum(self.costs[batch, part].sum() for batch in batches) / padded

    def _refuse_above_budget(self, names: Sequence[str] | None) -> None:
        totals = self.costs.sum(axis=1)
        if not np.isfinite(totals).all() or totals.min() <= 0:
            index = int(np.argmax(~np.isfinite(totals) | (totals <= 0)))
            name = names[index] if names is not None else index
            raise ValueError(f"clip {name} costs {totals[index]}, which is no length; filter the data first")
        above = np.flatnonzero(totals > self.budget)
        if len(above):
            longest = int(above[totals[above].argmax()])
            name = names[longest] if names is not None else longest
            raise ValueError(
                f"{len(above)} clips cost more than the budget of {self.budget:g}, clip {name} most, with "
                f"{totals[longest]:.1f}: raise the budget, or drop them with a filter (max_seconds)"
            )

    def _count(self) -> int:
        plan = self._plan(0)
        batches = len(plan) if self.mixture is None else int(np.ceil(len(plan) * (1 + MIXTURE_HEADROOM)))
        batches = -(-batches // self.multiple_of) * self.multiple_of
        clips = sum(map(len, plan))
        if clips < batches:
            # Too few clips for the headroom; without it, too few for the processes.
            batches = clips // self.multiple_of * self.multiple_of
        if batches < len(plan) and self.mixture is None or not batches:
            raise ValueError(
                f"{clips} clips make {len(plan)} batches, which cannot become a multiple of "
                f"{self.multiple_of}: raise the budget, or use fewer processes or accumulation steps"
            )
        return batches

    def _plan(self, epoch: int) -> list[np.ndarray]:
        """All clips of the epoch in batches, the longest first."""
        generator = np.random.default_rng([self.seed, epoch, 0])
        indices = np.arange(len(self.costs)) if self.mixture is None else self.mixture.indices(epoch)
        ordered = indices[np.argsort(-self.costs[indices].sum(axis=1), kind="stable")]
        batches: list[np.ndarray] = []
        while len(ordered):
            clips, rows = self._bucket(ordered)
            bucket, ordered = ordered[:clips], ordered[clips:]
            if self.shuffle:
                bucket = generator.permutation(bucket)
            batches += [bucket[start : start + rows] for start in range(0, clips, rows)]
        return batches

    def _bucket(self, ordered: np.ndarray) -> tuple[int, int]:
        """How many of the longest clips left are shuffled among themselves, and how many make a batch.

        A whole number of full batches. Any choice of clips of a bucket keeps the budget, for the longest
        audio and the longest text of all of them are reckoned with.
        """
        costs = self.costs[ordered]
        totals = costs.sum(axis=1)
        near = int(np.searchsorted(-totals, -totals[0] * (1 - BUCKET_WIDTH), side="right"))
        longest = np.maximum.accumulate(costs[: max(near, self._reach(totals[0]))], axis=0).sum(axis=1)
        rows = int(self.budget // longest[near - 1]) or 1
        if longest[near - 1] * rows > self.budget or near < rows:
            # Few clips of this length: as many as fit, whatever their lengths.
            fitting = np.arange(1, len(longest) + 1) * longest <= self.budget
            rows = max(1, int(fitting.argmin()) if not fitting.all() else len(longest))
            return rows, rows
        return near // rows * rows, rows

    def _reach(self, longest: float) -> int:
        return int(self.budget // longest) + 1


def _divided(batches: list[np.ndarray], count: int) -> list[np.ndarray]:
    """`count` batches of the same clips: those with the most clips are halved. Never fewer than given."""
    batches = list(batches)
    while len(batches) < count:
        most = max(range(len(batches)), key=lambda index: len(batches[index]))
        half = len(batches[most]) // 2
        batches += [batches[most][half:]]
        batches[most] = batches[most][:half]
    return batches
