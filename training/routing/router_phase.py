"""What a phase that trained a router ends with: a temperature, and how well the router knows."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from speechllm.training.data.datasets import SpeechDataset

from .router_recipe import counted, scored
from .router_scores import calibrate
from .router_states import hear

logger = logging.getLogger(__name__)


def judged_router(
    model, processor, sets: Iterable[SpeechDataset], fit: bool, batch_size: int
) -> dict[str, Any]:
    """Scores of the model's router on all clips of the evaluation sets, whose languages must be known.

    `fit`: the temperature is fitted on these clips first. What a decoder was trained under keeps its own.
    """
    router = model.speech_model.router
    utterances = [item for dataset in sets for item in dataset.utterances]
    heard = hear(model, processor, router, utterances, "evaluation", batch_size, router.head.fixed_pooling)
    if fit:
        calibrate(router, heard.clips)
    facts = {"temperature": router.config.temperature, **counted(heard), **scored(router, heard)}
    logger.info(
        "router: %.1f %% of %d clips right, temperature %.3f, calibration error %.3f (%.3f without it)",
        100 * facts["accuracy"], facts["clips"], facts["temperature"], facts["calibration_error"],
        facts["calibration_error_before"],
    )  # fmt: skip
    return facts
