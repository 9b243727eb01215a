"""What our metrics share as modules of `evaluate`: pairs of texts in, a normaliser, no download."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from speechllm.training.data.normalisers import normaliser

from ..recognition_errors import check_pairs

try:
    import datasets
    import evaluate
except ImportError as error:
    raise ImportError("metrics need evaluate and datasets: install speechllm[eval,train]") from error


class TextMetric(evaluate.Metric, ABC):
    """A metric over predicted and reference texts; `metric.compute(predictions=[...], references=[...])`.

    `normaliser` names one of `training/data/normalisers.py` and is applied to both sides.
    """

    description = ""

    def __init__(self, normaliser: str = "plain", **arguments: Any):
        self.normaliser = normaliser
        super().__init__(**arguments)

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.description,
            citation="",
            inputs_description="predictions and references: equally long lists of texts",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        check_pairs(predictions, references)
        clean = normaliser(self.normaliser)
        return self.judged([clean(text) for text in predictions], [clean(text) for text in references])

    @abstractmethod
    def judged(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        """The metric's values for normalised texts."""
