"""Gradient checkpointing that also works in frozen bases.

Stock layers checkpoint only in training mode, and frozen bases stay in eval: asked the stock way they would
keep every activation all the same.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


@contextlib.contextmanager
def checkpointed_layers(model: nn.Module, wanted: bool = True) -> Iterator[int]:
    """While the block runs, layers of the bases compute their activations again for gradients; how many."""
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if wanted and not layers:
        raise ValueError("gradient_checkpointing: neither base has layers that can be computed again")
    layers = layers if wanted else []
    for layer in layers:
        layer.forward = functools.partial(_recomputed, layer.forward)
    try:
        yield len(layers)
    finally:
        for layer in layers:
            del layer.forward


def _recomputed(forward, *args, **kwargs):
    # Without gradients there is nothing to save; with a cache a second pass would fill it twice.
    if not torch.is_grad_enabled() or kwargs.get("past_key_values") is not None:
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
