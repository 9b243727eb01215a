"""Loads the frozen bases of a model, each with its own `from_pretrained`."""

import contextlib
import copy
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from ..configuration.base_resolution import hub_arguments, load_base
from ..configuration.configuration_strict import refuse_unknown
from .encoders.encoder_table import ENCODERS

logger = logging.get_logger(__name__)

# Arguments of `from_bases` and `from_pretrained` that say how the bases are loaded.
LOADING_ARGUMENTS = frozenset(
    ["dtype", "torch_dtype", "device_map", "quantization_config", "attn_implementation", "max_memory"]
)
SPREADING = ("auto", "balanced", "balanced_low_0", "sequential")
ATTENTION_SLOTS = ("audio_config", "text_config")


def explicit_dtype(arguments: dict) -> torch.dtype | None:
    """The one dtype a caller asked for; `None` for "auto"."""
    dtype = arguments.get("dtype") or arguments.get("torch_dtype")
    if not isinstance(dtype, str):
        return dtype
    named = getattr(torch, dtype, None)
    if dtype != "auto" and not isinstance(named, torch.dtype):
        raise ValueError(f"no dtype {dtype!r}; there are 'auto', 'float32', 'bfloat16' and 'float16'")
    return named if isinstance(named, torch.dtype) else None


def load_decoder(decoder_class, config, bases, arguments: dict) -> PreTrainedModel:
    """The decoder of a config, weights loaded by `decoder_class.from_pretrained`."""
    decoder = load_base(
        decoder_class.from_pretrained,
        config.decoder_id,
        config.decoder_revision,
        bases,
        **_options("text_config", config.text_config, arguments),
    )
    return _as_loaded(decoder)


def load_tower(config, bases, arguments: dict, beside: PreTrainedModel) -> PreTrainedModel:
    """The encoder of a config, weights loaded."""
    tower_class = ENCODERS[config.audio_config.model_type]
    options = _options("audio_config", config.audio_config, arguments)
    if options.get("device_map") in SPREADING:
        # The encoder is small: it goes where the decoder begins.
        options["device_map"] = {"": next(beside.parameters()).device}
        options.pop("max_memory", None)
    with _quiet_about_unused_tensors():
        tower = load_base(
            tower_class.from_pretrained,
            config.encoder_id,
            config.encoder_revision,
            bases,
            **_for_tower(tower_class, options),
        )
    return _as_loaded(tower)


def _as_loaded(base: PreTrainedModel) -> PreTrainedModel:
    """`base`, whose weights are there: the composite's constructor must not initialize them once more."""
    module: Any
    for module in base.modules():
        module._is_hf_initialized = True
        if getattr(module, "support_avx512bf16_for_cpu", False):
            # bitsandbytes repacks such weights for good at their first inference on a CPU: from then on
            # no gradient passes them, and a run that evaluates in between trains nothing, silently.
            module.support_avx512bf16_for_cpu = False
    return base


def _options(slot: str, sub_config, arguments: dict) -> dict:
    """Keywords for the `from_pretrained` of one base."""
    dtype, device_map = explicit_dtype(arguments), arguments.get("device_map")
    if isinstance(device_map, dict) and set(device_map) != {""}:
        raise ValueError(
            "device_map names parts of a base, which differ: pass 'auto', a device or {'': device}"
        )
    attention = arguments.get("attn_implementation")
    if isinstance(attention, dict):
        refuse_unknown("attn_implementation", attention, ATTENTION_SLOTS)
        attention = attention.get(slot)
    chosen = {
        **hub_arguments(arguments),
        "config": copy.deepcopy(sub_config),
        "dtype": dtype or sub_config.dtype or "auto",
        "device_map": device_map,
        "max_memory": arguments.get("max_memory"),
        "quantization_config": copy.deepcopy(arguments.get("quantization_config")),
        "attn_implementation": attention,
        # A pickle runs code when it is read.
        "use_safetensors": True,
    }
    return {name: value for name, value in chosen.items() if value is not None}


def _for_tower(tower_class, options: dict) -> dict:
    """`options` without what this family of encoders cannot do."""
    options = dict(options)
    name = tower_class.__name__
    if not tower_class._supports_sdpa:
        if options.get("attn_implementation") not in (None, "eager"):
            logger.warning_once(f"{name} knows eager attention only; it is loaded with that")
        options["attn_implementation"] = "eager"
    if not tower_class.QUANTIZABLE and options.pop("quantization_config", None) is not None:
        logger.warning_once(f"{name} cannot be quantized; it is loaded as it is")
    if tower_class.KEY_MAPPING:
        options["key_mapping"] = tower_class.KEY_MAPPING
    return options


def skipping_quantization(quantization, config):
    """A copy of `quantization` for a whole model that leaves alone what is trained, and the head."""
    quantization = copy.deepcopy(quantization)
    name = (
        "llm_int8_skip_modules"
        if hasattr(quantization, "llm_int8_skip_modules")
        else "modules_to_not_convert"
    )
    if not hasattr(quantization, name):
        raise ValueError(
            f"a {type(quantization).__name__} can't leave the adapter out: "
            "quantize a checkpoint that was saved without include_bases"
        )
    parts = ["adapter", "speech_norm"]
    if not ENCODERS[config.audio_config.model_type].QUANTIZABLE:
        parts.append("audio_tower")
    # Prefixes of the names in the class with a head and in the one without, then whatever ends like that.
    skipped = [*parts, *(f"model.{part}" for part in parts), r".*\.lora_[AB]", "lm_head"]
    setattr(quantization, name, [*(getattr(quantization, name) or []), *skipped])
    return quantization


@contextlib.contextmanager
def _quiet_about_unused_tensors():
    """An encoder is read from a checkpoint that holds a decoder too; the loader's report of it is no news."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
