"""Utterances as a router hears them: the frozen encoder's states up to its layer, with their labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from speechllm.configuration.encoder_specs import encoder_spec
from speechllm.configuration.whisper_tokens import language_code
from speechllm.modeling.encoder_pass import EncoderPass
from speechllm.modeling.length_masks import input_lengths
from speechllm.modeling.router.language_router import LanguageRouter
from speechllm.training.data.sounds import SAMPLING_RATE, read_sound, sound_seconds
from speechllm.training.data.utterances import Utterance
from torch import Tensor

from .router_clips import RouterClips

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeardClips:
    """Clips of one set, shortest first, and their seconds `[clips]`; which could not be read, and why."""

    clips: RouterClips
    seconds: Tensor
    unreadable: list[str]


def labels_of(utterances: Sequence[Utterance], labels: Sequence[str], bank: Mapping[str, Any]) -> list[str]:
    """The router's label for the language of every utterance.

    Labels are called as adapters, so a language may be a label's name, or the language of its adapter.
    """
    nameless = [item.name for item in utterances if not item.language]
    if nameless:
        raise ValueError(f"{len(nameless)} utterances have no language, {nameless[0]} first")
    found = {str(item.language) for item in utterances}
    known = {language: label_of(language, labels, bank) for language in sorted(found)}
    return [known[str(item.language)] for item in utterances]


def label_of(language: str, labels: Sequence[str], bank: Mapping[str, Any]) -> str:
    """The router's label for one language."""
    if language in labels:
        return language
    code = language_code(language)
    spoken = {label: getattr(bank.get(label), "language", None) or label for label in labels}
    fitting = [label for label in labels if code is not None and language_code(spoken[label]) == code]
    if len(fitting) != 1:
        fault = f"fits {', '.join(fitting)}: name one of them" if fitting else "has no label"
        raise ValueError(f"language {language!r} {fault}; the router's labels are {', '.join(labels)}")
    return fitting[0]


def hear(
    model,
    processor,
    router: LanguageRouter,
    utterances: Sequence[Utterance],
    name: str,
    batch_size: int = 8,
    pooled: bool = False,
) -> HeardClips:
    """Encode utterances as generation does before it routes: under no adapter, up to the router's layer.

    `name` is what messages call the set. `pooled` keeps what the router's pooling makes of each clip, a
    thousandth of the memory. Of a clip that is longer than the encoder hears, its beginning is heard.
    """  # fmt: skip
    labels = labels_of(utterances, router.config.labels, model.config.lora_bank or {})
    known = Reading(utterances, name)
    states: list[Tensor] = []
    seconds: list[float] = []
    spoken: list[str] = []
    for start in range(0, len(known.order), batch_size):
        batch = [(place, known.sound(place)) for place in known.order[start : start + batch_size]]
        heard = [(place, sound[: longest_sound(model.config)]) for place, sound in batch if sound is not None]
        if heard:
            states += encoded(model, processor, router, [sound for _, sound in heard], pooled)
            seconds += [len(sound) / SAMPLING_RATE for _, sound in heard]
            spoken += [labels[place] for place, _ in heard]
    if not states:
        why = known.unreadable[0] if known.unreadable else "there are none"
        raise ValueError(f"none of the {len(utterances)} {name} clips can be heard: {why}")
    return HeardClips(
        RouterClips(states, spoken, router.config.labels), torch.tensor(seconds), known.unreadable
    )


class Reading:
    """Utterances in the order of their length, read one by one; those that cannot be are noted."""

    def __init__(self, utterances: Sequence[Utterance], name: str):
        self.utterances, self.name = utterances, name
        self.unreadable: list[str] = []
        lengths = [self._attempt(place, _seconds) for place in range(len(utterances))]
        there = [place for place, length in enumerate(lengths) if length is not None]
        self.order = sorted(there, key=lambda place: lengths[place])

    def sound(self, place: int) -> np.ndarray | None:
        """Samples `[n]`, or `None` where there are none to be had."""
        return self._attempt(place, read_sound)

    def _attempt(self, place: int, read) -> Any:
        utterance = self.utterances[place]
        try:
            return read(utterance)
        except (ValueError, OSError) as error:
            self.unreadable.append(f"{utterance.name}: {' '.join(str(error).split())}")
            logger.warning("%s clip left out, it cannot be read: %s", self.name, self.unreadable[-1])
            return None


def _seconds(utterance: Utterance) -> float:
    return sound_seconds(utterance) if utterance.seconds is None else utterance.seconds


def longest_sound(config) -> int | None:
    """Samples that the encoder hears at once; `None` where any number goes."""
    if config.max_inputs is None:
        return None
    return config.max_inputs * SAMPLING_RATE // encoder_spec(config.audio_config).inputs_per_second


@torch.no_grad()
def encoded(model, processor, router: LanguageRouter, sounds: list[np.ndarray], pooled: bool) -> list[Tensor]:
    """States `[frames, width]` of each sound, or `[P]` where they are pooled, on the CPU."""
    body = model.speech_model
    features = processor(sounds, sampling_rate=SAMPLING_RATE).to(body.device)
    lengths = input_lengths(body.config, features["input_features"], features["input_features_mask"])
    run = EncoderPass.of_base(body, features["input_features"], lengths)
    clips: list[Tensor] = []
    for rows, states in run.rest_at(router.config.layer):
        frames = run.frames[rows]
        if pooled:
            clips += router.to(states.device).pool(states, frames).cpu().unbind()
        else:
            clips += [row[:count].cpu().clone() for row, count in zip(states, frames.tolist(), strict=True)]
    return clips
