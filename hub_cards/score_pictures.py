"""Pictures of scores: a bar a language, a line a noise."""

from __future__ import annotations

import io

from matplotlib import pyplot

from .architecture import INK, TRAINED
from .scores import METRICS, Evaluation, Score

LINES = ("#5b84b1", "#d97a1d", "#4d9a6a", "#8b5fa8", "#b0413e", "#6b7280")


def score_pictures(evaluation: Evaluation) -> dict[str, bytes]:
    """File name -> PNG, of what there is to be shown."""
    pictures = {}
    for metric in METRICS:
        by_language = [one for one in evaluation.languages if one.metric == metric]
        if len({one.language for one in by_language}) > 1:
            pictures[f"{metric}_by_language.png"] = bars(by_language, METRICS[metric])
        noisy = [one for one in evaluation.noisy if one.metric == metric]
        if len({one.snr_db for one in noisy}) > 1:
            pictures[f"{metric}_by_snr.png"] = lines(noisy, METRICS[metric])
    return pictures


def bars(scores: list[Score], label: str) -> bytes:
    """A bar a language and set with its interval, worst last."""
    scores = sorted(scores, key=lambda one: one.value)
    several = len({one.set for one in scores}) > 1
    names = [f"{one.language} · {one.set}" if several else str(one.language) for one in scores]
    figure, axes = pyplot.subplots(figsize=(8, 0.8 + 0.32 * len(scores)))
    axes.barh(names, [100 * one.value for one in scores], color=TRAINED[0], edgecolor=TRAINED[1])
    with_interval = [(place, one) for place, one in enumerate(scores) if one.low is not None]
    for place, one in with_interval:
        axes.plot([100 * (one.low or 0), 100 * (one.high or 0)], [place, place], color=INK, linewidth=1.2)
    ends = [100 * (one.value if one.high is None else max(one.value, one.high)) for one in scores]
    for place, one in enumerate(scores):
        axes.text(ends[place] + max(ends) / 80, place, f"{100 * one.value:.1f}", va="center", fontsize=9)
    axes.set(xlabel=f"{label}, %", xlim=(0, 1.1 * max(ends) or 1))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def lines(scores: list[Score], label: str) -> bytes:
    """A line for each noise and set over the ratio of speech to noise, its interval as a band."""
    figure, axes = pyplot.subplots(figsize=(8, 4))
    several = len({one.set for one in scores}) > 1
    kinds = list(dict.fromkeys((str(one.noise), one.set) for one in scores))
    for number, (noise, name) in enumerate(kinds):
        row = sorted(
            (one for one in scores if (one.noise, one.set) == (noise, name)),
            key=lambda one: -(one.snr_db or 0),
        )
        labels, colour = [snr_text(one.snr_db) for one in row], LINES[number % len(LINES)]
        shown = f"{noise} · {name}" if several else noise
        axes.plot(labels, [100 * one.value for one in row], marker="o", color=colour, label=shown)
        if all(one.low is not None for one in row):
            low, high = [100 * (one.low or 0) for one in row], [100 * (one.high or 0) for one in row]
            axes.fill_between(labels, low, high, color=colour, alpha=0.15)
    axes.set(xlabel="speech to noise", ylabel=f"{label}, %", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def snr_text(snr_db: float | None) -> str:
    """ "10 dB", or "clean" where there is no noise."""
    return "clean" if snr_db is None or snr_db == float("inf") else f"{snr_db:g} dB"


def png(figure) -> bytes:
    """A finished figure; without the library's version, so that the same gives the same."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)
    return picture.getvalue()
