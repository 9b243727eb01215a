"""A run from its settings to its results."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from .augmentation.augmentation import build_augmentation
from .composition import check_quantization, compose, keep_trained_precise, model_config
from .data.build import BuiltData, build_datasets
from .data.datasets import SpeechDataset
from .feature_cache.cached_training import with_features
from .material import make_material
from .phases import MODEL, Workshop, judging_trainer, run_phases
from .precision import Precision, choose_precision
from .results import RESULTS, gather_results, metrics_by_set, write_results
from .run_folder import is_finished, open_run
from .settings import RunSettings, read_run
from .trackers import check_trackers

logger = logging.getLogger(__name__)


def run_training(config: dict[str, Any], folder: Path) -> Path:
    """Train what a composed configuration says, in `folder`; the folder of the finished model.

    Run again after an interruption, it goes on from the last checkpoint; after its end, it says so.
    """
    settings = read_run(config)
    check_quantization(settings.model)
    check_trackers(name for phase in settings.phases for name in phase.trainer.report_to)
    state = PartialState(cpu=not torch.accelerator.is_available())
    report_aloud(folder, state.is_main_process)
    if state.num_processes == 1 and "MASTER_PORT" in os.environ and "RANK" not in os.environ:
        logger.warning("accelerate has started one process: without a GPU more of them take --multi_gpu too")
    config, settings = with_material(config, settings, folder, state)
    on_cpu = state.device.type == "cpu"
    facts = opened(config, settings, folder, state)
    if facts["processes"] != state.num_processes:
        logger.warning(
            "begun on %d processes, going on with %d: batches and their sizes will be others",
            facts["processes"], state.num_processes,
        )  # fmt: skip
    if is_finished(folder / MODEL / RESULTS, len(settings.phases)):
        logger.info("this run is finished: %s", folder / MODEL)
        return folder / MODEL
    precision = Precision(**facts["precision"])
    logger.info(
        "computing in %s (%s), tf32 %s", precision.name, precision.reason, "on" if precision.tf32 else "off"
    )
    data = build_datasets(settings.data, state.process_index, state.num_processes)
    check_data(data)
    wanted = any(values is not None for values in settings.augmentation.values())
    features = settings.data.get("features")
    if wanted and features:
        raise ValueError(
            "augmentation and data.features can't both be: copies are augmented when they are cached, "
            "by cache-features --augment; set augmentation=none"
        )
    # Competing voices are those of the training clips; a stream has none at hand.
    voices: Any = data.train if isinstance(data.train, SpeechDataset) else None
    augmentation = build_augmentation(settings.augmentation, settings.seed, voices) if wanted else None
    # The adapter's first weights.
    set_seed(settings.seed)
    model, processor = compose(settings.model, settings.adapter, getattr(torch, precision.name), state.device)
    keep_trained_precise(model)
    if features:
        data = with_features(data, features, model, processor, settings.phases)
    shop = Workshop(
        model, processor, data, augmentation, folder, settings.seed, precision, settings.name, on_cpu,
        state.num_processes,
    )  # fmt: skip
    return finish(shop, settings, facts, run_phases(shop, settings.phases))


def opened(config: dict, settings: RunSettings, folder: Path, state: PartialState) -> dict[str, Any]:
    """The facts of the run in `folder`, agreed upon by all processes; the first one writes them."""
    answer: list[Any] = [None, None]
    if state.is_main_process:
        try:
            chosen = settings.phases[0].trainer
            if any(
                (p.trainer.precision, p.trainer.tf32) != (chosen.precision, chosen.tf32)
                for p in settings.phases
            ):
                raise ValueError("precision and tf32 are one for a run: set them in trainer, not in a phase")
            precision = choose_precision(
                chosen.precision, chosen.tf32, state.device, model_config(settings.model, settings.adapter)
            )
            facts = {
                "name": settings.name,
                "seed": settings.seed,
                "precision": precision.as_dict(),
                "processes": state.num_processes,
            }
            answer[0] = open_run(folder, config, facts, settings.overwrite)
        except (ValueError, OSError) as error:
            answer[1] = error
    # One process that stopped alone would leave the others waiting.
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def with_material(
    config: dict, settings: RunSettings, folder: Path, state: PartialState
) -> tuple[dict, RunSettings]:
    """Configuration and settings with what `material` made in the places that were left open for it."""
    if settings.material is None:
        return config, settings
    with state.main_process_first():
        made = make_material(settings.material, folder / "material", settings.seed)
    model = {**config["model"], "encoder": made["encoder"], "decoder": made["decoder"]}
    corpus = made["corpus"]
    data = {**config["data"], "train": f"{corpus}/train.jsonl", "eval": {"tones": f"{corpus}/eval.jsonl"}}
    config = {**config, "model": model, "data": data}
    return config, read_run(config)


def check_data(data: BuiltData) -> None:
    """Raise `ValueError` for data that training would stumble over later."""
    if data.train is None:
        raise ValueError("data.train is empty: name a manifest, a folder or a dataset to train on")
    if not data.eval:
        raise ValueError("there is no evaluation set: name one in data.eval, or let data.split make one")


def finish(shop: Workshop, settings: RunSettings, facts: dict, phases: list[dict]) -> Path:
    """Judge the model once more, write it with its results; its folder."""
    trainer = judging_trainer(shop, settings.phases)
    metrics = metrics_by_set(trainer.evaluate(metric_key_prefix="test"), list(shop.datasets.eval), "test")
    folder = shop.folder / MODEL
    if trainer.is_world_process_zero():
        results = gather_results(
            settings.name, facts, phases, metrics, shop.model, data_facts(settings, shop.datasets)
        )
        shop.model.save_pretrained(folder)
        shop.processor.save_pretrained(folder)
        write_results(results, shop.folder, folder)
        for name, values in metrics.items():
            told = ", ".join(
                f"{key} {value:.4f}" for key, value in values.items() if key in ("loss", "wer", "cer")
            )
            logger.info("%s: %s", name, told)
        logger.info("the model is in %s; training took %s minutes", folder, results["minutes"])
    trainer.accelerator.wait_for_everyone()
    return folder


def data_facts(settings: RunSettings, data: BuiltData) -> dict[str, Any]:
    """What was trained and judged on."""
    sets = {"train": data.train, **{f"eval {name}": dataset for name, dataset in data.eval.items()}}
    held = {name: dataset for name, dataset in sets.items() if isinstance(dataset, SpeechDataset)}
    return {
        "configuration": settings.data,
        "normaliser": str(data.normaliser),
        "clips": {name: len(dataset) for name, dataset in held.items()},
        "hours": {name: round(dataset.hours, 3) for name, dataset in held.items()},
        "unreadable": {name: dataset.failures() for name, dataset in held.items() if dataset.failures()},
        "filters": [report.line() for report in data.reports],
        "augmentation": settings.augmentation,
        "phases": [asdict(phase) for phase in settings.phases],
    }


def report_aloud(folder: Path, main: bool) -> None:
    """Log to the terminal and to the run's `train.log`, from the first process."""
    own = logging.getLogger("speechllm")
    for handler in list(own.handlers):
        own.removeHandler(handler)
    own.propagate = False
    # Bars of loading and saving, each a fraction of a second.
    transformers_logging.disable_progress_bar()
    if not main:
        own.addHandler(logging.NullHandler())
        return
    folder.mkdir(parents=True, exist_ok=True)
    own.setLevel(logging.INFO)
    shape = logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    for handler in (logging.StreamHandler(), logging.FileHandler(folder / "train.log", encoding="utf-8")):
        handler.setFormatter(shape)
        own.addHandler(handler)
