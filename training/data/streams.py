"""Endless streams of speech from datasets that are too large to hold, mixed by weight and resumable."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from .cleaning import check_rules
from .datasets import Item, item_of
from .filters import DropReport, FilterSettings, length_problem, reading_problem, text_problem
from .hub import row_utterances
from .mixing import mixture_shares
from .sounds import SAMPLING_RATE, read_sound
from .utterances import Utterance

# Rows that are shuffled among themselves, and read again when a run is resumed inside of them.
BLOCK_ROWS = 256
Block = tuple[list[Utterance], Any]


class Rows(Protocol):
    """What a stream reads: the rows that shard `index` of `count` sees in one pass, in blocks.

    With each block comes the state from which the one after it is read.
    """

    def blocks(self, seed: int, number: int, index: int, count: int, state: Any) -> Iterator[Block]: ...


class ListRows:
    """Utterances in memory as rows of a stream."""

    def __init__(self, utterances: Sequence[Utterance]):
        self.utterances = utterances

    def blocks(self, seed: int, number: int, index: int, count: int, state: Any) -> Iterator[Block]:
        order = np.random.default_rng([seed, number]).permutation(len(self.utterances))
        # Fewer clips than readers: each reader has them all.
        order = order[index::count] if len(order) >= count else order
        for start in range(state or 0, len(order), BLOCK_ROWS):
            block = [self.utterances[position] for position in order[start : start + BLOCK_ROWS]]
            yield block, start + BLOCK_ROWS


class DatasetRows:
    """A streamed dataset (`open_dataset(..., streaming=True)`) as rows of a stream."""

    def __init__(self, rows: Any, columns: Mapping[str, str] | None = None, name: str = "stream"):
        self.rows, self.columns, self.name = rows, columns, name

    def blocks(self, seed: int, number: int, index: int, count: int, state: Any) -> Iterator[Block]:
        by_files = self.rows.num_shards >= count
        # A copy: its place in the stream belongs to this reader alone.
        rows = self.rows.shard(count, index) if by_files else copy.deepcopy(self.rows)
        # The order of its files changes with the epoch; 0 would leave it as it is.
        rows.set_epoch(1 + seed + 1000 * number)
        first = 0
        if state is not None:
            rows.load_state_dict(state["rows"])
            first = state["first"]
        # Not `iter(rows)`: that deals files out to worker processes by itself, and leaves some with none.
        for batch in rows.iter(batch_size=BLOCK_ROWS):
            block = list(row_utterances(batch, self.columns, self.name))
            after = first + len(block)
            mine = (
                block
                if by_files
                else [row for place, row in enumerate(block, first) if place % count == index]
            )
            yield mine, {"rows": rows.state_dict(), "first": after}
            first = after


@dataclass
class StreamSource:
    """One corpus of a stream, and what of it is used."""

    rows: Rows
    name: str = "stream"
    weight: float = 1.0
    settings: FilterSettings = field(default_factory=FilterSettings)
    rules: Sequence[str] = ()
    barred: Collection[str] = ()

    def __post_init__(self):
        self.rules = check_rules(self.rules)
        self.report = DropReport(self.name)

    def item(self, utterance: Utterance) -> Item | None:
        """The utterance decoded; None, counted and named, where it cannot be used."""
        utterance, reason = text_problem(utterance, self.settings, self.rules, self.barred)
        detail, audio = utterance.text[:60], np.zeros(0, dtype=np.float32)
        if reason is None:
            try:
                audio = read_sound(utterance)
                seconds = len(audio) / SAMPLING_RATE
                reason, detail = length_problem(utterance.text, seconds, self.settings), f"{seconds:.2f} s"
            except (ValueError, OSError) as error:
                reason, detail = reading_problem(error), str(error)
        if reason is not None:
            self.report.drop(reason, utterance, detail)
            return None
        self.report.keep(len(audio) / SAMPLING_RATE)
        return item_of(utterance, audio)


class SpeechStream(torch.utils.data.IterableDataset):
    """Endless items of several corpora, each drawn with its weight; a trainer needs `max_steps`.

    Of `world_size` processes with any number of workers each, every reader sees its own rows. So a data
    loader over it must not be divided again: hand it to the training loop as it is.

    `state_dict()` after any item, `load_state_dict()` on a stream of the same making: the items go on as if
    nothing had been. (In worker processes the state is theirs; a stateful data loader collects it.)
    """

    def __init__(self, sources: Sequence[StreamSource], seed: int = 0, rank: int = 0, world_size: int = 1):
        self.sources, self.seed = list(sources), seed
        self.rank, self.world_size = rank, world_size
        self.shares = mixture_shares([source.weight for source in self.sources])
        self._drawn = 0
        self._cursors: list[_Cursor] = []
        self._resumed: dict | None = None

    def __iter__(self) -> Iterator[Item]:
        worker = torch.utils.data.get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        reader = (self.rank * workers + number, self.world_size * workers)
        resumed, self._resumed = self._resumed or {}, None
        self._drawn = resumed.get("drawn", 0)
        places = resumed.get("sources", [None] * len(self.sources))
        self._cursors = [
            _Cursor(source, [self.seed, index], reader, place)
            for index, (source, place) in enumerate(zip(self.sources, places, strict=True))
        ]
        bounds = np.cumsum(self.shares)
        while True:
            # From the number of the draw alone, so that it needs no state.
            point = np.random.default_rng([self.seed, reader[0], self._drawn]).random() * bounds[-1]
            item = self._cursors[int(np.searchsorted(bounds, point, side="right"))].next_item()
            self._drawn += 1
            yield item

    def state_dict(self) -> dict[str, Any]:
        """Where each corpus stands; a resumed stream that was not begun says what it was told."""
        if not self._cursors:
            return self._resumed or {"drawn": 0, "sources": [None] * len(self.sources)}
        return {"drawn": self._drawn, "sources": [cursor.place() for cursor in self._cursors]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if len(state["sources"]) != len(self.sources):
            raise ValueError(
                f"the state is of {len(state['sources'])} corpora, the stream of {len(self.sources)}"
            )
        self._resumed, self._cursors = dict(state), []

    def reports(self) -> list[DropReport]:
        """What each corpus lost so far, in all processes of this machine's loader."""
        return [source.report for source in self.sources]


class _Cursor:
    """The place in one corpus: its pass, the block in hand, and how much of that is used."""

    def __init__(self, source: StreamSource, seed: list[int], reader: tuple[int, int], place: dict | None):
        self.source, self.seed, self.reader = source, seed, reader
        self.number, self.block_number, self.position = 0, 0, 0
        self.given = False
        self.before: Any = None
        self.block: list[Utterance] = []
        if place is not None:
            self.number, self.block_number = place["pass"], place["block"]
            self.given = place["given"]
            self._open(place["before"])
            self._next_block()
            self.position = place["position"]
        else:
            self._open(None)

    def place(self) -> dict[str, Any]:
        names = {"pass": self.number, "block": self.block_number - 1, "given": self.given}
        if not self.block_number:
            names["block"] = 0
        return {**names, "before": self.before, "position": self.position}

    def next_item(self) -> Item:
        while True:
            while self.position >= len(self.block):
                self._next_block()
            utterance = self.block[self.position]
            self.position += 1
            item = self.source.item(utterance)
            if item is not None:
                self.given = True
                return item

    def _open(self, state: Any) -> None:
        self.after = state
        seed = int(np.random.default_rng(self.seed).integers(2**31))
        self.blocks = self.source.rows.blocks(seed, self.number, *self.reader, state)

    def _next_block(self) -> None:
        """The next block, shuffled; after the last, the first of the next pass."""
        while True:
            self.before = self.after
            found = next(self.blocks, None)
            if found is not None:
                break
            if not self.given:
                line = self.source.report.line()
                raise RuntimeError(f"not one clip of a whole pass can be used: {line}")
            self.number, self.block_number, self.given = self.number + 1, 0, False
            self._open(None)
        rows, self.after = found
        order = np.random.default_rng([*self.seed, self.number, self.block_number]).permutation(len(rows))
        self.block, self.position = [rows[place] for place in order], 0
        self.block_number += 1


class BatchedStream(torch.utils.data.IterableDataset):
    """Lists of items of like length, as many as `budget` seconds of padded audio allow.

    For a `DataLoader(..., batch_size=None, collate_fn=...)`. Of `window` items, sorted by length, batches are
    made and given in a seeded order; an item above the budget is refused by name.
    """

    def __init__(self, stream: SpeechStream, budget: float, window: int = BLOCK_ROWS):
        self.stream, self.budget, self.window = stream, budget, window

    def __iter__(self) -> Iterator[list[Item]]:
        items = iter(self.stream)
        for number in itertools.count():
            window = sorted(itertools.islice(items, self.window), key=lambda item: -item["seconds"])
            batches: list[list[Item]] = []
            for item in window:
                if item["seconds"] > self.budget:
                    raise ValueError(
                        f"clip {item['id']} of {item['seconds']:.1f} s is above the budget of "
                        f"{self.budget:g} s: raise the budget, or lower max_seconds"
                    )
                # Sorted: the first of a batch is its longest.
                if batches and (len(batches[-1]) + 1) * batches[-1][0]["seconds"] <= self.budget:
                    batches[-1].append(item)
                else:
                    batches.append([item])
            for place in np.random.default_rng([self.stream.seed, number]).permutation(len(batches)):
                yield batches[place]
