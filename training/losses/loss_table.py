"""The losses a phase can name."""

from __future__ import annotations

from speechllm.configuration.configuration_strict import suggest

from ..routing.mixture_recipe import Mixture
from .contrastive import Contrastive
from .cross_entropy import CrossEntropy
from .ctc import CTC
from .objective import Objective
from .routing import Routing

LOSSES: dict[str, type[Objective]] = {
    "contrastive": Contrastive,
    "ctc": CTC,
    "cross_entropy": CrossEntropy,
    "mixture": Mixture,
    "routing": Routing,
}


def loss_class(given: str | dict) -> tuple[type[Objective], dict]:
    """`(class, options)` of a phase's `loss`: a name, or `{kind: NAME, option: value}`."""
    options = {"kind": given} if isinstance(given, str) else dict(given)
    kind = options.pop("kind", None)
    if kind not in LOSSES:
        raise ValueError(f"unknown loss {kind!r}; {suggest(str(kind), LOSSES)}")
    return LOSSES[kind], options
