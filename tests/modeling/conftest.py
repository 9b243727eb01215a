"""A tiny stock Whisper, the same with a bank of adapters, and a batch for both."""

import copy

import pytest
import torch
from banked_whisper import ADAPTERS, shake, slots_of
from speechllm.configuration.configuration_lora import lora_bank
from speechllm.modeling.lora_bank import LoraBank
from transformers import WhisperForConditionalGeneration


@pytest.fixture(scope="module")
def stock(bases):
    return WhisperForConditionalGeneration.from_pretrained(bases / "tiny--whisper").eval()


@pytest.fixture()
def banked(stock):
    """`(model, bank)`: a stock Whisper with `ADAPTERS`, none of them without effect."""
    model = copy.deepcopy(stock)
    bank = LoraBank(lora_bank(ADAPTERS), slots_of(model))
    return shake(model).eval(), bank


@pytest.fixture(scope="module")
def request_of_six():
    generator = torch.Generator().manual_seed(2)
    return {
        "input_features": torch.randn(6, 80, 3000, generator=generator),
        "decoder_input_ids": torch.randint(3, 60, (6, 7), generator=generator),
    }
