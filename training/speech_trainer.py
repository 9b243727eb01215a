"""The stock trainer with what speech models need: decoding in evaluations, whole checkpoints, our batches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from speechllm.configuration.writing import replacing_files
from speechllm.modeling.trained_tensors import read_tensors
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer
from transformers.trainer_callback import TrainerState

from .trackers import show_table

LOSS_TENSORS = "loss.safetensors"
STATE = "trainer_state.json"


class SpeechTrainer(Trainer):
    """`Trainer` around an `Objective`.

    Saves the model inside it, only what was trained. `batch_sampler` gives the batches of all processes; a
    stream deals itself out. `generation` goes to `generate` in evaluations, whose texts `judge` sees.
    """

    def __init__(
        self, objective, *args, train_collator, judge, batch_sampler=None, generation=None, **kwargs
    ):
        self.train_collator, self.batch_sampler = train_collator, batch_sampler
        self.judge, self.generation = judge, generation or {}
        super().__init__(objective, *args, **kwargs)
        self.compute_metrics = judge

    def get_train_dataloader(self) -> DataLoader:
        """Batches of this process. Not by accelerate's `prepare`: it deals out no batches of unequal size."""
        batches: dict[str, Any] = {"batch_size": self.args.per_device_train_batch_size}
        if self.batch_sampler is not None:
            place = (self.args.world_size, self.args.process_index)
            batches = {"batch_sampler": BatchSamplerShard(self.batch_sampler, *place, even_batches=False)}
        return DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            collate_fn=self.train_collator,
            # Each opening draws from it, that of a resumed run too, which dropout should not notice.
            generator=torch.Generator(),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            **batches,
        )

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """`(loss, ids [B, N], labels [B, L])`; ids are what the phase's loss can decode, if anything."""
        inputs = self._prepare_inputs(inputs)
        objective: Any = self.model
        with torch.no_grad(), self.compute_loss_context_manager(), self.accelerator.autocast():
            loss = model(**inputs)["loss"].mean().detach()
            if prediction_loss_only or objective.predict is None:
                return loss, None, None
            ids = objective.predict(inputs, **self.generation)
        return loss, ids, inputs["labels"]

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """As the stock method; over several sets, their means as well, by which the best model is found."""
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        sets = self.eval_dataset if eval_dataset is None else eval_dataset
        if not isinstance(sets, dict):
            self._show_texts(metric_key_prefix)
        else:
            means = mean_metrics(metrics, metric_key_prefix, list(sets))
            self.log(means)
            metrics.update(means)
            # The stock method tells of each set, none of which has the metric that runs are judged by.
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, means)
        return metrics

    def _show_texts(self, name: str) -> None:
        """What was said and what was heard, into a file and the trackers."""
        if self.is_world_process_zero() and self.judge.table:
            self.judge.write_table(f"{name}-step-{self.state.global_step}")
            show_table(self, name, self.judge.table)
        self.judge.table = []

    def _save_checkpoint(self, model, trial) -> None:
        """As the stock method; where it fails, what it left is removed, and the checkpoint before stays."""
        folder = self.folder / f"checkpoint-{self.state.global_step}"
        try:
            if isinstance(self.train_dataset, IterableDataset):
                write_text(folder / self._stream_file, json.dumps(self._stream_place()))
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            if self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)
            last = last_whole_checkpoint(self.folder)
            raise OSError(
                f"{folder} could not be written ({str(error).strip() or type(error).__name__}); "
                f"the last whole checkpoint is {last.name if last else 'none'}: make room and run again"
            ) from error

    def create_model_card(self, *args, **kwargs) -> None:
        """Nothing: a stock card would take the place of the one that is made of the results."""

    def _save(self, output_dir=None, state_dict=None) -> None:
        """Model, processor and the loss's own parameters. No pickled arguments: `config.yaml` has them."""
        folder = Path(output_dir or self.folder)
        if not self.args.should_save:
            return
        if state_dict is not None:
            state_dict = {
                k.removeprefix("model."): t for k, t in state_dict.items() if k.startswith("model.")
            }
        objective: Any = self.accelerator.unwrap_model(self.model)
        objective.model.save_pretrained(folder, state_dict=state_dict)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        if own := objective.own_state():
            save_file(
                {name: tensor.contiguous().cpu() for name, tensor in own.items()}, folder / LOSS_TENSORS
            )

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        load_objective(model if model is not None else self.model, resume_from_checkpoint)
        if isinstance(self.train_dataset, IterableDataset):
            self._find_stream_place(Path(resume_from_checkpoint) / self._stream_file)

    def _stream_place(self) -> dict[str, Any]:
        """Who reads the stream, and how far this process has come; of worker processes nobody knows that."""
        readers = {"processes": self.args.world_size, "workers": self.args.dataloader_num_workers}
        stream: Any = self.train_dataset
        return {"readers": readers, "state": stream.state_dict() if self.args.ignore_data_skip else None}

    def _find_stream_place(self, path: Path) -> None:
        """Go on where the stream was; without its state it is read again up to there."""
        held = json.loads(path.read_text()) if path.exists() else {}
        readers, own = held.get("readers", {}), self._stream_place()["readers"]
        if readers != own:
            told = ", ".join(
                f"{name} {readers.get(name, 'unknown')}, not {own[name]}"
                for name in own
                if readers.get(name) != own[name]
            )
            raise ValueError(
                f"{path.parent} is of a stream that was dealt out to others ({told}): go on with as many"
            )
        if held["state"] is not None:
            stream: Any = self.train_dataset
            stream.load_state_dict(held["state"])

    @property
    def folder(self) -> Path:
        """Where the phase's checkpoints are."""
        return Path(str(self.args.output_dir))

    @property
    def _stream_file(self) -> str:
        """Where a checkpoint says how far this process has read its stream."""
        return f"stream_{self.args.process_index}.json"

    def _load_best_model(self) -> None:
        load_objective(self.model, self.state.best_model_checkpoint)


def load_objective(objective: Any, folder) -> None:
    """Bring what was trained back from a checkpoint, in place."""
    load_trained(objective.model, folder)
    own = Path(folder) / LOSS_TENSORS
    if own.exists():
        objective.load_own_state(load_file(own))


def load_trained(model, folder) -> None:
    """Fill a model's trained tensors from a checkpoint of the same model; a missing one is an error."""
    tensors = read_tensors(str(folder), {})
    wanted = set(model.state_dict()) - model.untrained_keys()
    lacking = sorted(wanted - set(tensors))
    if lacking:
        raise ValueError(f"checkpoint {folder} lacks the tensor {lacking[0]!r}: it is of another model")
    unexpected = model.load_state_dict(tensors, strict=False).unexpected_keys
    if unexpected:
        raise ValueError(f"the model has no place for the tensor {unexpected[0]!r} of checkpoint {folder}")


def last_whole_checkpoint(folder) -> Path | None:
    """The newest checkpoint below `folder` that was written to its end: its state comes last."""
    found = sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return next((path for path in reversed(found) if _state_is_whole(path / STATE)), None)


def _state_is_whole(path: Path) -> bool:
    try:
        TrainerState(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return False
    return True


def mean_metrics(metrics: dict[str, float], prefix: str, sets: list[str]) -> dict[str, float]:
    """`{"eval_wer": mean of "eval_NAME_wer"}` for every value that all sets have."""
    names = [
        key.removeprefix(f"{prefix}_{sets[0]}_") for key in metrics if key.startswith(f"{prefix}_{sets[0]}_")
    ]
    means = {}
    for name in names:
        values = [metrics.get(f"{prefix}_{one}_{name}") for one in sets]
        if all(isinstance(value, float) for value in values) and not name.endswith("per_second"):
            means[f"{prefix}_{name}"] = sum(values) / len(values)  # type: ignore[arg-type]
    return means


def write_text(path, text: str) -> None:
    """A file whole or not at all."""
    path = Path(path)
    with replacing_files(path.parent) as partial:
        (Path(partial) / path.name).write_text(text, encoding="utf-8")
