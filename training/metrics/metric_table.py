"""Our metrics by name."""

from __future__ import annotations

from speechllm.configuration.configuration_strict import suggest

from .cer import CharacterErrorRate
from .error_kinds import ErrorKinds
from .metric_base import TextMetric
from .wer import WordErrorRate

METRICS: dict[str, type[TextMetric]] = {
    "wer": WordErrorRate,
    "cer": CharacterErrorRate,
    "error_kinds": ErrorKinds,
}


def load_metric(name: str, normaliser: str = "plain") -> TextMetric:
    """As `evaluate.load`, from this package."""
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}; {suggest(name, METRICS)}")
    return METRICS[name](normaliser=normaliser)
