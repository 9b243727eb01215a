"""A picture of a clip's frame-level decisions over time, beside the truth."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from speechllm.modeling.router.frame_routing import LanguageSegment

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("pictures need matplotlib: install speechllm[train]") from error

# Okabe and Ito's colours, which the colour-blind tell apart too.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
BAND_NAMES = ("truth", "decided")


def draw_switches(
    path: str | os.PathLike,
    probabilities: np.ndarray,
    borders: Sequence[float],
    found: Sequence[LanguageSegment],
    truth: Sequence[LanguageSegment],
    labels: Sequence[str],
    samples: np.ndarray | None = None,
    title: str = "",
) -> None:
    """Write a PNG: the waveform, each label's probability, and the segments, true and decided.

    `probabilities` `[windows, labels]`, `borders` the windows + 1 seconds between which they hold.
    """
    strange = sorted({segment.label for segment in truth} - set(labels))
    colors = {label: COLORS[index % len(COLORS)] for index, label in enumerate([*labels, *strange])}
    heights = [1, 2.2, 0.9] if samples is not None else [2.2, 0.9]
    figure = Figure(figsize=(11, 0.6 + 1.25 * sum(heights)), dpi=120, layout="constrained")
    panels = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    if samples is not None:
        _draw_waveform(panels[0], samples, borders[-1])
    _draw_probabilities(panels[-2], probabilities, borders, labels, colors)
    _draw_bands(panels[-1], (truth, found), colors)
    for panel in panels:
        for segment in truth[1:]:
            panel.axvline(segment.start, color="black", linestyle=(0, (4, 3)), linewidth=1)
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlim(0, borders[-1])
    panels[-1].set_xlabel("seconds; dashed: true change of language")
    handles, names = panels[-2].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", frameon=False)
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    figure.savefig(path)


def _draw_waveform(panel, samples: np.ndarray, seconds: float) -> None:
    """The range of the samples in each of a thousand columns."""
    columns = np.array_split(samples, min(1000, len(samples)))
    times = np.linspace(0, seconds, len(columns))
    panel.fill_between(
        times, [part.min() for part in columns], [part.max() for part in columns], color="0.45", linewidth=0
    )
    panel.set_yticks([])
    panel.set_ylabel("sound")


def _draw_probabilities(panel, probabilities, borders, labels, colors) -> None:
    """One line a label, at the middle of what each window decides, reaching to both ends."""
    middles = [(start + end) / 2 for start, end in zip(borders, borders[1:], strict=False)]
    middles[0], middles[-1] = borders[0], borders[-1]
    for index, label in enumerate(labels):
        panel.plot(middles, probabilities[:, index], color=colors[label], linewidth=2, label=label)
        panel.fill_between(middles, probabilities[:, index], color=colors[label], alpha=0.12, linewidth=0)
    panel.set_ylim(0, 1.03)
    panel.set_ylabel("probability")


def _draw_bands(panel, bands, colors) -> None:
    """A row of coloured segments for the truth, and one for the decisions below it."""
    for row, segments in enumerate(bands):
        for segment in segments:
            width = segment.end - segment.start
            panel.barh(-row, width, left=segment.start, height=0.8, color=colors[segment.label])
            panel.text(
                segment.start + width / 2, -row, segment.label, ha="center", va="center", clip_on=True,
                color="white", fontweight="bold", fontsize=9,
            )  # fmt: skip
    panel.set_yticks([0, -1], BAND_NAMES)
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
