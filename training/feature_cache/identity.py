"""What made a cache, and whether it is what a model's own encoder would compute."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from speechllm.configuration.encoder_specs import encoder_spec
from speechllm.modeling.lora_layers import is_lora_key

from ..run_folder import version
from ..speech_trainer import write_text

MANIFEST = "cache.json"
FORMAT = 1
PACKAGES = ("speechllm", "torch", "transformers", "numpy", "pyarrow")


def encoder_identity(model, processor) -> dict[str, Any]:
    """All that encoder states depend on besides the sound; a plain mapping that JSON holds.

    Names and revisions are for the reader: what counts is the weights, for a checkpoint may hold an encoder
    of its own under its base's name.
    """
    body, config = model.speech_model, model.config
    extractor = json.dumps(processor.feature_extractor.to_dict(), sort_keys=True, default=str)
    return {
        "encoder_id": config.encoder_id,
        "encoder_revision": config.encoder_revision,
        "encoder_type": config.audio_config.model_type,
        "encoder_weights": weights_hash(body.audio_tower),
        "precision": str(body.audio_tower.dtype).removeprefix("torch."),
        "encoder_padding": config.encoder_padding,
        # An encoder-decoder attends to the silence up to 30 s, a bridge gets the clip alone.
        "keeps_silence": keeps_silence(config),
        "width": width_of(model),
        "feature_extractor": type(processor.feature_extractor).__name__,
        "feature_extractor_hash": hashlib.blake2b(extractor.encode(), digest_size=8).hexdigest(),
    }


def keeps_silence(config) -> bool:
    """Whether the decoder reads states of padding, so that they belong to a clip."""
    return bool(config.is_encoder_decoder) and config.encoder_padding == "max_length"


def width_of(model) -> int:
    """Channels of an encoder's states."""
    return encoder_spec(model.config.audio_config).width(model.config.audio_config)


def weights_hash(tower) -> str:
    """Of names and values of an encoder's tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def refuse_uncacheable(model) -> None:
    """Raise `ValueError` where states are not a matter of the frozen encoder alone."""
    body = model.speech_model
    if getattr(model.config.adapter_config, "noise_loss_weight", 0):
        raise ValueError(
            "noise_loss_weight needs to know what noise is in a clip, which no feature cache says: set it 0"
        )
    tower = dict(body.audio_tower.named_parameters())
    adapted = next((name for name in tower if is_lora_key(name)), None)
    if adapted:
        raise ValueError(
            f"a feature cache holds what the bare encoder computes, but here it has LoRA ({adapted}): "
            "train with the encoder in the loop"
        )
    trained = next((name for name, parameter in tower.items() if parameter.requires_grad), None)
    if trained:
        raise ValueError(
            f"the encoder is to be trained ({trained} and others), and a feature cache holds what it "
            "computed before: train with the encoder in the loop, or freeze it"
        )
    if body.router is not None and any(parameter.requires_grad for parameter in body.router.parameters()):
        raise ValueError(
            "the router is to be trained, which reads layers of the encoder that no feature cache holds: "
            "train it with the encoder in the loop"
        )


def read_cache_manifest(folder: Path) -> dict[str, Any]:
    """What made the cache in `folder`."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{folder} is no feature cache: it has no {MANIFEST}; make one with cache-features"
        ) from None
    except ValueError as error:
        raise ValueError(
            f"{folder / MANIFEST} is damaged ({error}): cache again into another folder"
        ) from None
    if manifest.get("format") != FORMAT:
        raise ValueError(
            f"{folder} holds a cache of format {manifest.get('format')}, this version reads "
            f"{FORMAT}: cache again"
        )
    return manifest


def write_cache_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    write_text(
        folder / MANIFEST,
        json.dumps(
            {"format": FORMAT, **manifest, "versions": {name: version(name) for name in PACKAGES}}, indent=2
        ),
    )


def check_identity(folder: Path, held: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise `ValueError` with both sides of the first fact in which a cache differs from what is wanted.

    Weights come last: where the encoder has another name as well, the name says more.
    """
    names = sorted(dict.fromkeys([*wanted, *held]), key=lambda name: name == "encoder_weights")
    # An id is where somebody found the weights; by another name they are the same ones.
    same_weights = held.get("encoder_weights") == wanted.get("encoder_weights")
    for name in names:
        if name in ("encoder_id", "encoder_revision") and same_weights:
            continue
        if held.get(name) != wanted.get(name):
            raise ValueError(
                f"the feature cache in {folder} was made with {name}={held.get(name)!r}, but here it is "
                f"{wanted.get(name)!r}: cache into another folder, or use what it was made with"
            )
