"""Error rates of recognized texts: words, characters, their kinds, loops, silence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

try:
    import jiwer
except ImportError as error:
    raise ImportError("error rates need jiwer: install speechllm[eval] or speechllm[train]") from error

# A piece of text said this many times in a row is a loop, not speech.
REPEATS = 4
LOOP = re.compile(rf"(.{{1,40}}?)\1{{{REPEATS - 1},}}", re.DOTALL)


def edit_counts(predictions: Sequence[str], references: Sequence[str], unit: str = "words") -> dict[str, int]:
    """`hits`, `substitutions`, `deletions`, `insertions` over all pairs; `unit` is words or characters."""
    check_pairs(predictions, references)
    counts = dict.fromkeys(("hits", "substitutions", "deletions", "insertions"), 0)
    process = {"words": jiwer.process_words, "characters": jiwer.process_characters}[unit]
    pairs = list(zip(predictions, references, strict=True))
    # jiwer takes no empty reference: what is heard in silence is all insertions.
    for heard, said in pairs:
        if not said.strip():
            counts["insertions"] += len(heard.split()) if unit == "words" else len(heard.strip())
    spoken = [(heard, said) for heard, said in pairs if said.strip()]
    if spoken:
        aligned = process([said for _, said in spoken], [heard for heard, _ in spoken])
        for name in counts:
            counts[name] += getattr(aligned, name)
    return counts


def error_rate(counts: dict[str, int]) -> float:
    """Errors for every word or character that was said; 0 where nothing was said and nothing heard."""
    said = counts["hits"] + counts["substitutions"] + counts["deletions"]
    errors = counts["substitutions"] + counts["deletions"] + counts["insertions"]
    return errors / said if said else float(errors > 0)


def repeats_itself(text: str) -> bool:
    """Whether a text holds a loop: a piece of it four times in a row (of one sign: eight times)."""
    found = LOOP.finditer(f"{text} ")  # the last word, too, has its space
    return any(len(loop.group(1).strip()) > 1 or len(loop.group(0)) >= 2 * REPEATS for loop in found)


def judge(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """All that an evaluation reports of its texts."""
    words = edit_counts(predictions, references)
    spoken = [heard for heard, said in zip(predictions, references, strict=True) if said.strip()]
    result: dict[str, Any] = {
        "wer": error_rate(words),
        "cer": error_rate(edit_counts(predictions, references, "characters")),
        **{name: words[name] for name in ("substitutions", "deletions", "insertions")},
        "repetition_rate": share(map(repeats_itself, predictions)),
        "empty_rate": share(not heard.strip() for heard in spoken),
    }
    return {name: float(value) for name, value in result.items()}


def share(marks) -> float:
    """The share of marks that are true; 0 of none."""
    marks = list(marks)
    return sum(marks) / len(marks) if marks else 0.0


def check_pairs(predictions: Sequence[str], references: Sequence[str]) -> None:
    """Raise `ValueError` where the two are not equally many."""
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
