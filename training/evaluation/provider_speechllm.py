"""Our own checkpoints, through the pipeline that everybody uses."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speechllm import (
    SpeechLLMConfig,
    SpeechLLMForConditionalGeneration,
    SpeechLLMPipeline,
    SpeechLLMProcessor,
)
from speechllm.configuration.base_resolution import is_path
from speechllm.device_choice import choose_device, choose_dtype
from speechllm.processing.word_list import WordList

from .provider_base import (
    Heard,
    Provider,
    ProviderOptions,
    SpeechClip,
    by_language,
    file_states,
    short_language,
)


@dataclass(frozen=True)
class LocalOptions(ProviderOptions):
    """What is said of any model that torch runs here."""

    device: str = "auto"
    # Not "auto", which measures the machine: results would depend on what else it is doing.
    dtype: str = "float32"
    num_beams: int = 1
    max_new_tokens: int | None = None

    def limit(self) -> dict[str, int]:
        """The argument that bounds how much is written, where it is bounded."""
        return {} if self.max_new_tokens is None else {"max_new_tokens": self.max_new_tokens}


@dataclass(frozen=True)
class SpeechLLMOptions(LocalOptions):
    """As the pipeline has them."""

    routing: str | None = None
    prompt: str | None = None
    word_list: str | None = None


class SpeechLLMProvider(Provider):
    """A folder of `save_pretrained`, or an id on the Hub."""

    Options = SpeechLLMOptions
    options: SpeechLLMOptions

    def check(self) -> None:
        # An id on the Hub has one slash; whatever has more, or none, can only be a folder.
        if not Path(self.model).is_dir() and (is_path(self.model) or self.model.count("/") != 1):
            raise ValueError(f"speechllm:{self.model}: no such folder")
        try:
            SpeechLLMConfig.get_config_dict(self.model)
        except (OSError, ValueError) as error:
            raise ValueError(f"speechllm:{self.model} cannot be read: {error}") from None
        if self.options.word_list is not None:
            WordList.read(self.options.word_list)
            if self.options.num_beams < 2:
                raise ValueError(f"speechllm:{self.model}: word_list chooses among beams: add num_beams=5")

    def load(self) -> None:
        device = choose_device(self.options.device)
        config = SpeechLLMConfig.from_pretrained(self.model)
        dtype, _ = choose_dtype(self.options.dtype, device, config)
        model = SpeechLLMForConditionalGeneration.from_pretrained(self.model, dtype=dtype)
        processor = SpeechLLMProcessor.from_pretrained(self.model)
        self.engine = SpeechLLMPipeline(model, processor, device=device)

    def transcribe(self, clips: Sequence[SpeechClip]) -> list[Heard]:
        return by_language(self, clips, self._heard)

    def configuration(self) -> dict[str, Any]:
        return super().configuration() | placed(self.engine)

    def identity(self) -> dict[str, Any]:
        words = self.options.word_list
        listed = {} if words is None else {"words": file_states(os.path.expanduser(words))}
        return super().identity() | listed

    def _heard(self, waveforms: list[np.ndarray], language: str | None) -> list[Heard]:
        options = self.options
        results = self.engine(
            waveforms,
            language=language,
            routing=options.routing,
            prompt=options.prompt,
            word_list=options.word_list,
            batch_size=options.batch_size,
            return_language=True,
            num_beams=options.num_beams,
            **options.limit(),
        )
        return [
            Heard(result["text"], short_language(result.get("language")), result.get("language_scores"))
            for result in results
        ]


def placed(pipeline: Any) -> dict[str, Any]:
    """Where a loaded pipeline computes, and in what."""
    if pipeline is None:
        return {}
    model = pipeline.model
    return {
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
