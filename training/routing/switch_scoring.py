"""A pipeline on speech that switches: how soon it notices, and what switching costs in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from speechllm.modeling.encoder_pass import EncoderPass
from speechllm.modeling.router.frame_routing import (
    LanguageSegment,
    encoder_frame_rate,
    language_segments,
    window_grid,
    window_labels,
    window_probabilities,
)
from speechllm.training.data.normalisers import normaliser
from speechllm.training.data.sounds import SAMPLING_RATE, read_sound
from speechllm.training.data.utterances import Utterance

from .router_recipe import Source, utterances_of
from .router_states import label_of
from .switch_metrics import score_switches, switch_latencies, truth_of, word_error_rise


def score_switching(
    asr, switched: Source, single: Source | None = None, normalise: str = "basic", batch_size: int = 8
) -> dict[str, Any]:
    """Facts about a pipeline with `routing="segments"` on clips of `write_switched`.

    `switches`: latency, share found within half a second, share of the time under the right label. With
    `single`, clips of one language each, also `words`: error rates of both, over switched clips whose text is
    no estimate.
    """
    utterances = utterances_of(switched)
    router = asr.model.speech_model.router
    if router is None:
        raise ValueError("this checkpoint has no router, whose switching could be scored: train one")
    bank, labels = asr.model.config.lora_bank or {}, router.config.labels
    truth = [
        [part._replace(label=label_of(part.label, labels, bank)) for part in truth_of(item.extra)]
        for item in utterances
    ]
    heard = [heard_windows(asr, read_sound(item)) for item in utterances]
    latencies = [
        switch_latencies(names, ends, parts) for (names, ends, _), parts in zip(heard, truth, strict=True)
    ]
    scores = score_switches(latencies, [found for _, _, found in heard], truth)
    facts: dict[str, Any] = {"clips": len(utterances), "switches": asdict(scores)}
    if single is not None:
        facts["words"] = word_costs(asr, utterances, utterances_of(single), normalise, batch_size)
    return facts


@torch.no_grad()
def heard_windows(asr, sound: np.ndarray) -> tuple[list[str], list[float], list[LanguageSegment]]:
    """Of one clip the label of each window, the second when all of it was heard, and the segments."""
    body = asr.model.speech_model
    config = body.router.config
    features = asr.processor([sound], sampling_rate=SAMPLING_RATE).to(body.device)
    lengths = body.checked_lengths(features["input_features"], features["input_features_mask"])
    run = EncoderPass.of_base(body, features["input_features"], lengths)
    (_, states), frames = next(run.rest_at(config.layer)), int(run.frames[0])
    grid = window_grid(config, encoder_frame_rate(body.config.audio_config))
    probabilities = window_probabilities(body.router, states, run.frames, grid)
    places = window_labels(probabilities, grid.counts(run.frames), config)[0].tolist()
    names = [config.labels[place] for place in places]
    segments = language_segments(names, grid.borders(frames), config.shortest_segment_seconds)
    return names, grid.ends(frames), segments


def word_costs(
    asr, switched: Sequence[Utterance], single: Sequence[Utterance], normalise: str, batch_size: int
) -> dict[str, Any]:
    """Word error rates with and without switching, of texts that are known."""
    exact = [
        item for item in switched if not any(part["text_is_estimated"] for part in item.extra["segments"])
    ]
    if not exact:
        raise ValueError("every switched clip has a text that is estimated: score words on kind 'inter'")
    normal = normaliser(normalise)

    def texts(utterances: Sequence[Utterance]) -> tuple[list[str], list[str]]:
        sounds = [read_sound(item) for item in utterances]
        results = asr(sounds, routing="segments", batch_size=batch_size)
        return [normal(item.text) for item in utterances], [normal(result["text"]) for result in results]

    rise = word_error_rise(texts(single), texts(exact))
    return {**asdict(rise), "clips": len(exact), "single_clips": len(single), "normaliser": str(normal)}
