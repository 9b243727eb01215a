"""From predicted ids to error rates and a table of examples."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
from transformers import EvalPrediction

from .data.normalisers import Normaliser
from .recognition_errors import edit_counts, error_rate, judge
from .speech_trainer import write_text

logger = logging.getLogger(__name__)


class TextJudge:
    """`judge(EvalPrediction)` -> metrics; remembers the texts for `write_table`."""

    def __init__(self, processor, normaliser: Normaliser, rows: int, folder: Path):
        self.processor = processor
        self.normaliser = normaliser
        self.rows = rows
        self.folder = folder
        self.table: list[dict] = []

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        heard, said = self.texts(prediction.predictions), self.texts(prediction.label_ids)
        clean = [self.normaliser(text) for text in heard], [self.normaliser(text) for text in said]
        self.table = [
            {"said": one, "heard": other, "wer": error_rate(edit_counts([b], [a]))}
            for one, other, a, b in zip(said, heard, clean[1], clean[0], strict=True)
        ][: self.rows]
        return judge(*clean)

    def texts(self, ids) -> list[str]:
        """Texts of ids `[N, L]`, negative where there is nothing."""
        ids = np.where(ids < 0, self.processor.tokenizer.pad_token_id, ids)
        return [text.strip() for text in self.processor.batch_decode(ids, skip_special_tokens=True)]

    def write_table(self, name: str) -> None:
        """Write the examples of the last evaluation as JSONL."""
        lines = [json.dumps(row, ensure_ascii=False) for row in self.table]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / f"{name}.jsonl", "\n".join(lines) + "\n")
        except OSError as error:
            logger.warning("the table of %s could not be written: %s", name, error)
