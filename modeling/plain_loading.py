"""Reads the weights of a base that needs nothing done to them, in a third of the stock loader's time."""

import contextlib
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from ..configuration.base_resolution import hub_arguments
from .trained_tensors import read_tensors

# What else may be asked of a loader takes the stock one: devices, quantization, renamed tensors.
ARGUMENTS = frozenset(["config", "dtype", "attn_implementation", "use_safetensors"])


def load_plainly(model_class, source, arguments: dict[str, Any]):
    """The model at `source` as `model_class.from_pretrained` gives it, or `None` where that has to be asked.

    A loader that renames, converts and spreads tensors spends most of its time on asking, for every one,
    whether it has to. Where all names and shapes are the model's own there is nothing to ask.
    """
    fetch = hub_arguments(arguments) | {name: arguments[name] for name in ("revision",) if name in arguments}
    if set(arguments) - set(fetch) - ARGUMENTS or not isinstance(arguments.get("dtype"), torch.dtype):
        return None
    with torch.device("meta"):
        model = model_class._from_config(
            arguments["config"], attn_implementation=arguments.get("attn_implementation")
        )
    try:
        tensors = read_tensors(source, fetch)
    except (OSError, ValueError):
        # The stock loader says what is wrong with a base.
        return None
    if not fill(model, tensors, arguments["dtype"]):
        return None
    model.config.dtype = arguments["dtype"]
    model.name_or_path = model.config.name_or_path = str(source)
    with contextlib.suppress(OSError):
        # Without a file of its own a model generates as its config says.
        model.generation_config = GenerationConfig.from_pretrained(source, **fetch)
    return model.eval()


def fill(model, tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> bool:
    """Give a model on the meta device its tensors, in `dtype`; False where not each has its place."""
    planned = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    tied = set(model.all_tied_weights_keys)
    fits = set(planned) - tied <= set(tensors) <= set(planned) | tied
    if not fits or any(tensors[key].shape != planned[key].shape for key in set(planned) & set(tensors)):
        return False
    owners = dict(model.named_modules())
    for key in set(planned) - tied:
        owner, _, leaf = key.rpartition(".")
        # Copied: what lies in a mapped file need not begin where vector instructions like it.
        tensor = tensors[key]
        placed = tensor.to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
        if isinstance(planned[key], nn.Parameter):
            placed = nn.Parameter(placed)
        setattr(owners[owner], leaf, placed)
    model.tie_weights()
    return True
