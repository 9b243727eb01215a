"""The kinds of recognizers that can be evaluated, by name."""

from __future__ import annotations

from .provider_base import Provider
from .provider_faster_whisper import FasterWhisperProvider
from .provider_services import AssemblyAIProvider, DeepgramProvider, OpenAIProvider
from .provider_speechllm import SpeechLLMProvider
from .provider_transformers import TransformersProvider

PROVIDERS: dict[str, type[Provider]] = {
    "speechllm": SpeechLLMProvider,
    "transformers": TransformersProvider,
    "faster-whisper": FasterWhisperProvider,
    "openai": OpenAIProvider,
    "assemblyai": AssemblyAIProvider,
    "deepgram": DeepgramProvider,
}
