"""Cached clips with their texts -> a batch that any of the models takes, without the encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from speechllm.configuration.speech_lengths import chain_length
from speechllm.processing.clip_requests import REQUESTS
from torch import Tensor, tensor

from ..augmentation.augmentation import Mixed
from ..collator import SpeechCollator
from .storage import unpacked


class CachedCollator(SpeechCollator):
    """`SpeechCollator` for items of `CachedFeatures`: the same prompts and labels, other speech.

    Its batches hold `encoder_states` `[B, T, D]` and `feature_lengths` `[B]`, the inputs that the encoder had
    of each clip. Augmentation is what was cached.
    """

    def __init__(self, processor, bank: dict[str, str] | None = None):
        super().__init__(CachedRequests(processor), None, bank)

    def heard(self, item: dict[str, Any]) -> Mixed:
        """The item itself in the waveform's place; what was mixed into it is not known any more."""
        return Mixed(item, None, math.inf)  # type: ignore[arg-type]


class CachedRequests:
    """A processor's training requests, about clips that were heard before."""

    def __init__(self, processor):
        self.processor = processor

    def apply_training_request(
        self, audio: Sequence[dict[str, Any]], target: list[str], language=None, prompt=None, task=None
    ) -> dict[str, Tensor]:
        """As the processor's, with items of `CachedFeatures` as `audio`."""
        lengths = tensor([item["feature_length"] for item in audio])
        counts = chain_length(lengths, self.processor.input_steps).tolist()
        words = REQUESTS[self.processor.family](self.processor).training_text(
            counts, target, language, prompt, task
        )
        states = unpacked([item["encoder_states"] for item in audio], [item["scales"] for item in audio])
        return {**words, "encoder_states": states, "feature_lengths": lengths}
