"""Train, validation and test from one corpus, with nothing in common; and the proof of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

from .normalisers import normaliser
from .utterances import Utterance

SPLITS = ("train", "validation", "test")
SHARES = (0.8, 0.1, 0.1)
Splits = dict[str, list[Utterance]]


def sentence(utterance: Utterance) -> str | None:
    """The normalised text: equal for what is the same sentence; None where nothing is said."""
    return normaliser("basic")(utterance.text) or None


def speaker(utterance: Utterance) -> str | None:
    return utterance.speaker


# What two splits may not share -> how it is read from an utterance.
KEYS: dict[str, Callable[[Utterance], str | None]] = {"text": sentence, "speaker": speaker}


def split_by_text(utterances: Sequence[Utterance], shares: Sequence[float] = SHARES) -> Splits:
    """Each sentence in one split, chosen by its hash: a corpus that grows moves none of its clips."""
    bounds = _bounds(shares)
    splits: Splits = {name: [] for name in SPLITS}
    for utterance in utterances:
        # Silences share an empty text; they are told apart by their file.
        point = _fraction(sentence(utterance) or utterance.name)
        splits[_split_at(point, bounds)].append(utterance)
    return splits


def split_by_speaker(utterances: Sequence[Utterance], shares: Sequence[float] = SHARES) -> Splits:
    """Each speaker in one split: in the order of their hashes, until a split has its share of the clips.

    Every split with a share gets a speaker, so it takes as many speakers as splits.
    """
    clips: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        if utterance.speaker is None:
            raise ValueError(f"{utterance.name} names no speaker; split by text instead")
        clips.setdefault(utterance.speaker, []).append(utterance)
    wanted = [name for name, share in zip(SPLITS, shares, strict=True) if share > 0]
    if len(clips) < len(wanted):
        raise ValueError(f"{len(clips)} speakers cannot fill {len(wanted)} splits; split by text instead")
    _bounds(shares)
    order = sorted(clips, key=_fraction)
    splits: Splits = {name: [] for name in SPLITS}
    # The small splits first, and never the last speakers that the others need; the first takes the rest.
    for name in reversed(wanted):
        others = wanted.index(name)
        share = shares[SPLITS.index(name)] if others else 1.0
        while len(order) > others and (not splits[name] or len(splits[name]) < share * len(utterances)):
            splits[name] += clips[order.pop(0)]
    return splits


SPLITTERS = {"text": split_by_text, "speaker": split_by_speaker}


def split(utterances: Sequence[Utterance], by: str, shares: Sequence[float] = SHARES) -> Splits:
    """`train`, `validation` and `test` that share no `by`: "text" or "speaker"."""
    if by not in SPLITTERS:
        raise ValueError(f"unknown split by {by!r}; there are {sorted(SPLITTERS)}")
    return SPLITTERS[by](utterances, shares)


def shared(splits: Mapping[str, Sequence[Utterance]], by: str) -> dict[tuple[str, str], list[str]]:
    """Pairs of splits -> the sentences or speakers that both hold; empty where they are disjoint."""
    held = {name: {KEYS[by](item) for item in items} - {None} for name, items in splits.items()}
    names = sorted(held)
    pairs = [(one, other) for index, one in enumerate(names) for other in names[index + 1 :]]
    overlaps = {pair: held[pair[0]] & held[pair[1]] for pair in pairs}
    return {pair: sorted(filter(None, items)) for pair, items in overlaps.items() if items}


def prove_disjoint(splits: Mapping[str, Sequence[Utterance]], by: str = "text") -> None:
    """A `ValueError` naming what two splits share, if they share any."""
    for (one, other), items in shared(splits, by).items():
        raise ValueError(f"{one} and {other} share {len(items)} of {by}, among them {items[:3]}")


def _bounds(shares: Sequence[float]) -> list[float]:
    """Where each split begins in [0, 1)."""
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"shares {list(shares)} are not {len(SPLITS)} numbers that add up to 1")
    return [sum(shares[:index]) for index in range(len(SPLITS))]


def _fraction(key: str) -> float:
    """A number in [0, 1) that is the same on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def _split_at(point: float, bounds: Sequence[float]) -> str:
    return next(
        name for name, start in zip(reversed(SPLITS), reversed(bounds), strict=True) if point >= start
    )
