"""From manifests to a checkpoint with a trained router: encode, train, calibrate, score, save."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMProcessor
from speechllm.configuration.configuration_router import RouterConfig, check_router
from speechllm.configuration.encoder_specs import encoder_spec
from speechllm.configuration.writing import replacing_files
from speechllm.modeling.router.language_router import LanguageRouter
from speechllm.training.data.utterances import Utterance, read_manifest

from .router_scores import accuracy_by_duration, calibrate, calibration_error, clip_logits, score_router
from .router_states import HeardClips, hear, labels_of
from .router_training import RouterTraining, train_router

logger = logging.getLogger(__name__)

ROUTER_FACTS = "router.json"
Source = str | os.PathLike | Sequence[Utterance]


@dataclass(frozen=True)
class RouterRecipe:
    """How a checkpoint gets its router.

    `router`: fields of `RouterConfig`; by default those of the router that the model has, or else one that
    tells the adapters of its bank apart. `batch_size` clips are encoded together.
    """

    router: RouterConfig | Mapping[str, Any] | None = None
    training: RouterTraining = field(default_factory=RouterTraining)
    batch_size: int = 8


def train_checkpoint_router(
    checkpoint: str | os.PathLike,
    train: Source,
    development: Source,
    test: Source | None = None,
    folder: str | os.PathLike | None = None,
    recipe: RouterRecipe | None = None,
    bases: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Give a checkpoint a router; all of it and `router.json` go to `folder`, by default its own.

    The sets are manifests or utterances, whose `language` is a label or what a label's adapter speaks.
    """
    model = SpeechLLMForConditionalGeneration.from_pretrained(checkpoint, bases=bases)
    processor = SpeechLLMProcessor.from_pretrained(checkpoint)
    facts = train_model_router(model, processor, train, development, test, recipe)
    save_with_facts(model, processor, facts, checkpoint if folder is None else folder)
    return facts


def save_with_facts(model, processor, facts: Mapping[str, Any], folder: str | os.PathLike) -> None:
    """The checkpoint and `router.json`, all in their places or nothing of them."""
    with replacing_files(folder) as partial:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
        told = json.dumps(facts, indent=2, ensure_ascii=False)
        (Path(partial) / ROUTER_FACTS).write_text(told + "\n", encoding="utf-8")


def train_model_router(
    model,
    processor,
    train: Source,
    development: Source,
    test: Source | None = None,
    recipe: RouterRecipe | None = None,
) -> dict[str, Any]:
    """Train a fresh router, calibrate it on the development clips, put it into the model; what it came to.

    A clip that cannot be read is left out and named; the model is unchanged until all has gone well.
    """
    recipe = recipe or RouterRecipe()
    sets = {
        name: utterances_of(source)
        for name, source in (("train", train), ("development", development), ("test", test))
        if source is not None
    }
    router = fresh_router(model, recipe)
    for utterances in sets.values():
        # What is wrong with labels is told before an hour of encoding.
        labels_of(utterances, router.config.labels, model.config.lora_bank or {})
    pooled = router.head.fixed_pooling and recipe.training.shortest_stretch is None
    heard = {
        name: hear(model, processor, router, utterances, name, recipe.batch_size, pooled)
        for name, utterances in sets.items()
    }
    history = train_router(router, heard["train"].clips, heard["development"].clips, recipe.training)
    calibration = calibrate(router, heard["development"].clips)
    model.set_router(router)
    return {
        "router": router.config.own_values(),
        "training": asdict(recipe.training),
        "epochs": [asdict(epoch) for epoch in history],
        "temperature": calibration.temperature,
        "train": counted(heard["train"]),
        **{name: counted(clips) | scored(router, clips) for name, clips in heard.items() if name != "train"},
    }


def utterances_of(source: Source) -> list[Utterance]:
    """Of a manifest, or as they are."""
    return read_manifest(source) if isinstance(source, (str, os.PathLike)) else list(source)


def fresh_router(model, recipe: RouterRecipe) -> LanguageRouter:
    """An untrained router for this model, the same one for the same seed; the model does not have it yet."""
    config, given = model.config, recipe.router
    if given is None:
        given = config.router_config or {"labels": list(config.lora_bank or {})}
    # A copy: what is trained may not be what the model has so far.
    fields = given if isinstance(given, Mapping) else given.own_values()
    made = RouterConfig(**{**fields, "temperature": 1.0})
    check_router(made, config.lora_bank or {}, config.audio_config)
    width = encoder_spec(config.audio_config).width(config.audio_config)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.training.seed)
        return LanguageRouter(made, width)


def counted(heard: HeardClips) -> dict[str, Any]:
    """How many clips of each label there were, and which could not be read."""
    clips = heard.clips
    return {
        "clips": len(clips),
        "hours": round(heard.seconds.sum().item() / 3600, 4),
        "clips_by_label": dict(zip(clips.names, clips.counts().tolist(), strict=True)),
        "unreadable": heard.unreadable,
    }


def scored(router: LanguageRouter, heard: HeardClips) -> dict[str, Any]:
    """Accuracy, confusion, accuracy by duration, and calibration without and with the temperature."""
    clips = heard.clips
    logits, scores = clip_logits(router, clips), score_router(router, clips)
    right = logits.argmax(dim=-1) == clips.labels
    unheard = [name for name, count in zip(clips.names, clips.counts().tolist(), strict=True) if not count]
    if unheard:
        logger.warning("no clip of %s to judge the router by", ", ".join(unheard))
    return {
        "accuracy": scores.accuracy,
        "confusion": scores.confusion,
        "most_confused": scores.most_confused(),
        "by_duration": accuracy_by_duration(right, heard.seconds),
        "calibration_error_before": calibration_error(logits.softmax(dim=-1), clips.labels),
        "calibration_error": scores.calibration_error,
    }
