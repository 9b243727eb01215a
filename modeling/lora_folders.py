"""LoRA as plain PEFT folders, for the stock base: read and written without PEFT."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..configuration.base_resolution import is_path
from ..configuration.configuration_lora import LoraConfig, lora_config
from ..configuration.writing import replacing_files
from .lora_bank import LoraBank
from .lora_layers import ADAPTER, add_lora, base_linears, layer_index, lora_state

WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
SETTINGS = "adapter_config.json"
PREFIX = "base_model.model."
FIELDS = ("r", "lora_alpha", "lora_dropout")
PATTERNED = (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern"))

# Settings of PEFT that change what its tensors mean, with the values under which they are plain LoRA.
PLAIN: dict[str, tuple] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "use_qalora": (False, None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": ([], None),
    "lora_bias": (False, None),
    "layer_replication": ([], None),
    "target_parameters": ([], None),
    "trainable_token_indices": ([], {}, None),
    "alora_invocation_tokens": ([], None),
    # The others begin by changing the base.
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
}


class Part(NamedTuple):
    """A module whose linears have LoRA, and the prefix of its names in the stock model."""

    base: nn.Module
    prefix: str


def write_lora_folder(
    base: nn.Module, config: LoraConfig, folder, prefix: str, base_id: str | None, revision: str | None
) -> None:
    """Write a PEFT folder for the stock base, in which the modules of `base` are named with `prefix`."""
    _write({"": Part(base, prefix)}, {"": config}, ADAPTER, folder, base_id, revision)


def write_bank_folder(
    bank: LoraBank,
    name: str,
    folder,
    prefixes: Mapping[str, str],
    base_id: str | None,
    revision: str | None = None,
) -> None:
    """Write one adapter of a bank as a PEFT folder for the stock model that its slots are parts of.

    `prefixes` are those of the slots' names there: for Whisper `{"encoder": "model.encoder.", "decoder":
    "model.decoder."}`. Slots of different stock models need a folder each.
    """
    configs = {slot: lora for slot, lora in bank.config_of(name).slots.items() if slot in prefixes}
    if not configs:
        raise ValueError(f"adapter {name!r} has no LoRA on {', '.join(prefixes)}, so that nothing is written")
    parts = {slot: Part(bank.slots[slot], prefixes[slot]) for slot in configs}
    _write(parts, configs, name, folder, base_id, revision)


def read_bank_folder(
    bank: LoraBank,
    name: str,
    folder,
    prefixes: Mapping[str, str],
    base_id: str | None = None,
    language: str | None = None,
) -> None:
    """Give a bank the adapter that a PEFT folder holds, under a new name; `prefixes` as for writing.

    An adapter that has no LoRA on the slots of the folder yet gets it beside what it has.
    """
    parts = {slot: Part(bank.slots[slot], prefix) for slot, prefix in prefixes.items()}
    configs, tensors = _read_parts(parts, folder, base_id)
    known = bank.adapters.get(name)
    if known is not None and not set(known.slots) & set(configs):
        bank.extend(name, configs)
    else:
        bank.add(name, {**{slot: lora.own_values() for slot, lora in configs.items()}, "language": language})
    for slot, named in tensors.items():
        _fill(parts[slot].base, name, named)


def read_lora_folder(
    base: nn.Module, config: LoraConfig | None, folder, prefix: str, base_id: str | None = None
) -> LoraConfig:
    """Fill the LoRA of a base from a PEFT folder; the config it has then.

    A base without LoRA (`config` is `None`) gets what the folder describes; one with LoRA must agree with it.
    """
    configs, tensors = _read_parts({"": Part(base, prefix)}, folder, base_id)
    found, named = configs[""], tensors[""]
    if config is None:
        add_lora(base, found)
        config = found
    for name in ("r", "lora_alpha"):
        if getattr(found, name) != getattr(config, name):
            raise ValueError(
                f"the LoRA in {folder} has {name}={getattr(found, name)}, the model's {getattr(config, name)}"
            )
    own = {_peft_name(name, ADAPTER) for name in lora_state(base, ADAPTER)}
    for name in sorted(set(named) ^ own):
        where = "the folder has it, the model not" if name in named else "the model has it, the folder not"
        raise ValueError(f"the LoRA in {folder} does not fit this base: {name} ({where})")
    _fill(base, ADAPTER, named)
    return config


def _write(parts: dict[str, Part], configs: dict[str, LoraConfig], adapter: str, folder, base_id, revision):
    """A PEFT folder of one adapter on several parts of one stock model."""
    tensors: dict[str, torch.Tensor] = {}
    for base, prefix in parts.values():
        for name, tensor in lora_state(base, adapter).items():
            tensors[f"{PREFIX}{prefix}{_peft_name(name, adapter)}"] = tensor.contiguous()
    main = next(iter(configs.values()))
    # Keys of patterns are regular expressions for whole names.
    patterns = {re.escape(part.prefix) + ".*": configs[slot] for slot, part in list(parts.items())[1:]}
    settings = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_id,
        "revision": revision,
        "inference_mode": True,
        "bias": "none",
        **{name: getattr(main, name) for name in FIELDS},
        "rank_pattern": {key: lora.r for key, lora in patterns.items() if lora.r != main.r},
        "alpha_pattern": {
            key: lora.lora_alpha for key, lora in patterns.items() if lora.lora_alpha != main.lora_alpha
        },
        # Whole names: in the stock model an ending may also fit a part that has no LoRA here.
        "target_modules": sorted({name.removeprefix(PREFIX).partition(".lora_")[0] for name in tensors}),
    }
    with replacing_files(folder) as partial:
        save_file(tensors, str(Path(partial) / WEIGHTS), metadata={"format": "pt"})
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        (Path(partial) / SETTINGS).write_text(text, encoding="utf-8")


def _read_parts(parts: dict[str, Part], folder, base_id: str | None):
    """Configs and tensors (by their names below the part, as PEFT writes them) of each part in a folder."""
    settings, tensors = _read(Path(folder))
    _check_base(folder, settings.get("base_model_name_or_path"), base_id)
    linears = {slot: base_linears(part.base) for slot, part in parts.items()}
    found: dict[str, dict[str, torch.Tensor]] = {}
    described: dict[str, set[tuple]] = {}
    for name, tensor in tensors.items():
        key = name.removeprefix(PREFIX)
        slot, own = _own_name(key, parts)
        _check_tensor(folder, linears[slot], own, tensor)
        found.setdefault(slot, {})[own] = tensor
        module = key.partition(".lora_")[0]
        described.setdefault(slot, set()).add(
            tuple(_by_pattern(settings.get(pattern), module, settings[field]) for field, pattern in PATTERNED)
        )
    if not found:
        raise ValueError(f"the LoRA in {folder} holds no tensors")
    configs = {}
    for slot, named in found.items():
        if len(described[slot]) > 1:
            patterns = {pattern: settings[pattern] for _, pattern in PATTERNED if settings.get(pattern)}
            raise ValueError(f"{folder} is no plain LoRA: one base has several strengths ({patterns})")
        (rank, alpha) = described[slot].pop()
        base = parts[slot].base
        targets = _targets(base, {name.partition(".lora_")[0] for name in named})
        dropout = settings.get("lora_dropout", 0.0)
        configs[slot] = lora_config({"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, **targets})
        _check_whole(folder, named, rank)
    return configs, found


def _check_base(folder, theirs: str | None, ours: str | None) -> None:
    # Folders on some machine say nothing about what lies in them: ids on the Hub do.
    if theirs and ours and theirs != ours and not is_path(theirs) and not is_path(ours):
        raise ValueError(f"the LoRA in {folder} was made for {theirs}, but this base is {ours}")


def _read(folder: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Settings and tensors of a PEFT folder; what is not plain LoRA is refused."""
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        tensors = _read_tensors(folder)
    except FileNotFoundError:
        raise ValueError(f"{folder} is no PEFT folder: it needs {SETTINGS} and {WEIGHTS}") from None
    except Exception as error:
        raise ValueError(f"the LoRA in {folder} cannot be read ({error})") from error
    for name, plain in PLAIN.items():
        if settings.get(name, plain[0]) not in plain:
            raise ValueError(f"{folder} is no plain LoRA: its {name} is {settings[name]!r}")
    for field, _ in PATTERNED:
        if settings.get(field) is None:
            raise ValueError(f"{folder} is no plain LoRA: its {SETTINGS} has no {field}")
    return settings, tensors


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    pickle = folder / PICKLE
    if pickle.exists() and not (folder / WEIGHTS).exists():
        # As PEFT wrote it of old; nothing but tensors is read of it.
        return torch.load(pickle, map_location="cpu", weights_only=True)
    return load_file(str(folder / WEIGHTS))


def _own_name(key: str, parts: dict[str, Part]) -> tuple[str, str]:
    """A stock model's name -> the slot it belongs to, and the name below that part."""
    candidates = []
    for slot, (base, prefix) in parts.items():
        level = f"{getattr(base, 'base_model_prefix', '')}."
        # PEFT may have wrapped a class with a head, one level deeper ("model.encoder."), or one without.
        candidates += [(option, slot) for option in {prefix, level + prefix, prefix.removeprefix(level)}]
    fitting = [(option, slot) for option, slot in candidates if option and key.startswith(option)]
    # What fits no part is taken for the first one's: there it is missed by its name.
    option, slot = max(fitting, key=lambda pair: len(pair[0]), default=("", next(iter(parts))))
    return slot, key.removeprefix(option)


def _by_pattern(patterns: Mapping | None, module: str, value):
    """The value for a module: that of the first pattern which fits its name, as PEFT does it."""
    for pattern, special in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return special
    return value


def _targets(base: nn.Module, modules: set[str]) -> dict[str, Any]:
    """The fields that name just these modules: by last parts, by those in some layers, or by whole names."""
    last = sorted({name.rpartition(".")[2] for name in modules})
    layers = sorted({layer for name in modules if (layer := layer_index(name)) is not None})
    named = {name for name in base_linears(base) if name.rpartition(".")[2] in last}
    if named == modules:
        return {"target_modules": last}
    if {name for name in named if layer_index(name) in layers} == modules:
        return {"target_modules": last, "layers_to_transform": layers}
    return {"target_modules": sorted(modules)}


def _check_tensor(folder, linears: dict[str, Any], name: str, tensor: torch.Tensor) -> None:
    """A LoRA tensor has a linear of its width in the base, or that is an error."""
    module, _, side = name.partition(".lora_")
    linear = linears.get(module)
    if linear is None or side not in ("A.weight", "B.weight"):
        raise ValueError(f"the LoRA in {folder} does not fit this base: it has no linear for {name}")
    linear = getattr(linear, "base_layer", linear)
    theirs, ours = (
        (tensor.shape[1], linear.in_features) if side[0] == "A" else (tensor.shape[0], linear.out_features)
    )
    if theirs != ours:
        raise ValueError(
            f"the LoRA in {folder} does not fit this base: {module} is {theirs} wide there and {ours} here"
        )


def _check_whole(folder, named: dict[str, torch.Tensor], rank: int) -> None:
    """Both matrices of every linear are there, of the rank that the settings say."""
    for module in sorted({name.partition(".lora_")[0] for name in named}):
        for side, dim in (("lora_A", 0), ("lora_B", 1)):
            tensor = named.get(f"{module}.{side}.weight")
            if tensor is None:
                raise ValueError(f"the LoRA in {folder} is not whole: {module} has no {side}")
            if tensor.shape[dim] != rank:
                there = tensor.shape[dim]
                raise ValueError(
                    f"{folder} is no plain LoRA: {module} has rank {there}, its settings say {rank}"
                )


def _fill(base: nn.Module, adapter: str, named: dict[str, torch.Tensor]) -> None:
    """Give an adapter its values."""
    own = {_peft_name(name, adapter): name for name in lora_state(base, adapter)}
    base.load_state_dict({own[name]: tensor for name, tensor in named.items()}, strict=False)


def _peft_name(name: str, adapter: str) -> str:
    # PEFT's files leave out the adapter's name, and have a module for each matrix.
    return f"{name.removesuffix(f'.{adapter}')}.weight"
