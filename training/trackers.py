"""Trackers: which there are, and how texts and sounds get into each."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from speechllm.configuration.configuration_strict import suggest
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

try:
    import pandas
except ImportError as error:
    raise ImportError("trackers need pandas, as datasets does: install speechllm[train]") from error

Row = dict[str, Any]
# By what the two services order what they are told; the stock callbacks say it the same way.
STEP = "train/global_step"


@dataclass(frozen=True)
class Tracker:
    """`table(callback, name, rows, step)` and `sound(callback, name, waveform [n], rate, step)` show things.

    `ready`: whether the stock callback has begun a run; `finish`: end it, where that is not done by itself.
    """

    package: str
    extra: str
    callback: type
    ready: Callable[[Any], bool]
    table: Callable[[Any, str, list[Row], int], None]
    sound: Callable[[Any, str, np.ndarray, int, int], None]
    finish: Callable[[Any], None] = lambda callback: None


def tensorboard_table(callback, name: str, rows: list[Row], step: int) -> None:
    callback.tb_writer.add_text(name, markdown_table(rows), step)


def tensorboard_sound(callback, name: str, waveform: np.ndarray, rate: int, step: int) -> None:
    callback.tb_writer.add_audio(name, torch.as_tensor(waveform)[None], step, sample_rate=rate)


def wandb_table(callback, name: str, rows: list[Row], step: int) -> None:
    wandb = callback._wandb
    table = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
    wandb.log({name: table, STEP: step})


def wandb_sound(callback, name: str, waveform: np.ndarray, rate: int, step: int) -> None:
    wandb = callback._wandb
    wandb.log({name: wandb.Audio(waveform, sample_rate=rate), STEP: step})


def trackio_table(callback, name: str, rows: list[Row], step: int) -> None:
    # It takes names of columns from a data frame alone.
    trackio = callback._trackio
    trackio.log({name: trackio.Table(dataframe=pandas.DataFrame(rows)), STEP: step})


def trackio_sound(callback, name: str, waveform: np.ndarray, rate: int, step: int) -> None:
    trackio = callback._trackio
    trackio.log({name: trackio.Audio(waveform, sample_rate=rate), STEP: step})


TRACKERS = {
    "tensorboard": Tracker(
        "tensorboard",
        "speechllm[train]",
        TensorBoardCallback,
        lambda callback: callback.tb_writer is not None,
        tensorboard_table,
        tensorboard_sound,
    ),
    "wandb": Tracker(
        "wandb",
        "wandb",
        WandbCallback,
        lambda callback: callback._initialized and callback._wandb.run is not None,
        wandb_table,
        wandb_sound,
        # Left open it would take the next phase for more of this one.
        lambda callback: callback._wandb.finish(),
    ),
    "trackio": Tracker(
        "trackio",
        "trackio",
        TrackioCallback,
        lambda callback: callback._initialized,
        trackio_table,
        trackio_sound,
    ),
}


def check_trackers(names: Iterable[str]) -> None:
    """Raise `ValueError` for a tracker that does not exist or is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"unknown tracker {name!r} in report_to; {suggest(str(name), TRACKERS)}")
        tracker = TRACKERS[name]
        if importlib.util.find_spec(tracker.package) is None:
            raise ValueError(
                f"report_to={name} needs {tracker.package}, which is not installed: pip install "
                f"'{tracker.extra}', or leave it out: pictures and tables are written without any tracker"
            )


def running(trainer) -> Iterator[tuple[Tracker, Any]]:
    """Each tracker of a trainer that has begun, in the process that reports, with its stock callback."""
    if trainer.is_world_process_zero():
        for callback in trainer.callback_handler.callbacks:
            for tracker in TRACKERS.values():
                if isinstance(callback, tracker.callback) and tracker.ready(callback):
                    yield tracker, callback


def show_table(trainer, name: str, rows: list[Row]) -> None:
    """Rows of equal keys, as a table of every tracker."""
    for tracker, callback in running(trainer) if rows else ():
        tracker.table(callback, name, rows, trainer.state.global_step)


def show_sound(trainer, name: str, waveform: np.ndarray, rate: int) -> None:
    """A waveform `[n]`, to be listened to in every tracker."""
    for tracker, callback in running(trainer):
        tracker.sound(callback, name, np.asarray(waveform, dtype=np.float32), rate, trainer.state.global_step)


def finish_trackers(trainer) -> None:
    """End what a phase has reported: the next one is a run of its own."""
    for tracker, callback in running(trainer):
        tracker.finish(callback)


def markdown_table(rows: list[Row]) -> str:
    """Rows of equal keys as Markdown."""
    cells = [
        [f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row.values()] for row in rows
    ]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
        for row in [list(rows[0]), ["---"] * len(rows[0]), *cells]
    )
