"""How well a router decides and how well it knows: accuracy, confusion, calibration; and the temperature."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from speechllm.modeling.router.language_router import LanguageRouter
from torch import Tensor
from torch.nn import functional as F

from .router_clips import RouterClips

EVALUATION_ROWS = 64
CALIBRATION_BINS = 15
# Upper ends in seconds. Routers fail on short utterances, those of 1 to 5 s above all.
DURATION_BUCKETS = {"below 1 s": 1.0, "1 to 5 s": 5.0, "5 to 15 s": 15.0, "15 s and more": math.inf}
TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class RouterScores:
    """`confusion[true][chosen]` counts clips; `by_duration` holds the accuracy of every bucket with clips."""

    accuracy: float
    calibration_error: float
    confusion: dict[str, dict[str, int]]
    by_duration: dict[str, float]

    def most_confused(self) -> tuple[str, str, int] | None:
        """The true label, the one that was chosen for it, and how often: the worst pair, or None."""
        wrong = [
            (true, chosen, count)
            for true, row in self.confusion.items()
            for chosen, count in row.items()
            if chosen != true and count
        ]
        return max(wrong, key=lambda pair: pair[2], default=None)


@dataclass(frozen=True)
class Calibration:
    """A fitted temperature, and the expected calibration error without and with it."""

    temperature: float
    error_before: float
    error_after: float


@torch.no_grad()
def clip_logits(router: LanguageRouter, clips: RouterClips) -> Tensor:
    """[clips, labels] in float32, in the order of the clips, without dropout."""
    device, training = next(router.parameters()).device, router.training
    logits = torch.empty(len(clips), len(clips.names))
    router.eval()
    try:
        for indices in clips.batches(range(len(clips)), EVALUATION_ROWS):
            states, lengths, _ = clips.batch(indices)
            logits[indices] = batch_logits(router, states.to(device), lengths, clips.pooled).float().cpu()
    finally:
        router.train(training)
    return logits


def batch_logits(router: LanguageRouter, states: Tensor, lengths: Tensor, pooled: bool) -> Tensor:
    """Logits of one batch, from frames or from what the router made of them before."""
    if not pooled:
        return router(states, lengths)
    if not router.head.fixed_pooling:
        raise ValueError(f"head {router.config.head!r} learns how to pool: give it frames, not pooled clips")
    return router.classify(states.float())


def score_router(
    router: LanguageRouter, clips: RouterClips, frames_per_second: float | None = None
) -> RouterScores:
    """Accuracy, confusion and calibration; by duration where the rate is given and clips are frames."""
    check_names(router, clips)
    probabilities = router.calibrated(clip_logits(router, clips))
    chosen = probabilities.argmax(dim=-1)
    right = chosen == clips.labels
    table = torch.zeros(len(clips.names), len(clips.names), dtype=torch.long)
    table.index_put_((clips.labels, chosen), torch.ones_like(chosen), accumulate=True)
    confusion = {
        true: dict(zip(clips.names, row, strict=True))
        for true, row in zip(clips.names, table.tolist(), strict=True)
    }
    by_duration: dict[str, float] = {}
    if frames_per_second is not None and not clips.pooled:
        by_duration = accuracy_by_duration(right, clips.lengths / frames_per_second)
    error = calibration_error(probabilities, clips.labels)
    return RouterScores(right.float().mean().item(), error, confusion, by_duration)


def check_names(router: LanguageRouter, clips: RouterClips) -> None:
    """Clips and router must number the labels alike."""
    if clips.names != router.config.labels:
        raise ValueError(
            f"clips are labelled by {clips.names}, the router's labels are {router.config.labels}"
        )


def accuracy_by_duration(right: Tensor, seconds: Tensor) -> dict[str, float]:
    """Share of right decisions, [clips] bool, in each bucket of durations that has clips."""
    accuracies, lower = {}, 0.0
    for name, upper in DURATION_BUCKETS.items():
        inside = (seconds >= lower) & (seconds < upper)
        if inside.any():
            accuracies[name] = right[inside].float().mean().item()
        lower = upper
    return accuracies


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error: how far confidence is from accuracy, over equally wide bins of it."""
    confidence, chosen = probabilities.max(dim=-1)
    right = (chosen == labels).double()
    # The lower end is open: a confidence of 1 belongs to the last bin.
    place = (confidence.double() * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.double).index_add(0, place, confidence.double() - right)
    return (gap.abs().sum() / len(labels)).item()


def calibrate(router: LanguageRouter, clips: RouterClips) -> Calibration:
    """Fit the temperature on held-out clips, keep it in the router's config, and say what it changed."""
    check_names(router, clips)
    logits = clip_logits(router, clips)
    before = calibration_error(logits.softmax(dim=-1), clips.labels)
    router.calibrate(fitted_temperature(logits, clips.labels))
    after = calibration_error(router.calibrated(logits), clips.labels)
    return Calibration(router.config.temperature, before, after)


def fitted_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of the least cross-entropy, which has one minimum over it, by golden-section search.

    Targets are smoothed by one clip (Platt's correction): where every decision is right, certainty grows only
    with the number of clips, instead of going to wherever the search ends.
    """
    logits, smoothing = logits.double(), 1 / (len(labels) + 1)

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        return F.cross_entropy(scaled, labels, label_smoothing=smoothing).item()

    low, high = (math.log(bound) for bound in TEMPERATURES)
    golden = (math.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    left_loss, right_loss = loss(left), loss(right)
    while high - low > 1e-5:
        if left_loss <= right_loss:
            high, right, right_loss = right, left, left_loss
            left = high - golden * (high - low)
            left_loss = loss(left)
        else:
            low, left, left_loss = left, right, right_loss
            right = low + golden * (high - low)
            right_loss = loss(right)
    return math.exp((low + high) / 2)
