"""Character error rate."""

from __future__ import annotations

from ..recognition_errors import edit_counts, error_rate
from .metric_base import TextMetric


class CharacterErrorRate(TextMetric):
    """`{"cer"}`: wrong, missing and added characters for every character that was said."""

    description = "Character error rate over all pairs together."

    def judged(self, predictions, references):
        return {"cer": error_rate(edit_counts(predictions, references, "characters"))}
