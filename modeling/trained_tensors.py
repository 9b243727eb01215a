"""The tensors of an adapter-only checkpoint: found, checked against the model, put in their place."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import cached_file

WEIGHTS = "model.safetensors"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def read_tensors(name, fetch: dict, only_check: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, sharded or not. Pickled weights are refused, not read."""
    find = {**fetch, "_raise_exceptions_for_missing_entries": False}
    single = cached_file(name, WEIGHTS, **find)
    index = None if single else cached_file(name, f"{WEIGHTS}.index.json", **find)
    if single is None and index is None:
        if any(cached_file(name, pickle, **find) for pickle in PICKLES):
            raise ValueError(f"{name} holds pickled weights, which are never read: save it as {WEIGHTS}")
        raise OSError(f"{name} holds no {WEIGHTS}")
    if only_check:
        return {}
    if single:
        return _read(single)
    shards = sorted(set(json.loads(Path(str(index)).read_text())["weight_map"].values()))
    paths = [str(cached_file(name, shard, **fetch)) for shard in shards]
    return {key: tensor for path in paths for key, tensor in _read(path).items()}


def write_empty_weights(folder) -> None:
    """Where nothing was trained the stock method writes no file, and a checkpoint without one is damaged."""
    folder = Path(folder)
    if not any((folder / name).exists() for name in (WEIGHTS, f"{WEIGHTS}.index.json")):
        save_file({}, str(folder / WEIGHTS), metadata={"format": "pt"})


def _read(path: str) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except Exception as error:
        raise ValueError(f"{path} is no readable safetensors file ({error})") from error


def assign_tensors(
    model, tensors: dict[str, torch.Tensor], dtype: torch.dtype | None, device, name: str
) -> set[str]:
    """Make `tensors` the trained parts of `model`, in `dtype` or in their own; the names it has for them.

    A tensor that is missing, has no place or another shape is an error; nothing is initialized instead.
    """
    if not model.can_generate():
        # Saved by the class with a head, read by the one without.
        tensors = {
            key.removeprefix("model."): t for key, t in tensors.items() if not key.startswith("lm_head.")
        }
    state = model.state_dict()
    wanted = {key for key in state if not model.is_base_key(key)}
    for fault, keys in (("lacks", wanted - set(tensors)), ("has no place for", set(tensors) - set(state))):
        if keys:
            more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            who = f"checkpoint {name} lacks" if fault == "lacks" else f"the model of {name} has no place for"
            raise ValueError(f"{who} the tensor {sorted(keys)[0]!r}{more}")
    for key, tensor in tensors.items():
        if tensor.shape != state[key].shape:
            raise ValueError(
                f"checkpoint {name}: tensor {key!r} has shape {list(tensor.shape)}, "
                f"the config says {list(state[key].shape)}"
            )
    # Copied: tensors that lie in a mapped file need not begin where vector instructions like it, and then
    # products differ in their last bits from those of the model that was saved.
    owners = dict(model.named_modules(remove_duplicate=False))
    for key, tensor in tensors.items():
        owner, _, leaf = key.rpartition(".")
        kept = None if is_router_key(key) else dtype
        placed = tensor.to(device=state_device(state[key], device), dtype=kept, copy=True)
        # What `load_state_dict(assign=True)` does after going through every module for every key.
        held = owners[owner]._parameters if leaf in owners[owner]._parameters else owners[owner]._buffers
        held[leaf] = nn.Parameter(placed) if leaf in owners[owner]._parameters else placed
    return set(tensors)


def is_router_key(key: str) -> bool:
    """Whether a tensor is the router's: small, and sure of itself only in the precision it was trained in."""
    return key.removeprefix("model.").startswith("router.")


def state_device(tensor: torch.Tensor, default) -> torch.device:
    """Where a tensor goes: beside the base it belongs to, or to `default` while it is only planned."""
    return default if tensor.is_meta else tensor.device
