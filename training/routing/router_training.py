"""Trains a language router on the states of the frozen encoder: the base's, never an adapted one's."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from speechllm.modeling.router.language_router import LanguageRouter
from torch import Tensor
from torch.nn import functional as F

from .router_clips import RouterClips, balanced, shuffled
from .router_scores import batch_logits, check_names, clip_logits

# Balance over labels of the loss, by the number of clips each has: [labels] -> [labels].
CLASS_WEIGHTS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "inverse_freq": lambda counts, beta: 1 / counts,
    "inverse_sqrt": lambda counts, beta: counts.rsqrt(),
    # The further clips of a label overlap with those before: their effective number grows ever more slowly.
    "effective_number": lambda counts, beta: (1 - beta) / (1 - beta**counts),
}


@dataclass(frozen=True)
class RouterTraining:
    """How a router is trained.

    `balanced` draws every label equally often in an epoch; `class_weights` weighs the loss instead, by the
    clips that there are. Either does; with both, rare labels count twice. `shortest_stretch`: each epoch
    sees random stretches of the clips, of at least so many frames, which a router of windows needs.
    """

    learning_rate: float = 1e-3
    batch_size: int = 32
    max_epochs: int = 20
    label_smoothing: float = 0.1
    balanced: bool = True
    class_weights: str | None = None
    effective_number_beta: float = 0.9999
    largest_class_weight: float = 10.0
    weight_decay: float = 0.01
    warmup_share: float = 0.05
    max_gradient_norm: float = 1.0
    shortest_stretch: int | None = None
    patience: int = 5
    seed: int = 42

    def __post_init__(self):
        if self.class_weights not in {None, *CLASS_WEIGHTS}:
            raise ValueError(f"no class_weights {self.class_weights!r}; there are {', '.join(CLASS_WEIGHTS)}")
        positive = ("learning_rate", "batch_size", "max_epochs", "largest_class_weight", "max_gradient_norm")
        for name in (*positive, "patience"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if self.shortest_stretch is not None and self.shortest_stretch < 1:
            raise ValueError(f"shortest_stretch={self.shortest_stretch} must be at least 1 frame")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay={self.weight_decay} must be at least 0")
        for name in ("label_smoothing", "warmup_share", "effective_number_beta"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0 and below 1")


@dataclass(frozen=True)
class RouterEpoch:
    """What one epoch came to; the development figures are None without development clips."""

    epoch: int
    loss: float
    learning_rate: float
    development_accuracy: float | None = None
    development_loss: float | None = None


def class_weights(counts: Tensor, settings: RouterTraining) -> Tensor | None:
    """[labels] weights with mean 1, none above the largest allowed; None where they are not asked for."""
    if settings.class_weights is None:
        return None
    weights = CLASS_WEIGHTS[settings.class_weights](counts.double(), settings.effective_number_beta)
    return (weights / weights.mean()).clamp(max=settings.largest_class_weight).float()


def learning_rate_share(step: int, steps: int, warmup: int) -> float:
    """Of the highest learning rate: up in a line, down in half a cosine."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def train_router(
    router: LanguageRouter,
    clips: RouterClips,
    development: RouterClips | None = None,
    settings: RouterTraining | None = None,
) -> list[RouterEpoch]:
    """Train in place, and leave the router in eval with the weights of its best epoch on `development`.

    Best is the highest accuracy, and among equals the lowest loss; after `patience` epochs without a better
    one it ends. Without development clips all epochs run, and the last one counts.
    """
    settings = settings or RouterTraining()
    check_clips(router, clips, development)
    with torch.random.fork_rng():  # dropout draws from the global generator, which is the caller's
        torch.manual_seed(settings.seed)
        run = _Run(router, clips, settings)
        history: list[RouterEpoch] = []
        best, best_weights, waited = (-1.0, 0.0), None, 0
        for epoch in range(settings.max_epochs):
            loss = run.epoch()
            accuracy = development_loss = None
            if development is not None:
                accuracy, development_loss = quality(router, development)
                if (accuracy, -development_loss) > best:
                    best, waited = (accuracy, -development_loss), 0
                    best_weights = copy.deepcopy(router.state_dict())
                else:
                    waited += 1
            history.append(RouterEpoch(epoch, loss, run.learning_rate, accuracy, development_loss))
            if waited == settings.patience:
                break
    if best_weights is not None:
        router.load_state_dict(best_weights)
    router.eval()
    return history


def check_clips(router: LanguageRouter, clips: RouterClips, development: RouterClips | None) -> None:
    """Both sets are of the router's labels, and every label can be learnt."""
    for part in (clips, development):
        if part is not None:
            check_names(router, part)
    unheard = [name for name, count in zip(clips.names, clips.counts().tolist(), strict=True) if not count]
    if unheard:
        raise ValueError(f"no training clip of {', '.join(unheard)}, which the router's labels hold")


def quality(router: LanguageRouter, clips: RouterClips) -> tuple[float, float]:
    """Accuracy and mean cross-entropy."""
    logits = clip_logits(router, clips)
    accuracy = (logits.argmax(dim=-1) == clips.labels).float().mean().item()
    return accuracy, F.cross_entropy(logits, clips.labels).item()


class _Run:
    """One training run: its order of clips, its optimizer, its schedule."""

    def __init__(self, router: LanguageRouter, clips: RouterClips, settings: RouterTraining):
        self.router, self.clips, self.settings = router, clips, settings
        self.device = next(router.parameters()).device
        self.generator = torch.Generator().manual_seed(settings.seed)
        weights = class_weights(clips.counts(), settings)
        self.weights = None if weights is None else weights.to(self.device)
        matrices = [p for p in router.parameters() if p.dim() > 1]
        vectors = [p for p in router.parameters() if p.dim() <= 1]
        # No decay on biases and norms: it would pull what has no size to lose.
        groups = [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
        steps = settings.max_epochs * len(self.order())
        self.generator.manual_seed(settings.seed)  # counting the batches has drawn from it
        warmup = round(settings.warmup_share * steps)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_share(step, steps, warmup)
        )

    @property
    def learning_rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def order(self) -> list[list[int]]:
        """The batches of one epoch."""
        if self.settings.balanced:
            indices = balanced(self.clips.labels, self.generator)
        else:
            indices = shuffled(len(self.clips), self.generator)
        return self.clips.batches(indices, self.settings.batch_size, self.generator)

    def epoch(self) -> float:
        """Every batch once; the mean loss of a clip."""
        self.router.train()
        total, seen = 0.0, 0
        for indices in self.order():
            total += self.step(indices) * len(indices)
            seen += len(indices)
        return total / seen

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[B, labels], [B] -> the mean over clips, each with its label's weight.

        Stock weights would also multiply the share that smoothing gives the labels that are wrong: one of
        weight 24 drew every clip of the others to itself. And they would be divided out of every batch.
        """
        smoothing = self.settings.label_smoothing
        losses = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
        return (losses if self.weights is None else losses * self.weights[labels]).mean()

    def step(self, indices: list[int]) -> float:
        """One batch forwards, backwards and into the weights; its loss."""
        states, lengths, labels = self.clips.batch(indices, self.generator, self.settings.shortest_stretch)
        logits = batch_logits(self.router, states.to(self.device), lengths, self.clips.pooled)
        loss = self.loss(logits, labels.to(self.device))
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.router.parameters(), self.settings.max_gradient_norm)
        self.optimizer.step()
        self.schedule.step()
        return loss.item()
