"""What goes on beside the steps: epochs told to the data, time kept, pictures and examples written."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from .plots import plot_history
from .speech_trainer import tensorboard_writer

logger = logging.getLogger(__name__)

# Clips whose sound goes to TensorBoard.
AUDIO_EXAMPLES = 3


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


class Pictures(TrainerCallback):
    """Draws loss, error rates and learning rate after every evaluation and at the end."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_evaluate(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        try:
            plot_history(state.log_history, self.folder)
        except OSError as error:
            # No run should end for want of a picture.
            logger.warning("pictures could not be written: %s", error)

    on_train_end = on_evaluate


class AudioExamples(TrainerCallback):
    """Puts the sound of a few judged clips beside their texts, where TensorBoard runs."""

    def __init__(self, sets: dict[str, Any], sampling_rate: int):
        self.sets = sets
        self.sampling_rate = sampling_rate
        self.trainer: Any = None

    def on_evaluate(self, args, state, control, **kwargs):
        writer = tensorboard_writer(self.trainer)
        if writer is None or not self.sets:
            return
        for name, dataset in self.sets.items():
            for index in range(min(AUDIO_EXAMPLES, len(dataset))):
                sound = torch.as_tensor(dataset[index]["audio"])[None]
                writer.add_audio(f"{name}/{index}", sound, 0, sample_rate=self.sampling_rate)
        self.sets = {}
