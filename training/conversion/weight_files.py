"""Tensors of any file of weights by name; a pickle is read as tensors and nothing else."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
# Files of a folder of weights, the first that is there counts; an index names shards.
STANDARD = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# Where trainers put the weights beside their own state.
CONTAINERS = ("state_dict", "model_state_dict", "model")
# What wrappers for several devices and for compilation put before every name.
WRAPPERS = ("module.", "_orig_mod.")


def read_weights(source: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The tensors of a file, or of a folder's file or shards."""
    path = Path(source).expanduser()
    if not path.exists():
        raise ValueError(f"{path}: there is no such file or folder")
    path = _file_of(path) if path.is_dir() else path
    if path.name.endswith(".index.json"):
        shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        tensors = {name: one for shard in shards for name, one in _read(path.parent / shard).items()}
    else:
        tensors = _read(path)
    return _unwrapped(tensors)


def _file_of(folder: Path) -> Path:
    standard = [folder / name for name in STANDARD if (folder / name).is_file()]
    other = [path for path in sorted(folder.iterdir()) if path.suffix in (*PICKLES, ".safetensors")]
    # A trainer's own pickle lies beside the weights.
    other = [path for path in other if path.name != "training_args.bin"]
    if not standard and len(other) != 1:
        there = ", ".join(path.name for path in other) or "none"
        raise ValueError(f"{folder} has no {STANDARD[0]}; files of weights in it: {there}")
    return (standard or other)[0]


def _read(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is no readable safetensors file ({error})") from None
    if path.suffix not in PICKLES:
        raise ValueError(f"{path}: weights are in {', '.join(PICKLES)} or .safetensors files")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} is refused: {_reason(str(error))}") from None
    except (RuntimeError, EOFError, OSError, KeyError) as error:
        raise ValueError(f"{path} is no readable file of weights ({' '.join(str(error).split())})") from None
    return _tensors(content, path)


def _reason(message: str) -> str:
    """Of what torch says in many lines: the name of what a pickle would call."""
    found = re.search(r"GLOBAL (\S+)|[Cc]an only \w+ (\S+)|callable (\S+)", message)
    name = next((group for group in found.groups() if group), None) if found else None
    return f"it holds more than tensors, {name} for one" if name else "it is no pickle of tensors"


def _tensors(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """The mapping of names to tensors in what a file holds."""
    for container in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(container), Mapping):
            content = content[container]
            break
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} holds no names with tensors, but {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(f"{path}: {name!r} is no tensor, but {type(value).__name__}")
    return dict(content)


def _unwrapped(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


def check_tensors(
    held: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], source: str | os.PathLike
) -> None:
    """Every tensor that is wanted is held in its shape, and no other."""
    for fault, names in (("lacks", set(wanted) - set(held)), ("has, unasked,", set(held) - set(wanted))):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"{source} {fault} the tensor {min(names)!r}{more}")
    for name, tensor in held.items():
        if tensor.shape != wanted[name].shape:
            raise ValueError(
                f"{source}: {name!r} has shape {list(tensor.shape)}, not {list(wanted[name].shape)}"
            )


def without_tied_head(tensors: dict[str, torch.Tensor], source: str | os.PathLike) -> dict[str, torch.Tensor]:
    """A Whisper's tensors without its head, which is its embeddings once more; another head is an error."""
    rest = {name: tensor for name, tensor in tensors.items() if name != "proj_out.weight"}
    head, embeddings = tensors.get("proj_out.weight"), tensors.get("model.decoder.embed_tokens.weight")
    if head is not None and embeddings is not None and not torch.equal(head, embeddings):
        raise ValueError(f"{source}: proj_out.weight is not the embeddings, to which Whisper's head is tied")
    return rest
