"""Any speech recognizer of transformers, through its stock pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from speechllm.configuration.base_resolution import is_path, load_base, local_base
from speechllm.device_choice import DTYPES, choose_device
from speechllm.training.data.sounds import SAMPLING_RATE

from .provider_base import AUTO, Heard, Provider, SpeechClip, by_language, file_states, short_language
from .provider_speechllm import LocalOptions, placed


class TransformersProvider(Provider):
    """A base by its id or folder. Whisper hears 30 s of every clip, as stock does; longer ones by its own
    long form, one at a time."""

    Options = LocalOptions
    options: LocalOptions

    def check(self) -> None:
        if self.options.dtype not in DTYPES or self.options.dtype == "auto":
            raise ValueError(f"transformers: dtype={self.options.dtype}; there are {', '.join(DTYPES[1:])}")
        if is_path(self.model) and local_base(self.model) is None:
            raise ValueError(f"transformers:{self.model}: no such folder")

    def identity(self) -> dict[str, Any]:
        folder = local_base(self.model)
        return super().identity() | {"files": file_states(str(folder or self.model))}

    def load(self) -> None:
        device, dtype = choose_device(self.options.device), getattr(torch, self.options.dtype)

        def pipeline(source: str, **pinned: Any) -> Any:
            return transformers.pipeline(
                "automatic-speech-recognition", model=source, dtype=dtype, device=device, **pinned
            )

        self.engine = load_base(pipeline, self.model)
        tokenizer = self.engine.tokenizer
        if tokenizer.pad_token_id is None:
            # Without one the stock pipeline takes no batches; what is written after an end is never read.
            tokenizer.pad_token = tokenizer.eos_token
        if self.options.language != AUTO and not self._languages:
            raise ValueError(f"transformers:{self.model} is told no language: leave language= out")

    def transcribe(self, clips: Sequence[SpeechClip]) -> list[Heard]:
        return by_language(self, clips, self._heard)

    def configuration(self) -> dict[str, Any]:
        return super().configuration() | placed(self.engine)

    @property
    def _languages(self) -> dict[str, int]:
        """Languages that the model can be told, by their tokens."""
        settings = getattr(self.engine.model, "generation_config", None)
        return getattr(settings, "lang_to_id", None) or {}

    def _heard(self, waveforms: list[np.ndarray], language: str | None) -> list[Heard]:
        longest = SAMPLING_RATE * getattr(self.engine.feature_extractor, "chunk_length", float("inf"))
        heard = [Heard()] * len(waveforms)
        short = [place for place, waveform in enumerate(waveforms) if len(waveform) <= longest]
        for place, one in zip(short, self._batched([waveforms[p] for p in short], language), strict=True):
            heard[place] = one
        for place in sorted({*range(len(waveforms))} - {*short}):
            heard[place] = self._batched([waveforms[place]], language, return_timestamps=True)[0]
        return heard

    def _batched(self, waveforms: list[np.ndarray], language: str | None, **asked: Any) -> list[Heard]:
        if not waveforms:
            return []
        asked |= self._generation(language)
        # The stock pipeline reports the language of a batch's first clip as that of all.
        if self._languages and self.options.batch_size == 1:
            asked["return_language"] = True
        inputs = [{"raw": waveform, "sampling_rate": SAMPLING_RATE} for waveform in waveforms]
        results = self.engine(inputs, batch_size=self.options.batch_size, **asked)
        return [Heard(result["text"].strip(), _language_of(result)) for result in results]

    def _generation(self, language: str | None) -> dict[str, Any]:
        if not self.engine.model.can_generate():
            return {}
        settings: dict[str, Any] = {"num_beams": self.options.num_beams, "do_sample": False}
        settings |= self.options.limit()
        if self._languages:
            settings["task"] = "transcribe"
        if language is not None:
            settings["language"] = language
        return {"generate_kwargs": settings}


def _language_of(result: dict[str, Any]) -> str | None:
    chunks = result.get("chunks") or [{}]
    return short_language(chunks[0].get("language"))
