"""Model and processor of a run's settings."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from speechllm import SpeechLLMConfig, SpeechLLMForConditionalGeneration, SpeechLLMProcessor
from speechllm.configuration.base_resolution import is_path
from transformers import BitsAndBytesConfig

from .settings import ModelSettings

QUANTIZER = "bitsandbytes"
# "8bit" and "4bit" in words of the loader. Sums stay in bfloat16: float16 overflows in some decoders.
QUANTIZATIONS: dict[str, dict[str, Any]] = {
    "8bit": {"load_in_8bit": True},
    "4bit": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": torch.bfloat16,
        "bnb_4bit_use_double_quant": True,
    },
}


def check_quantization(settings: ModelSettings) -> None:
    """Raise `ValueError` where the base could not be quantized for want of a library."""
    if settings.quantization and importlib.util.find_spec(QUANTIZER) is None:
        raise ValueError(
            f"model.quantization={settings.quantization} needs {QUANTIZER}, which is not installed: "
            f"pip install {QUANTIZER}, or leave it out"
        )


def model_config(settings: ModelSettings, adapter: dict[str, Any]) -> SpeechLLMConfig:
    """The config of what will be built, without reading any weights."""
    if settings.start_from:
        return SpeechLLMConfig.from_pretrained(settings.start_from)
    return SpeechLLMConfig.from_bases(**composed_of(settings, adapter))


def compose(settings: ModelSettings, adapter: dict[str, Any], dtype: torch.dtype, device: torch.device):
    """`(model, processor)`: of bases with a fresh adapter, or of a checkpoint to go on from."""
    loading: dict[str, Any] = {"dtype": dtype if settings.dtype == "auto" else getattr(torch, settings.dtype)}
    if settings.attn_implementation:
        loading["attn_implementation"] = settings.attn_implementation
    if settings.quantization:
        loading["quantization_config"] = BitsAndBytesConfig(**QUANTIZATIONS[settings.quantization])
        loading["device_map"] = {"": device}
    if settings.start_from:
        folder = settings.start_from
        model = SpeechLLMForConditionalGeneration.from_pretrained(folder, bases=settings.bases, **loading)
        return model, SpeechLLMProcessor.from_pretrained(folder)
    parts = composed_of(settings, adapter)
    model = SpeechLLMForConditionalGeneration.from_bases(**parts, **loading)
    return model, SpeechLLMProcessor.from_bases(**parts)


def composed_of(settings: ModelSettings, adapter: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `from_bases`, for config, model and processor alike."""
    if not settings.encoder:
        raise ValueError(
            "model.encoder names no base: give an id or a folder, or model.start_from a checkpoint"
        )
    fields = {name: value for name, value in adapter.items() if name != "kind"}
    return {
        "encoder": found_from_anywhere(settings.encoder),
        "decoder": settings.decoder and found_from_anywhere(settings.decoder),
        "adapter": adapter["kind"],
        "bases": settings.bases,
        **fields,
        **settings.fields,
    }


def found_from_anywhere(base: str) -> str:
    """An id as it is; a folder as an absolute path, for the checkpoint will be loaded from elsewhere."""
    return str(Path(base).expanduser().resolve()) if is_path(base) else base


def keep_trained_precise(model) -> None:
    """Adapter and LoRA in float32 whatever the bases are: a checkpoint that was saved rounded goes on so."""
    for name, parameter in model.named_parameters():
        if not model.is_base_key(name):
            parameter.data = parameter.data.float()
