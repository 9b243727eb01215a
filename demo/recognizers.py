"""Loaded checkpoints: the last few used stay in memory, and one of them computes at a time."""

import threading
from collections import OrderedDict
from collections.abc import Callable

import torch
from speechllm import (
    SpeechLLMConfig,
    SpeechLLMForConditionalGeneration,
    SpeechLLMPipeline,
    SpeechLLMProcessor,
)

# Two: as many as are compared.
KEPT = 2


def load_recognizer(
    source: str,
    bases: str | None = None,
    device: torch.device | str = "cpu",
    dtype_of: Callable[[SpeechLLMConfig], torch.dtype] = lambda config: torch.float32,
) -> SpeechLLMPipeline:
    """A checkpoint as any user loads it: by the installed package; code that lies in it is not run."""
    config = SpeechLLMConfig.from_pretrained(source)
    processor = SpeechLLMProcessor.from_pretrained(source)
    dtype = dtype_of(config)
    model = SpeechLLMForConditionalGeneration.from_pretrained(source, bases=bases, dtype=dtype)
    return SpeechLLMPipeline(model, processor, device=device)


class Recognizers:
    """Pipelines by source, loaded when first asked for; the least recently used makes room."""

    def __init__(self, load: Callable[[str], SpeechLLMPipeline] = load_recognizer, kept: int = KEPT):
        self.load, self.kept = load, kept
        # A visitor who stopped has left the queue while the last window is still being computed.
        self.computing = threading.Lock()
        self._loaded: OrderedDict[str, SpeechLLMPipeline] = OrderedDict()

    def get(self, source: str) -> SpeechLLMPipeline:
        """The pipeline of a checkpoint."""
        with self.computing:
            if source not in self._loaded:
                while len(self._loaded) >= self.kept:
                    self._loaded.popitem(last=False)
                self._loaded[source] = self.load(source)
            self._loaded.move_to_end(source)
            return self._loaded[source]

    def is_loaded(self, source: str) -> bool:
        return source in self._loaded
