"""Pictures of an evaluation: rates by language, by length and under noise, with intervals; confusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .evaluation import Evaluation, NoiseResult, SetResult
from .identification import Identification
from .scoring import Score
from .tables import confusion_matrix, snr_name

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("pictures need matplotlib: install speechllm[train]") from error

# Okabe and Ito's colours, which the colour-blind tell apart too.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#000000")
MARKERS = "osD^vPX*"
DPI = 130
WIDEST = 14.0
# Beyond it single groups of a rate that runs wild would press all others together.
HIGHEST_SHOWN = 1.5
ALL = "all"


def draw_evaluation(evaluation: Evaluation, folder: Path) -> list[str]:
    """Write every picture there is something for; their file names."""
    written = []
    for chosen in evaluation.set_names:
        results = [one for one in evaluation.results if one.chosen == chosen]
        name = chosen.replace(" ", "-")
        by_language = [
            {ALL: one.score, **(one.by_language if len(one.by_language) > 1 else {})} for one in results
        ]
        draw_groups(
            folder / f"languages.{name}.png", results, by_language, f"Error rate by language, {chosen}"
        )
        draw_groups(
            folder / f"lengths.{name}.png",
            results,
            [one.by_length for one in results],
            f"Error rate by length of clip, {chosen}",
        )
        written += [f"languages.{name}.png", f"lengths.{name}.png"]
        for one in results:
            if one.identification is not None:
                picture = f"confusion.{one.system}.{name}.png"
                title = f"Languages as {one.system} finds them, {chosen}"
                draw_confusion(folder / picture, one.identification, title)
                written.append(picture)
        points = [one for one in evaluation.noise if one.chosen == chosen]
        if points:
            draw_noise(folder / f"noise.{name}.png", points, f"Error rate under noise, {chosen}")
            written.append(f"noise.{name}.png")
    return written


def languages_and_all(one: SetResult) -> dict[str, Score]:
    """The rate of all clips, then those of the languages where there are several."""
    return {ALL: one.score, **(one.by_language if len(one.by_language) > 1 else {})}


def draw_groups(
    path: Path, results: Sequence[SetResult], scores: Sequence[Mapping[str, Score]], title: str
) -> None:
    """Bars side by side, a colour a system, with whiskers for the intervals."""
    groups = list(dict.fromkeys(name for one in scores for name in one))
    inches = min(max(6.0, 1.6 + 0.24 * len(groups) * (len(results) + 1)), WIDEST)
    figure = Figure(figsize=(inches, 4.4), dpi=DPI)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    width = 0.8 / len(results)
    tops = [0.05]
    for column, (one, found) in enumerate(zip(results, scores, strict=True)):
        shown = [(place, found[name]) for place, name in enumerate(groups) if name in found]
        shown = [(place, score) for place, score in shown if score.rate is not None]
        places = [place + (column - (len(results) - 1) / 2) * width for place, _ in shown]
        rates = np.array([score.rate for _, score in shown])
        tops += [score.interval.high if score.interval else float(score.rate or 0) for _, score in shown]
        color = COLORS[column % len(COLORS)]
        axes.bar(places, rates, width * 0.92, color=color, label=one.system, zorder=2)
        axes.errorbar(places, rates, _whiskers([score for _, score in shown]), fmt="none", ecolor="0.15",
                      elinewidth=1, capsize=2.5, zorder=3)  # fmt: skip
    clips = [max(found[name].clips for found in scores if name in found) for name in groups]
    labels = [f"{name}{_mark(name, scores)}\n{count}" for name, count in zip(groups, clips, strict=True)]
    axes.set_xticks(range(len(groups)), labels)
    cut = set_height(axes, max(tops))
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_xlabel("below: clips; whiskers: 95 % bootstrap intervals", fontsize=8, color="0.35")
    _finish(figure, axes, f"{title}{cut}", len(results))
    figure.savefig(path)


def draw_noise(path: Path, points: Sequence[NoiseResult], title: str) -> None:
    """A panel a noise: rates from clean to loud, a line a system, with whiskers for the intervals."""
    noises = list(dict.fromkeys(one.noise for one in points))
    systems = list(dict.fromkeys(one.system for one in points))
    snrs = sorted({one.snr_db for one in points}, reverse=True)
    figure = Figure(figsize=(1.2 + 3.7 * len(noises), 4.2), dpi=DPI)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, len(noises), sharey=True, squeeze=False)[0]
    for panel, noise in zip(panels, noises, strict=True):
        for column, system in enumerate(systems):
            mine = [one for one in points if (one.noise, one.system) == (noise, system)]
            found = {one.snr_db: one.score for one in mine}
            shift = 0.07 * (column - (len(systems) - 1) / 2)
            _draw_line(panel, [found[snr_db] for snr_db in snrs], shift, column, system)
        panel.set_title(noise.replace("_", " "), fontsize=10)
        panel.set_xticks(range(len(snrs)), [snr_name(snr_db).removesuffix(" dB") for snr_db in snrs])
        panel.set_xlim(-0.3, len(snrs) - 0.7)
        panel.set_xlabel("speech above noise, dB")
    highest = max((one.score.interval.high if one.score.interval else one.score.rate or 0) for one in points)
    cut = set_height(panels[0], max(highest, 0.05))
    _finish(figure, panels[0], f"{title}{cut}", len(systems))
    for panel in panels[1:]:
        panel.grid(axis="y", color="0.88", zorder=0)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def set_height(axes, highest: float) -> str:
    """Room for all that is shown, up to a limit; what the title says of that limit."""
    axes.set_ylim(0, min(highest * 1.06, HIGHEST_SHOWN))
    return f" (cut off at {100 * HIGHEST_SHOWN:g} %)" if highest > HIGHEST_SHOWN else ""


def draw_confusion(path: Path, found: Identification, title: str) -> None:
    """Shares of each spoken language, by the language found."""
    spoken, columns, shares = confusion_matrix(found)
    figure = Figure(figsize=(max(4.6, 2.2 + 0.52 * len(columns)), 1.6 + 0.46 * len(spoken)), dpi=DPI)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row in range(len(spoken)):
        for column in range(len(columns)):
            if shares[row, column] > 0:
                ink = "white" if shares[row, column] > 0.6 else "black"
                shown = f"{100 * shares[row, column]:.0f}"
                axes.text(column, row, shown, ha="center", va="center", color=ink, fontsize=8)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(spoken)), spoken)
    axes.set(xlabel="found", ylabel="spoken")
    axes.set_title(
        f"{title}\n{100 * found.accuracy:.1f} % right of {found.clips}; per cent of each row",
        fontsize=9,
        loc="left",
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.savefig(path)


def _draw_line(panel, scores: Sequence[Score], shift: float, column: int, system: str) -> None:
    """One system's rates; `shift` keeps systems apart whose rates are the same."""
    color, marker = COLORS[column % len(COLORS)], MARKERS[column % len(MARKERS)]
    shown = [(place + shift, score) for place, score in enumerate(scores) if score.rate is not None]
    panel.errorbar(
        [place for place, _ in shown],
        np.array([score.rate for _, score in shown]),
        _whiskers([score for _, score in shown]),
        color=color,
        marker=marker,
        markersize=5,
        linewidth=1.8,
        elinewidth=1,
        capsize=2.5,
        label=system,
        zorder=3,
    )


def _whiskers(scores: Sequence[Score]) -> np.ndarray:
    """How far intervals reach below and above their rates, `[2, n]`."""
    reach = [
        (max(rate - score.interval.low, 0), max(score.interval.high - rate, 0)) if score.interval else (0, 0)
        for score in scores
        for rate in [score.rate or 0.0]
    ]
    return np.array(reach).reshape(-1, 2).T


def _mark(name: str, scores: Sequence[Mapping[str, Score]]) -> str:
    return " (CER)" if any(name in one and one[name].measure == "cer" for one in scores) else ""


def _finish(figure, axes, title: str, systems: int) -> None:
    """What pictures share: per cent, a grid behind, a legend where there is something to tell apart."""
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}")
    axes.set_ylabel("word error rate, %")
    axes.grid(axis="y", color="0.88", zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    handles, names = axes.get_legend_handles_labels()
    if systems > 1:
        figure.legend(
            handles, names, loc="outside lower center", ncols=min(systems, 4), frameon=False, fontsize=9
        )
