"""LoRA as plain PEFT folders, for the stock base: read and written without PEFT."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..configuration.configuration_lora import LoraConfig, lora_config
from ..configuration.writing import replacing_files
from .lora_layers import ADAPTER, add_lora, lora_state

WEIGHTS = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"
PREFIX = "base_model.model."
FIELDS = ("r", "lora_alpha", "lora_dropout")

# Settings of PEFT that change what its tensors mean, with the values under which they are plain LoRA.
PLAIN: dict[str, tuple] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "fan_in_fan_out": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": ([], None),
    "lora_bias": (False, None),
}


def write_lora_folder(
    base: nn.Module, config: LoraConfig, folder, prefix: str, base_id: str | None, revision: str | None
) -> None:
    """Write a PEFT folder for the stock base, in which the modules of `base` are named with `prefix`."""
    state = lora_state(base)
    tensors = {f"{PREFIX}{prefix}{_peft_name(name)}": tensor.contiguous() for name, tensor in state.items()}
    # Whole names: in the stock model an ending may also fit a part that this base lacks, such as a decoder.
    targets = sorted({prefix + name.partition(".lora_")[0] for name in state})
    settings = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_id,
        "revision": revision,
        "inference_mode": True,
        "bias": "none",
        **{name: getattr(config, name) for name in FIELDS},
        "target_modules": targets,
    }
    with replacing_files(folder) as partial:
        save_file(tensors, str(Path(partial) / WEIGHTS), metadata={"format": "pt"})
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        (Path(partial) / SETTINGS).write_text(text, encoding="utf-8")


def read_lora_folder(base: nn.Module, config: LoraConfig | None, folder, prefix: str) -> LoraConfig:
    """Fill the LoRA of a base from a PEFT folder; the config it has then.

    A base without LoRA (`config` is `None`) gets what the folder describes; one with LoRA must agree with it.
    """
    settings, tensors = _read(Path(folder))
    levels = ("", f"{getattr(base, 'base_model_prefix', '')}.")
    named = {_own_name(name, prefix, levels): tensor for name, tensor in tensors.items()}
    modules = {name.partition(".lora_")[0] for name in named}
    if config is None:
        found = {name: settings[name] for name in FIELDS if name in settings}
        config = lora_config({**found, "target_modules": _endings(base, modules)})
        _check_shapes(base, modules, named, config, folder)
        add_lora(base, config)
    for name in ("r", "lora_alpha"):
        if settings[name] != getattr(config, name):
            raise ValueError(
                f"the LoRA in {folder} has {name}={settings[name]}, the model's {getattr(config, name)}"
            )
    own = {_peft_name(name): (name, tensor) for name, tensor in lora_state(base).items()}
    for name in sorted(set(named) ^ set(own)):
        where = "the folder has it, the model not" if name in named else "the model has it, the folder not"
        raise ValueError(f"the LoRA in {folder} does not fit this base: {name} ({where})")
    for name, tensor in named.items():
        if tensor.shape != own[name][1].shape:
            raise ValueError(
                f"the LoRA in {folder} has {name} of shape {list(tensor.shape)}, "
                f"the model of {list(own[name][1].shape)}"
            )
    base.load_state_dict({own[name][0]: tensor for name, tensor in named.items()}, strict=False)
    return config


def _read(folder: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Settings and tensors of a PEFT folder; what is not plain LoRA is refused."""
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        tensors = load_file(str(folder / WEIGHTS))
    except FileNotFoundError:
        raise ValueError(f"{folder} is no PEFT folder: it needs {SETTINGS} and {WEIGHTS}") from None
    except Exception as error:
        raise ValueError(f"the LoRA in {folder} cannot be read ({error})") from error
    for name, plain in PLAIN.items():
        if settings.get(name, plain[0]) not in plain:
            raise ValueError(f"{folder} is no plain LoRA: its {name} is {settings[name]!r}")
    return settings, tensors


def _own_name(name: str, prefix: str, levels: tuple[str, ...]) -> str:
    """A name in a PEFT folder -> the name below our base."""
    inner = name.removeprefix(PREFIX)
    # Where PEFT wrapped a class with a head, the stock base is one level deeper ("model.encoder.").
    return next(
        (
            inner.removeprefix(level + prefix)
            for level in levels
            if inner.startswith(level + prefix) and level + prefix
        ),
        inner,
    )


def _endings(base: nn.Module, modules: set[str]) -> list[str]:
    """The shortest endings that name just these modules: last parts if that will do, else whole names."""
    last = sorted({name.rpartition(".")[2] for name in modules})
    linears = (name for name, module in base.named_modules() if hasattr(module, "in_features"))
    named = {name for name in linears if name.rpartition(".")[2] in last}
    return last if named == modules else sorted(modules)


def _check_shapes(base, modules: set[str], named: dict, config: LoraConfig, folder) -> None:
    """Before anything is wrapped: every module is there, and takes what its tensors are made for."""
    linears: dict[str, Any] = dict(base.named_modules())
    for module in sorted(modules):
        linear: Any = linears.get(module)
        if not hasattr(linear, "in_features"):
            raise ValueError(f"the LoRA in {folder} does not fit this base: it has no linear {module}")
        wanted = {"lora_A": [config.r, linear.in_features], "lora_B": [linear.out_features, config.r]}
        for side, shape in wanted.items():
            tensor = named.get(f"{module}.{side}.weight")
            if tensor is None or list(tensor.shape) != shape:
                raise ValueError(
                    f"the LoRA in {folder} does not fit this base: {module}.{side} is not {shape}"
                )


def _peft_name(name: str) -> str:
    # PEFT's files leave out the adapter's name, which its modules carry.
    return name.replace(f".{ADAPTER}.", ".")
