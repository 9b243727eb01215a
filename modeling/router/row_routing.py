"""Which adapters each clip of a batch takes: named by the caller, chosen by the router, or none."""

import contextlib
from dataclasses import dataclass
from typing import Any

import torch

from ...configuration.configuration_router import BASE
from ...configuration.whisper_tokens import language_code
from ..encoder_pass import EncoderPass
from .routing_strategies import routing_rows, rows_over_bank

ORACLE = "oracle"


@dataclass
class Routing:
    """Weights `[B, N]` over the bank (`None`: there is nothing to weigh), and what was found out on the way.

    `languages` are what a decoder should be told, `None` where nobody knows; `scores` the router's
    probabilities by label; `encoder_pass` one that has begun and can be finished.
    """

    weights: torch.Tensor | None
    languages: list[str | None]
    scores: list[dict[str, float]] | None = None
    encoder_pass: EncoderPass | None = None

    def part(self, rows: list[int]) -> "Routing":
        """Of some clips; a pass through the encoder is of all of them, so it is not handed on."""
        weights = None if self.weights is None else self.weights[rows]
        return Routing(weights, [self.languages[row] for row in rows])

    def base_rows(self) -> list[bool]:
        """Of every clip, whether it is left to the base."""
        if self.weights is None:
            return [False] * len(self.languages)
        return (self.weights == 0).all(dim=1).tolist()


def route(
    model, input_features, lengths, languages: list[str | None], strategy: str | None, weights=None
) -> Routing:
    """Route a batch. `model`: a `SpeechLLMModel`; `languages`: what the caller knows of each clip.

    `weights` `[B, N]`, and else those of `use_adapters`, settle it, unless a strategy is asked for.
    """
    names = model.bank.names
    if weights is None and model.chosen_adapters is not None and strategy is None:
        weights = model.chosen_adapters.expand(len(languages), -1)
    if weights is not None:
        return Routing(weights, languages)
    if strategy == BASE:
        return Routing(torch.zeros(len(languages), len(names)) if names else None, languages)
    if not names and model.router is None:
        if strategy is not None:
            raise ValueError(
                f"routing={strategy!r}: this checkpoint has no adapters to route to: leave routing out"
            )
        return Routing(None, languages)
    if strategy == ORACLE and None in languages:
        raise ValueError("routing='oracle' needs the language of every clip: pass language=")
    if strategy in (None, ORACLE) and None not in languages:
        return _named(model, languages)
    if model.router is None:
        if strategy is None and len(names) == 1:
            return Routing(
                torch.ones(len(languages), 1), told_languages(model, names * len(languages), languages)
            )
        raise ValueError(
            f"this checkpoint has no router: say language= ({', '.join(names)}) or routing='base'"
        )
    return _routed(model, input_features, lengths, languages, strategy)


def _named(model, languages: list[str | None]) -> Routing:
    """By the languages that the caller names."""
    if not model.bank.names:
        return Routing(None, languages)
    chosen = [adapter_of(model, str(language)) for language in languages]
    return Routing(_one_hot(chosen, model.bank.names), told_languages(model, chosen, languages))


def _routed(model, input_features, lengths, languages: list[str | None], strategy: str | None) -> Routing:
    """By the router, except for the clips whose language is named."""
    config, names = model.config.router_config, model.bank.names
    probabilities, encoder_pass = heard_languages(model, input_features, lengths)
    best = [config.labels[place] for place in probabilities.argmax(dim=-1).tolist()]
    scores = [dict(zip(config.labels, row, strict=True)) for row in probabilities.tolist()]
    weights = None
    if names:
        weights = rows_over_bank(routing_rows(probabilities, strategy, config), config.labels, names)
        for row, language in enumerate(languages):
            if language is not None:
                weights[row] = _one_hot([adapter_of(model, language)], names)[0]
    return Routing(weights, told_languages(model, best, languages), scores, encoder_pass)


def heard_languages(model, input_features, lengths) -> tuple[torch.Tensor, EncoderPass | None]:
    """The router's probabilities `[B, labels]`, and the encoder pass they come from if it may go on.

    Gradient reaches the router and nothing below it.
    """
    if input_features is None:
        raise ValueError(
            "the router listens to input_features: with encoder_states say language= or routing_weights="
        )
    layer = model.config.router_config.layer
    with torch.no_grad():
        run = EncoderPass.of_base(model, input_features, lengths)
        heard = list(run.rest_at(layer))
    rows = [model.router.probabilities(states, run.frames[part]) for part, states in heard]
    # Below the layer everybody's states are the frozen base's: no need to compute them again.
    return torch.cat(rows), None if model.bank.touches("encoder", layer) else run


@contextlib.contextmanager
def adapters_settled(model):
    """For the time of a `generate`: forward passes within it leave the adapters as it set them."""
    model.decoding = True
    try:
        yield
    finally:
        model.decoding = False
        model.bank.use(None)


def one_a_clip(language, count: int) -> list[str | None]:
    """A language for every clip; one or none is for all of them."""
    if language is None or isinstance(language, str):
        return [language] * count
    if len(language) != count:
        raise ValueError(f"{len(language)} languages for {count} clips; give one a clip")
    return list(language)


def adapter_of(model, language: str) -> str:
    """The adapter for a language, a name of the bank or a language of one; "base" where there is none."""
    bank = model.bank.adapters
    if language in bank or language == BASE:
        return language
    code = language_code(language)
    if code is None:
        raise ValueError(f"no adapter and no language {language!r}; there are {', '.join(bank) or 'none'}")
    fitting = [name for name, adapter in bank.items() if code == language_code(adapter.language or name)]
    if len(fitting) > 1:
        raise ValueError(f"language {language!r} fits the adapters {', '.join(fitting)}: name one of them")
    return fitting[0] if fitting else BASE


def told_languages(model, chosen: list[str], languages: list[str | None]) -> list[str | None]:
    """What the decoder is told: what the caller named, or else the language of the chosen adapter or label.

    An adapter for a domain has none; then the base says what it hears.
    """
    told: list[str | None] = []
    for name, language in zip(chosen, languages, strict=True):
        adapter: Any = model.bank.adapters.get(name)
        own = adapter.language if adapter is not None and adapter.language else name
        named = language_code(language) if language is not None else None
        told.append(named or language_code(own))
    return told


def _one_hot(chosen: list[str], names: list[str]) -> torch.Tensor:
    """Adapters' names -> weights `[B, N]`; "base" is a row of zeros."""
    rows = torch.zeros(len(chosen), len(names))
    for row, name in enumerate(chosen):
        if name != BASE:
            rows[row, names.index(name)] = 1.0
    return rows
