"""The phases of a run, in turn: each trains its parts by its loss and goes on where it stopped."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback, set_seed

from .activation_checkpointing import checkpointed_layers
from .arguments import training_arguments
from .callbacks import AudioExamples, Clock, EpochTeller, Patience, Pictures
from .collator import SpeechCollator, bank_languages
from .data.batching import BudgetBatchSampler
from .data.build import BuiltData
from .data.datasets import SpeechDataset
from .evaluation_texts import TextJudge
from .feature_cache.cached_collator import CachedCollator
from .feature_cache.cached_dataset import CachedFeatures
from .losses.cross_entropy import CrossEntropy
from .losses.loss_table import loss_class
from .losses.routing import Routing
from .phase_checks import check_phase
from .precision import Precision
from .routing.router_phase import judged_router
from .settings import PhaseSettings
from .speech_trainer import (
    SpeechTrainer,
    last_whole_checkpoint,
    load_trained,
    write_text,
)
from .trackers import finish_trackers
from .trained_parts import parameter_groups, set_trained_parts, trained_counts

logger = logging.getLogger(__name__)

# Written when a phase is over, last of all.
DONE = "phase.json"
MODEL = "model"


@dataclass(frozen=True)
class Workshop:
    """What all phases of a run work with."""

    model: Any
    processor: Any
    datasets: BuiltData
    augmentation: Any
    folder: Path
    seed: int
    precision: Precision
    run_name: str
    on_cpu: bool
    processes: int


def run_phases(shop: Workshop, phases: list[PhaseSettings]) -> list[dict]:
    """Facts of every phase; the model is left as the last one ended."""
    facts: list[dict] = []
    for number, phase in enumerate(phases, 1):
        check_phase(shop, phase, number)
        batch_sampler(shop, phase, number)
    for number, phase in enumerate(phases, 1):
        folder = shop.folder / f"phase-{number}-{phase.name}"
        parts = set_trained_parts(shop.model, phase.train)
        if (folder / DONE).exists():
            load_trained(shop.model, folder / MODEL)
            logger.info("phase %s is done already", phase.name)
        else:
            # Fresh parts of a loss, and dropout, are the same whatever came before in this process.
            set_seed(shop.seed + number)
            run_phase(shop, phase, number, folder, parts)
        facts.append(json.loads((folder / DONE).read_text()))
        if "router" in facts[-1]:
            # It is no tensor, so what was loaded is without it.
            shop.model.speech_model.router.calibrate(facts[-1]["router"]["temperature"])
    return facts


def run_phase(shop: Workshop, phase: PhaseSettings, number: int, folder: Path, parts: dict) -> None:
    """Train one phase to its end, from its last whole checkpoint if there is one."""
    counts = trained_counts(shop.model, parts)
    told = ", ".join(f"{part} {count:,}" for part, count in counts.items())
    logger.info("phase %s: %s, training %s parameters", phase.name, phase.loss, told)
    trainer, clock = build_trainer(shop, phase, number, folder, parts)
    checkpoint = last_whole_checkpoint(folder)
    if checkpoint:
        logger.info("going on from %s", checkpoint)
    with checkpointed_layers(shop.model, phase.trainer.gradient_checkpointing):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finish_trackers(trainer)
    learned: dict[str, Any] = {}
    if "router" in phase.train:
        shop.model.eval()
        fit, sets = isinstance(trainer.model, Routing), shop.datasets.eval.values()
        router = judged_router(shop.model, shop.processor, sets, fit, phase.trainer.eval_batch_size)
        learned["router"] = router
    trainer.save_model(str(folder / MODEL), _internal_call=True)
    state = trainer.state
    if state.is_world_process_zero:
        done = {
            "name": phase.name,
            "loss": phase.loss,
            "trained": counts,
            "steps": state.global_step,
            "minutes": round(seconds_of(trainer, clock) / 60, 2),
            "best_metric": {trainer.args.metric_for_best_model: state.best_metric},
            "best_step": state.best_global_step,
            "last_loss": next(
                (entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), None
            ),
            **learned,
        }
        write_text(folder / DONE, json.dumps(done, indent=2))
    trainer.accelerator.wait_for_everyone()


def judging_trainer(shop: Workshop, phases: list[PhaseSettings]) -> SpeechTrainer:
    """A trainer to judge the finished model with: by decoding, whatever the last phase was trained by.

    A bank that was trained under the router's mixtures is judged under them, another one by the language.
    """
    phase = phases[-1]
    if not issubclass(loss_class(phase.loss)[0], CrossEntropy):
        phase = replace(phase, loss="cross_entropy")
    # What it finds is in the results; to trackers it would be a run of one point.
    phase = replace(phase, trainer=replace(phase.trainer, report_to=[]))
    folder = shop.folder / f"phase-{len(phases)}-{phase.name}"
    trainer, _ = build_trainer(shop, phase, len(phases), folder, set_trained_parts(shop.model, phase.train))
    # It has no curves, and those of the phase stay.
    trainer.remove_callback(Pictures)
    return trainer


def build_trainer(
    shop: Workshop, phase: PhaseSettings, number: int, folder: Path, parts: dict
) -> tuple[SpeechTrainer, Clock]:
    """The trainer of a phase, with its clock."""
    settings = phase.trainer
    kind, options = loss_class(phase.loss)
    objective = kind(shop.model, shop.processor, options, settings.label_smoothing)
    whole = isinstance(shop.datasets.train, SpeechDataset)
    objective.see_corpus(texts_of(shop.datasets) if whole else None)
    arguments = training_arguments(
        settings, folder, shop.seed + number, shop.precision, f"{shop.run_name}-{phase.name}",
        kind.predict is not None, shop.on_cpu,
        settings.workers == 0 and not whole,
    )  # fmt: skip
    groups = parameter_groups(
        objective, parts, settings.learning_rates or {}, settings.learning_rate, settings.weight_decay
    )
    optimizer, options = SpeechTrainer.get_optimizer_cls_and_kwargs(arguments)
    bank = bank_languages(shop.model.config)
    tells_noise = bool(getattr(shop.model.config.adapter_config, "noise_loss_weight", 0))
    collator = SpeechCollator(shop.processor, shop.augmentation, bank, tells_noise)
    if isinstance(shop.datasets.train, CachedFeatures):
        collator = CachedCollator(shop.processor, bank)
    sampler = batch_sampler(shop, phase, number)
    judge = TextJudge(
        shop.processor, shop.datasets.normaliser, settings.prediction_rows, folder / "predictions"
    )
    clock, examples = Clock(), AudioExamples(shop.datasets.eval, shop.processor.sampling_rate)
    callbacks: list[TrainerCallback] = [EpochTeller([sampler, shop.datasets.train, collator]), clock]
    callbacks += [Pictures(folder / "plots"), examples]
    if settings.patience is not None:
        callbacks.append(Patience(settings.patience, settings.patience_threshold))
    trainer = SpeechTrainer(
        objective,
        arguments,
        data_collator=SpeechCollator(shop.processor, bank=bank),
        train_collator=collator,
        train_dataset=shop.datasets.train,
        eval_dataset=shop.datasets.eval,
        processing_class=shop.processor,
        callbacks=callbacks,
        optimizer_cls_and_kwargs=(optimizer, {**options, "params": groups}),
        batch_sampler=sampler,
        generation={"num_beams": settings.num_beams, "max_new_tokens": settings.max_new_tokens},
        judge=judge,
    )
    examples.trainer = trainer
    return trainer, clock


def batch_sampler(shop: Workshop, phase: PhaseSettings, number: int) -> BudgetBatchSampler | None:
    """Batches of all processes, by seconds of sound and text or by number of clips; a stream has none."""
    settings, dataset = phase.trainer, shop.datasets.train
    if not isinstance(dataset, SpeechDataset):
        if settings.batch_seconds is not None:
            raise ValueError(
                "batch_seconds needs data of known length: a stream has batch_size clips a batch"
            )
        return None
    if settings.batch_seconds is not None:
        costs, budget = dataset.costs(), settings.batch_seconds
    else:
        # Where every clip costs 1, a budget is a number of clips.
        costs, budget = np.ones(len(dataset)), float(settings.batch_size)
    return BudgetBatchSampler(
        costs,
        budget,
        seed=shop.seed + number,
        multiple_of=shop.processes * settings.gradient_accumulation,
        mixture=dataset.mixture,
        names=[utterance.name for utterance in dataset.utterances],
    )


def texts_of(datasets: BuiltData) -> list[str]:
    """All texts of the sets that are held in memory."""
    held = [datasets.train, *datasets.eval.values()]
    return [
        item.text for dataset in held if isinstance(dataset, SpeechDataset) for item in dataset.utterances
    ]


def seconds_of(trainer: SpeechTrainer, clock: Clock) -> float:
    """Seconds that a phase took, over all sessions."""
    found = [c for c in trainer.callback_handler.callbacks if isinstance(c, Clock)]
    return (found or [clock])[0].seconds
