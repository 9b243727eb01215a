"""What was said above what was heard, word under word."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .scoring import ALIGNERS, JudgedClips, errors_of, said_of

LINE_WIDTH = 100
ROWS = ("said ", "heard", "     ")


@dataclass(frozen=True)
class Column:
    """A word that was said above one that was heard; one of them may be missing."""

    said: str
    heard: str
    mark: str  # "", "S", "D" or "I"

    @property
    def width(self) -> int:
        return max(shown_width(self.said), shown_width(self.heard), 1)


def columns_of(said: str, heard: str, unit: str = "words") -> list[Column]:
    """The alignment that the counts of errors are made from."""
    parts = (said.split(), heard.split()) if unit == "words" else (list(said), list(heard))
    if not parts[0]:
        return [Column("", word, "I") for word in parts[1]]
    found = []
    for chunk in ALIGNERS[unit]([said], [heard]).alignments[0]:
        references = parts[0][chunk.ref_start_idx : chunk.ref_end_idx]
        hypotheses = parts[1][chunk.hyp_start_idx : chunk.hyp_end_idx]
        mark = {"equal": "", "substitute": "S", "delete": "D", "insert": "I"}[chunk.type]
        for place in range(max(len(references), len(hypotheses))):
            word = references[place] if references else ""
            other = hypotheses[place] if hypotheses else ""
            found.append(Column(word, other, mark))
    return found


def drawn_alignment(columns: list[Column]) -> str:
    """Three rows of equal columns, broken into blocks that fit a screen: said, heard, kinds of errors."""
    blocks = []
    for block in _blocks(columns):
        cells = [
            (padded(one.said or "*" * one.width, one.width), padded(one.heard or "*" * one.width, one.width),
             padded(one.mark, one.width))
            for one in block
        ]  # fmt: skip
        rows = [
            " ".join([title, *texts]) for title, texts in zip(ROWS, zip(*cells, strict=True), strict=True)
        ]
        blocks.append("\n".join(row.rstrip() for row in rows))
    return "\n\n".join(blocks)


def _blocks(columns: list[Column]) -> Iterator[list[Column]]:
    block: list[Column] = []
    for column in columns:
        if block and sum(one.width + 1 for one in [*block, column]) > LINE_WIDTH:
            yield block
            block = []
        block.append(column)
    if block:
        yield block


def shown_width(text: str) -> int:
    """Columns of a screen: East Asian signs take two, marks on letters none."""
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1
        for sign in text
    )


def padded(text: str, width: int) -> str:
    return text + " " * (width - shown_width(text))


def worst_clips(clips: JudgedClips, count: int) -> list[int]:
    """Places of the answered clips with most errors, the highest rate first among equals; none without."""
    words, characters = errors_of(clips.words), errors_of(clips.characters)
    errors = characters if clips.unspaced else words
    said = said_of(clips.characters if clips.unspaced else clips.words)
    shares = errors / np.maximum(said, 1)
    # Ties of both in the order of the set.
    order = np.lexsort((np.arange(len(clips)), -shares, -errors))
    return [int(place) for place in order if errors[place] and clips.answered[place]][:count]
