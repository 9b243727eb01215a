"""Clips in which the language changes: where each is spoken, and with which adapter it is transcribed."""

from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from ..encoder_pass import EncoderPass
from .frame_routing import LanguageSegment, encoder_frame_rate, route_frames
from .routing_strategies import oracle_rows, rows_over_bank
from .row_routing import told_languages


class SpokenSegment(NamedTuple):
    """A stretch of one language in a clip, and how it is routed by itself.

    `language` is what a decoder is told, `None` where the label is none; `scores` are the router's
    probabilities of the whole stretch; `weights` `[N]` go to the bank, `None` where there is none.
    """

    start: float
    end: float
    label: str
    language: str | None
    scores: dict[str, float]
    weights: torch.Tensor | None


@torch.no_grad()
def spoken_segments(model, input_features, lengths) -> list[list[SpokenSegment]]:
    """For every clip its segments by language, which cover it. `model`: a `SpeechLLMModel`."""
    if model.router is None:
        raise ValueError("this checkpoint has no router, which finds where the language changes: train one")
    rate = encoder_frame_rate(model.config.audio_config)
    run = EncoderPass.of_base(model, input_features, lengths)
    found: list[list[SpokenSegment]] = []
    for rows, states in run.rest_at(model.router.config.layer):
        frames = run.frames[rows]
        segments = route_frames(model.router, states, frames, rate)
        heard = _scores(model, states, frames, segments, rate)
        found += [[_spoken(model, segment, next(heard)) for segment in clip] for clip in segments]
    return found


def _scores(model, states, frames, segments: list[list[LanguageSegment]], rate: float):
    """Of one segment after the other the router's probabilities, `[labels]`."""
    stretches = []
    for row, length, clip in zip(states, frames.tolist(), segments, strict=True):
        for segment in clip:
            start = min(round(segment.start * rate), length - 1)
            stretches.append(row[start : max(min(round(segment.end * rate), length), start + 1)])
    sizes = torch.tensor([len(stretch) for stretch in stretches], device=states.device)
    return iter(model.router.probabilities(pad_sequence(stretches, batch_first=True), sizes))


def _spoken(model, segment: LanguageSegment, probabilities: torch.Tensor) -> SpokenSegment:
    config, names = model.router.config, model.bank.names
    weights = None
    if names:
        row = oracle_rows([segment.label], config.labels, probabilities.device)
        # As for whole clips: whom the router is unsure of is left to the base. NaN is no certainty.
        sure = bool(probabilities.amax() >= config.floor)
        weights = rows_over_bank(row if sure else torch.zeros_like(row), config.labels, names)[0]
    told = told_languages(model, [segment.label], [None])[0]
    scores = dict(zip(config.labels, probabilities.tolist(), strict=True))
    return SpokenSegment(*segment, told, scores, weights)
