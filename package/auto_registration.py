"""Makes the stock Auto classes know this package's classes, where it is installed."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMultimodalLM,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
)

from .configuration.configuration_speechllm import SpeechLLMConfig
from .modeling.modeling_speechllm import SpeechLLMForConditionalGeneration, SpeechLLMModel
from .processing.processing_speechllm import SpeechLLMProcessor


def register() -> None:
    """Register config, models and processor; once more is no harm."""
    AutoConfig.register(SpeechLLMConfig.model_type, SpeechLLMConfig, exist_ok=True)
    AutoModel.register(SpeechLLMConfig, SpeechLLMModel, exist_ok=True)
    for auto in (AutoModelForSpeechSeq2Seq, AutoModelForMultimodalLM):
        auto.register(SpeechLLMConfig, SpeechLLMForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(SpeechLLMConfig, SpeechLLMProcessor, exist_ok=True)
