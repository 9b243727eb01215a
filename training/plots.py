"""Loss, error rates and learning rate as PNG, without any service."""

from __future__ import annotations

import itertools
from pathlib import Path

try:
    import matplotlib
except ImportError as error:
    raise ImportError("plots need matplotlib: install speechllm[train]") from error

matplotlib.use("Agg")  # a server has no screen
from matplotlib import pyplot

# What stands for all sets together, and its line.
MEANS = {"eval_wer": "-", "eval_cer": "--", "eval_loss": "-"}
MOST_CURVES = 8
# File -> (endings of logged names, label of the axis, whether it is logarithmic).
PLOTS = {
    "loss.png": (("loss",), "loss", True),
    "errors.png": (("wer", "cer"), "error rate", False),
    "learning_rate.png": (("learning_rate",), "learning rate", False),
}


def plot_history(history: list[dict], folder: Path) -> list[Path]:
    """Draw what a trainer logged; the pictures. What was never logged is not drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, (endings, label, logarithmic) in PLOTS.items():
        curves = curves_of(history, endings)
        if curves:
            draw(curves, label, logarithmic, folder / name)
            drawn.append(folder / name)
    return drawn


def curves_of(history: list[dict], endings: tuple[str, ...]) -> dict[str, list[tuple[int, float]]]:
    """Name -> `(step, value)` of everything logged whose name is or ends with one of `endings`."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for entry in history:
        for key, value in entry.items():
            wanted = any(key == ending or key.endswith(f"_{ending}") for ending in endings)
            if wanted and key != "train_loss":
                curves.setdefault(key, []).append((entry["step"], value))
    return curves


def readable(curves: dict[str, list[tuple[int, float]]]) -> dict[str, list[tuple[int, float]]]:
    """As many of the curves as an eye can tell apart: of many sets their word error rates, and the means.

    The mean of a set that is alone would lie on its curve.
    """
    sets = [points for name, points in curves.items() if name not in MEANS]
    curves = {name: points for name, points in curves.items() if name not in MEANS or points not in sets}
    if len(curves) <= MOST_CURVES:
        return curves
    return {name: points for name, points in curves.items() if name in MEANS or not name.endswith("_cer")}


def draw(curves: dict[str, list[tuple[int, float]]], label: str, logarithmic: bool, path: Path) -> None:
    """One picture with a line for every curve."""
    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    colours = pyplot.get_cmap("tab20").colors  # type: ignore[attr-defined]
    for colour, (name, points) in zip(itertools.cycle(colours), sorted(readable(curves).items())):
        axes.plot(
            *zip(*points, strict=True),
            marker="." if len(points) < 50 else None,
            label=name.removeprefix("eval_"),
            color="black" if name in MEANS else colour,
            linestyle=MEANS.get(name, "-"),
        )
    if logarithmic and all(value > 0 for points in curves.values() for _, value in points):
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel=label)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    pyplot.close(figure)
