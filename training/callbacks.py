"""What goes on beside the steps: epochs told to the data, time kept, pictures and examples written."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_callback import ExportableState

from .plots import plot_history
from .trackers import running, show_sound

logger = logging.getLogger(__name__)

# Clips of each set whose sound goes to the trackers.
AUDIO_EXAMPLES = 3
# What is logged once all sets are judged.
MEAN_LOSS = "eval_loss"


class EpochTeller(TrainerCallback):
    """Tells sampler, datasets and collator which epoch it is, before workers are forked from them."""

    def __init__(self, listeners):
        self.listeners = [listener for listener in listeners if listener is not None]

    def on_epoch_begin(self, args, state, control, **kwargs):
        epoch = int(state.epoch or 0)
        for listener in self.listeners:
            if hasattr(listener, "set_epoch"):
                listener.set_epoch(epoch)


class Clock(TrainerCallback, ExportableState):
    """Seconds of training, those before an interruption included: they travel with the checkpoints."""

    def __init__(self, earlier: float = 0.0):
        self.earlier = earlier
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.earlier + time.monotonic() - self.began

    def on_train_begin(self, args, state, control, **kwargs):
        self.began = time.monotonic()

    def state(self) -> dict[str, Any]:
        return {"args": {"earlier": self.seconds}, "attributes": {}}


class Patience(EarlyStoppingCallback):
    """Ends a phase that does not improve; sets that are judged before their means are known say nothing."""

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if f"eval_{args.metric_for_best_model}" in (metrics or {}):
            super().on_evaluate(args, state, control, metrics, **kwargs)


class Pictures(TrainerCallback):
    """Draws loss, error rates and learning rate after every evaluation of all sets, and at the end."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if MEAN_LOSS in (metrics or {}):
            self.on_train_end(args, state, control)

    def on_train_end(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        try:
            plot_history(state.log_history, self.folder)
        except OSError as error:
            # No run should end for want of a picture.
            logger.warning("pictures could not be written: %s", error)


class AudioExamples(TrainerCallback):
    """Puts the sound of a few judged clips beside their texts, in the trackers there are."""

    def __init__(self, sets: dict[str, Any], sampling_rate: int):
        self.sets = sets
        self.sampling_rate = sampling_rate
        self.trainer: Any = None

    def on_evaluate(self, args, state, control, **kwargs):
        # Clips are not decoded for nobody.
        if any(running(self.trainer)):
            for name, dataset in self.sets.items():
                for index in range(min(AUDIO_EXAMPLES, len(dataset))):
                    sound = dataset[index]["audio"]
                    show_sound(self.trainer, f"{name}/{index}", sound, self.sampling_rate)
            self.sets = {}
