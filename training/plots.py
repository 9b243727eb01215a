"""Loss, error rates and learning rate as PNG, without any service."""

from __future__ import annotations

from pathlib import Path

try:
    import matplotlib
except ImportError as error:
    raise ImportError("plots need matplotlib: install speechllm[train]") from error

matplotlib.use("Agg")  # a server has no screen
from matplotlib import pyplot

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


def draw(curves: dict[str, list[tuple[int, float]]], label: str, logarithmic: bool, path: Path) -> None:
    """One picture with a line for every curve."""
    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for name, points in sorted(curves.items()):
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else None, label=name)
    if logarithmic and all(value > 0 for points in curves.values() for _, value in points):
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel=label)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
