"""Joint training of a bank under the router's own mixtures, from adapters that were trained apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from speechllm.configuration.configuration_router import BASE
from speechllm.modeling.router.routing_strategies import STRATEGIES, routing_rows, rows_over_bank
from speechllm.modeling.router.row_routing import heard_languages
from torch import Tensor

from ..losses.cross_entropy import CrossEntropy


def mixture_weights(
    model, input_features, input_features_mask=None, strategy: str = "soft", through_router: bool = False
) -> Tensor:
    """`routing_weights` `[B, N]` for a training batch, by the router, as generation would have them.

    `through_router`: the loss trains the router as well. Otherwise it decides without dropout, as in use.
    """
    body = model.speech_model
    refuse_without_router(model)
    lengths = body.checked_lengths(input_features, input_features_mask)
    training, wanted = body.router.training, through_router and torch.is_grad_enabled()
    body.router.train(training and wanted)
    try:
        with torch.set_grad_enabled(wanted):
            probabilities, _ = heard_languages(body, input_features, lengths)
            rows = routing_rows(probabilities, strategy, body.router.config)
            weights = rows_over_bank(rows, body.router.config.labels, body.bank.names)
    finally:
        body.router.train(training)
    if wanted:
        refuse_without_gradient(weights, strategy)
    return weights


def refuse_without_router(model) -> None:
    """Raise `ValueError` for a model whose mixtures nobody makes."""
    if model.speech_model.router is None:
        raise ValueError("this model has no router, whose mixtures are to be trained: train a router first")


def refuse_without_gradient(weights: Tensor, strategy: str) -> None:
    """Raise `ValueError` for weights of a strategy through which a router cannot be trained."""
    if not weights.requires_grad:
        raise ValueError(f"no gradient reaches the router through {strategy!r} rows: take soft ones")


class Mixture(CrossEntropy):
    """Cross-entropy of the text under the router's mixture of the bank, instead of each clip's own adapter.

    Where the router's parameters are trained, so is the router, through the mixture.
    """

    @dataclass(frozen=True)
    class Options(CrossEntropy.Options):
        """`strategy`: how the router's probabilities become rows of weights."""

        strategy: str = "soft"

    def __init__(self, model, processor, options: dict[str, Any], label_smoothing: float = 0.0):
        super().__init__(model, processor, options, label_smoothing)
        self.strategy: str = self.options.strategy
        refuse_without_router(model)
        known = [name for name in STRATEGIES if name != BASE]
        if self.strategy not in known:
            raise ValueError(f"no strategy {self.strategy!r} of mixtures; there are {', '.join(known)}")

    def check_trained(self, parts: Iterable[str]) -> None:
        config = self.model.speech_model.router.config
        asked = torch.full((1, len(config.labels)), 1 / len(config.labels), requires_grad=True)
        if "router" in parts:
            refuse_without_gradient(routing_rows(asked, self.strategy, config), self.strategy)

    def forward(self, labels, num_items_in_batch=None, routing_weights=None, **batch) -> dict[str, Tensor]:
        """`{"loss"}`; the adapters that `routing_weights` name are passed over."""
        trained = any(p.requires_grad for p in self.model.speech_model.router.parameters())
        weights = mixture_weights(
            self.model, batch["input_features"], batch.get("input_features_mask"), self.strategy, trained
        )
        return super().forward(labels, num_items_in_batch, routing_weights=weights, **batch)

    @torch.no_grad()
    def predict(self, batch: dict[str, Tensor], **generation) -> Tensor:
        """New ids `[B, N]`, routed as in use."""
        heard = {name: value for name, value in batch.items() if name != "routing_weights"}
        return self.model.generate(**heard, routing=self.strategy, **generation)
