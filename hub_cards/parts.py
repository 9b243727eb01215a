"""How many parameters each part of a model has, and how many of them were trained."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from safetensors import SafetensorError, safe_open
from speechllm.configuration.encoder_specs import encoder_spec
from speechllm.modeling.lora_layers import is_lora_key
from speechllm.modeling.modeling_speechllm import SpeechLLMForConditionalGeneration

from .run_facts import RunFacts, public_path

# Module of the model -> what a reader calls it.
NAMES = {
    "audio_tower": "encoder",
    "adapter": "adapter",
    "speech_norm": "adapter",
    "language_model": "decoder",
    "lm_head": "decoder",
    "lora": "LoRA",
    "router": "router",
}
# Names in `results.json` of bases that a run may train.
BASE_PARTS = ("encoder", "decoder")


@dataclass(frozen=True)
class Part:
    """One part: what it is, in words, and its numbers of parameters."""

    name: str
    what: str
    total: int
    trained: int


def parts(run: RunFacts) -> list[Part]:
    """The parts that there are, in the order in which speech passes them."""
    with torch.device("meta"):
        model = SpeechLLMForConditionalGeneration(run.config)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    saved = _saved_sizes(run)
    total = _by_part(sizes)
    trained = _by_part({name: size for name, size in saved.items() if name in sizes})
    if not run.config.references_bases:
        # The bases are in the file, trained or not; the run's own count says which.
        told = run.results.get("parameters", {}).get("trained_parts", {})
        trained |= {name: told.get(name, 0) for name in BASE_PARTS if name in trained}
    return [
        Part(name, described(run, name), total[name], trained.get(name, 0))
        for name in dict.fromkeys(NAMES.values())
        if total.get(name)
    ]


def described(run: RunFacts, part: str) -> str:
    """What a part is, in a few words."""
    config = run.config
    if part == "encoder":
        layers = encoder_spec(config.audio_config).layers(config.audio_config)
        layers = layers or getattr(config.audio_config, "num_hidden_layers", None)
        return _base(config.encoder_id, config.audio_config, layers, encoder_width(run))
    if part == "decoder":
        text = config.text_config.get_text_config()
        layers = getattr(text, "decoder_layers", None) or getattr(text, "num_hidden_layers", None)
        return _base(config.decoder_id, config.text_config, layers, decoder_width(run))
    if part == "adapter":
        return config.adapter_config.model_type.replace("_", " ")
    if part == "router":
        return f"chooses among {len(config.router_config.labels)} languages"
    names = sorted(config.lora_bank or {})
    return f"adapters {', '.join(names)}" if names else "in " + " and ".join(sorted(config.lora_config or {}))


def encoder_width(run: RunFacts) -> int:
    return encoder_spec(run.config.audio_config).width(run.config.audio_config)


def decoder_width(run: RunFacts) -> int:
    text = run.config.text_config.get_text_config()
    return getattr(text, "d_model", None) or text.hidden_size


def in_words(number: int) -> str:
    """41216 -> "41.2 k"."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _base(base_id: str | None, config, layers: int | None, width: int) -> str:
    size = f"{layers} layers of {width}" if layers else f"width {width}"
    return f"{public_path(base_id) if base_id else config.model_type}, {size}"


def _saved_sizes(run: RunFacts) -> dict[str, int]:
    """Tensor name -> number of values, from the headers of the checkpoint's files."""
    files = sorted(run.checkpoint.glob("model*.safetensors"))
    if not files:
        raise ValueError(f"{run.checkpoint} holds no model.safetensors")
    sizes: dict[str, int] = {}
    for path in files:
        try:
            with safe_open(path, "pt") as tensors:
                sizes |= {name: prod(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} can't be read: {error}") from error
    return sizes


def _by_part(sizes: dict[str, int]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, size in sizes.items():
        inner = "lora" if is_lora_key(name) else name.removeprefix("model.").split(".")[0]
        counts[NAMES[inner]] = counts.get(NAMES[inner], 0) + size
    return counts
