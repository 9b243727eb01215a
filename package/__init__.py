"""Speech recognizers from frozen speech encoders and language models. Names load on first use."""

import importlib

_EXPORTS = {
    "SpeechLLMConfig": "speechllm.configuration.configuration_speechllm",
    "SpeechLLMForConditionalGeneration": "speechllm.modeling.modeling_speechllm",
    "SpeechLLMPipeline": "speechllm.processing.pipeline_speechllm",
    "SpeechLLMProcessor": "speechllm.processing.processing_speechllm",
}

__all__ = [*_EXPORTS, "__version__"]


def __getattr__(name: str):
    if name == "__version__":
        value = importlib.import_module("importlib.metadata").version(__name__)
    elif name in _EXPORTS:
        # Whoever holds one of the classes can also use the stock Auto classes with it.
        importlib.import_module("speechllm.auto_registration").register()
        value = getattr(importlib.import_module(_EXPORTS[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there are {__all__}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
