"""Word error rate."""

from __future__ import annotations

from ..recognition_errors import edit_counts, error_rate
from .metric_base import TextMetric


class WordErrorRate(TextMetric):
    """`{"wer"}`: wrong, missing and added words for every word that was said."""

    description = "Word error rate over all pairs together."

    def judged(self, predictions, references):
        return {"wer": error_rate(edit_counts(predictions, references))}
