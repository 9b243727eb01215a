"""One picture of a run: its losses and error rates, phase after phase."""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib import pyplot

from .architecture import QUIET
from .score_pictures import LINES, png

STATE = "trainer_state.json"
# Panel -> (names of curves, label of its axis, whether it is logarithmic, factor).
PANELS = (
    ({"loss": "training loss", "eval_loss": "evaluation loss"}, "loss", True, 1),
    ({"eval_wer": "WER", "eval_cer": "CER"}, "%", False, 100),
)


def training_curves(run: Path) -> bytes | None:
    """What the trainer logged in each phase of a run, if its checkpoints are still there."""
    phases = [(folder.name.split("-", 2)[2], _history(folder)) for folder in sorted(run.glob("phase-*-*"))]
    phases = [(name, history) for name, history in phases if history]
    if not phases:
        return None
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 3.6))
    for axes, (names, label, logarithmic, factor) in zip(panels, PANELS, strict=True):
        curves, borders = _curves(phases, list(names), factor)
        for (key, title), colour in zip(names.items(), LINES, strict=False):
            if curves[key]:
                axes.plot(*zip(*curves[key], strict=True), marker=".", color=colour, label=title)
        for name, start in borders:
            axes.axvline(start, color=QUIET, linewidth=0.8, linestyle=":")
            axes.annotate(
                name,
                (start, 1),
                (3, -10),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                fontsize=8,
                color=QUIET,
            )
        if logarithmic and all(value > 0 for curve in curves.values() for _, value in curve):
            axes.set_yscale("log")
        axes.set(xlabel="step", ylabel=label)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if any(curves.values()):
            axes.legend(frameon=False)
    return png(figure)


def _curves(phases: list[tuple[str, list[dict]]], names: list[str], factor: float):
    """Name -> `[(step, value)]` over all phases, which are told apart by where they begin."""
    curves: dict[str, list[tuple[int, float]]] = {name: [] for name in names}
    borders, start = [], 0
    for phase, history in phases:
        borders.append((phase, start))
        for entry in history:
            for name in names:
                if isinstance(entry.get(name), (int, float)):
                    curves[name].append((start + entry["step"], factor * entry[name]))
        start += max(entry.get("step", 0) for entry in history)
    return curves, borders


def _history(phase: Path) -> list[dict]:
    """What was logged up to the last checkpoint of a phase."""
    states = sorted(
        phase.glob(f"checkpoint-*/{STATE}"), key=lambda path: int(path.parent.name.rpartition("-")[2])
    )
    try:
        return json.loads(states[-1].read_text(encoding="utf-8"))["log_history"] if states else []
    except (OSError, ValueError, KeyError):
        return []  # cut off while it was written
