"""A tiny Whisper with a bank of adapters, for the tests of the bank."""

import torch
from speechllm.configuration.configuration_lora import lora_bank
from speechllm.modeling.lora_bank import LoraBank
from speechllm.modeling.lora_layers import is_lora_key
from torch import nn

# Ranks, strengths, targets and slots that differ.
ADAPTERS = {
    "it": {"encoder": {"r": 4, "lora_alpha": 8}, "decoder": {"r": 4}},
    "de": {"decoder": {"r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "fc1"]}},
    "hi": {"encoder": {"r": 3, "target_modules": ["fc2"]}, "decoder": {"r": 5, "target_modules": ["k_proj"]}},
    "pa": {"encoder": {"r": 2, "layers_to_transform": [1]}},
}
HARD = [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0]]
SOFT = [[0.7, 0.3, 0, 0], [0, 0.2, 0.5, 0.3], [0, 0, 0, 0], [0, 0, 0, 1], [0.25] * 4, [1, 0, 0, 0]]


def slots_of(model):
    return {"encoder": model.model.encoder, "decoder": model.model.decoder}


def shake(model, seed=5, scale=0.3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_lora_key(name):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


def logits(model, request):
    return model(**request, use_cache=False).logits


def row_of(request, row):
    return {name: value[row : row + 1] for name, value in request.items()}


def wide_bank(adapters=10, dtype=torch.float32):
    """One linear with many adapters: what is gathered for long rows, and stacked for short ones."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(12, 8).to(dtype))
    named = {f"l{i}": {"encoder": {"r": 1 + i % 3, "target_modules": ["0"]}} for i in range(adapters)}
    bank = LoraBank(lora_bank(named), {"encoder": model})
    return shake(model).eval(), bank
