"""Scores as Markdown tables."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from .rendering import cell, markdown_table
from .score_pictures import snr_text
from .scores import METRICS, Evaluation, Score


def set_table(evaluation: Evaluation) -> str:
    """A row a set."""
    return _table(evaluation.whole_sets, ["set"], lambda one: (one.set,))


def language_table(evaluation: Evaluation) -> str:
    """A row for each set and language; empty where there is but one language."""
    if len({one.language for one in evaluation.languages}) < 2:
        return ""
    return _table(evaluation.languages, ["set", "language"], lambda one: (one.set, one.language))


def noise_table(evaluation: Evaluation) -> str:
    """A row for each set, noise and ratio."""
    titles = ["set", "noise", "speech to noise"]
    return _table(evaluation.noisy, titles, lambda one: (one.set, one.noise, snr_text(one.snr_db)))


def _table(scores: list[Score], titles: list[str], key: Callable[[Score], tuple[Hashable, ...]]) -> str:
    """Scores of one key in one row, a column a metric."""
    if not scores:
        return ""
    metrics = [metric for metric in METRICS if any(one.metric == metric for one in scores)]
    rows: dict[tuple, dict[str, Score]] = {}
    for one in scores:
        rows.setdefault(key(one), {})[one.metric] = one
    lines: list[list[Any]] = []
    for names, found in rows.items():
        clips = next(iter(found.values())).clips
        values = [found[metric].percent() if metric in found else "" for metric in metrics]
        lines.append([*map(cell, names), f"{clips:,}" if clips is not None else "", *values])
    columns = [*titles, "clips", *(f"{METRICS[metric]}, %" for metric in metrics)]
    return markdown_table(columns, lines, "l" * len(titles) + "r" * (1 + len(metrics)))
