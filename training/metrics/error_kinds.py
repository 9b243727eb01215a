"""What kinds of errors there are."""

from __future__ import annotations

from ..recognition_errors import edit_counts, repeats_itself, share
from .metric_base import TextMetric


class ErrorKinds(TextMetric):
    """Numbers of substitutions, deletions, insertions; shares of texts that loop or are empty."""

    description = "Counts of word errors by kind, and how many texts repeat themselves or are empty."

    def judged(self, predictions, references):
        counts = edit_counts(predictions, references)
        spoken = [heard for heard, said in zip(predictions, references, strict=True) if said.strip()]
        return {
            "substitutions": counts["substitutions"],
            "deletions": counts["deletions"],
            "insertions": counts["insertions"],
            "repetition_rate": share(map(repeats_itself, predictions)),
            "empty_rate": share(not heard.strip() for heard in spoken),
        }
