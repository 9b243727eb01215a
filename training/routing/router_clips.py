"""What a router is trained on: the frozen encoder's states of clips, and how they are drawn and batched."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

# Batches that are sorted by length together: more save padding, fewer leave more to chance.
BATCHES_SORTED_TOGETHER = 16


class RouterClips(torch.utils.data.Dataset):
    """Clips with their labels; clip `i` is `(states, index of its label among names)`.

    `states`: a tensor `[frames, width]` a clip, of any dtype and number of frames, or, for a router whose
    pooling has no weights, `[width]` as `LanguageRouter.pool` made it.
    """

    def __init__(self, states: Sequence[Tensor], labels: Sequence[str], names: Sequence[str]):
        if len(states) != len(labels) or not len(states):
            raise ValueError(f"{len(states)} clips with {len(labels)} labels: give one label for each clip")
        unknown = sorted(set(labels) - set(names))
        if unknown:
            raise ValueError(f"labels {', '.join(unknown)} are unknown to the router of {', '.join(names)}")
        dimensions = sorted({clip.dim() for clip in states})
        if dimensions not in ([1], [2]):
            raise ValueError(f"clips with {dimensions} dimensions: all are [frames, width], or all [width]")
        self.states, self.names = list(states), list(names)
        self.labels = torch.tensor([self.names.index(label) for label in labels])
        self.pooled = dimensions == [1]
        self.lengths = torch.tensor([1 if self.pooled else len(clip) for clip in states])

    @classmethod
    def from_padded(cls, states: Tensor, lengths: Tensor, labels: Sequence[str], names: Sequence[str]):
        """From `[B, T, width]`, right-padded, and lengths `[B]`; the padding is not kept."""
        clips = [row[:length].clone() for row, length in zip(states, lengths.tolist(), strict=True)]
        return cls(clips, labels, names)

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.states[index], int(self.labels[index])

    def counts(self) -> Tensor:
        """Clips of every label, `[labels]`."""
        return torch.bincount(self.labels, minlength=len(self.names))

    def batch(
        self,
        indices: Sequence[int],
        generator: torch.Generator | None = None,
        shortest: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`[B, T, width]`, lengths `[B]` and labels `[B]`; `[B, width]` where clips are pooled.

        With `shortest`, a random stretch of each clip, of at least so many frames.
        """
        clips = [self.states[index] for index in indices]
        if self.pooled:
            return torch.stack(clips), self.lengths[list(indices)], self.labels[list(indices)]
        if shortest is not None:
            clips = [stretch(clip, shortest, generator) for clip in clips]
        lengths = torch.tensor([len(clip) for clip in clips])
        return pad_sequence(clips, batch_first=True), lengths, self.labels[list(indices)]

    def batches(
        self, indices: Sequence[int], size: int, generator: torch.Generator | None = None
    ) -> list[list[int]]:
        """Lists of up to `size` of `indices`, like lengths together, in a random order of batches.

        Without a generator they come in the order of length.
        """
        pool = size * (BATCHES_SORTED_TOGETHER if generator is not None else len(indices))
        pools = [list(indices[start : start + pool]) for start in range(0, len(indices), pool)]
        ordered = [sorted(part, key=lambda index: int(self.lengths[index])) for part in pools]
        cut = [part[start : start + size] for part in ordered for start in range(0, len(part), size)]
        if generator is None:
            return cut
        return [cut[index] for index in torch.randperm(len(cut), generator=generator).tolist()]


def stretch(clip: Tensor, shortest: int, generator: torch.Generator | None) -> Tensor:
    """A random piece of `[frames, width]`, every length from `shortest` to all of it alike."""
    frames = len(clip)
    if frames <= shortest:
        return clip
    length = int(torch.randint(shortest, frames + 1, (), generator=generator))
    start = int(torch.randint(0, frames - length + 1, (), generator=generator))
    return clip[start : start + length]


def shuffled(count: int, generator: torch.Generator) -> list[int]:
    """All indices once."""
    return torch.randperm(count, generator=generator).tolist()


def balanced(labels: Tensor, generator: torch.Generator) -> list[int]:
    """About as many indices as there are labels, every label as often: rare ones repeat, common ones rest."""
    present = labels.unique().tolist()
    quota = -(-len(labels) // len(present))
    drawn: list[int] = []
    for label in present:
        drawn += _drawn((labels == label).nonzero()[:, 0], quota, generator)
    return [drawn[place] for place in shuffled(len(drawn), generator)]


def _drawn(members: Tensor, quota: int, generator: torch.Generator) -> list[int]:
    """`quota` of them: all of them as often as they go in, then a random few."""
    rounds = -(-quota // len(members))
    orders = [members[torch.randperm(len(members), generator=generator)] for _ in range(rounds)]
    return torch.cat(orders)[:quota].tolist()
