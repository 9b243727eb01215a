"""The config of a bank: through JSON and back, and what is refused."""

import json

import pytest
from speechllm.configuration.configuration_lora import BankAdapterConfig, LoraConfig, bank_adapter, lora_bank
from speechllm.modeling.lora_bank import LoraBank
from torch import nn

ADAPTERS = {
    "it": {"encoder": {"r": 4, "lora_alpha": 8}, "decoder": {"r": 4}},
    "pa": {"encoder": {"r": 2, "layers_to_transform": [1]}},
}


def test_config_of_a_bank_goes_through_json_and_keeps_its_order():
    bank = lora_bank({**ADAPTERS, "yo": {"decoder": LoraConfig(r=3), "language": "yoruba"}})
    values = json.loads(json.dumps({name: config.own_values() for name, config in bank.items()}))
    again = lora_bank(values)
    assert list(again) == [*ADAPTERS, "yo"]
    assert {name: config.own_values() for name, config in again.items()} == values
    assert again["yo"].language == "yoruba" and again["pa"].encoder.layers_to_transform == [1]
    assert lora_bank(bank)["it"].encoder.r == 4
    assert lora_bank({}) is None and lora_bank(None) is None


@pytest.mark.parametrize(
    ("bank", "message"),
    [
        ({"default": {"decoder": {}}}, "can be called 'default'"),
        ({"base": {"decoder": {}}}, "can be called 'base'"),
        ({"to": {"decoder": {}}}, "can be called 'to'"),
        ({"training": {"decoder": {}}}, "can be called 'training'"),
        ({"a b": {"decoder": {}}}, "which 'a b' is not"),
        ({3: {"decoder": {}}}, "which 3 is not"),
        ({"it": {}}, "'it': .*at least one of encoder, decoder"),
        ({"it": {"decodr": {}}}, "'it': .*no field 'decodr'; did you mean 'decoder'"),
        ({"it": {"decoder": {"r": 0}}}, "'it': .*r must be at least 1"),
        ({"it": {"decoder": {"layers_to_transform": []}}}, "'it': .*must name layers"),
        ({"it": {"decoder": {"layers_to_transform": [-1]}}}, "'it': .*must name layers"),
        ({"it": None}, "holds slots"),
        (["it"], "maps names to adapters"),
    ],
)
def test_bad_bank_is_refused_in_one_line(bank, message):
    with pytest.raises(ValueError, match=message) as refusal:
        lora_bank(bank)
    assert "\n" not in str(refusal.value)


def test_every_name_that_passes_is_one_that_modules_take():
    for name in ("it", "zh-Hant", "en_GB", "0", "Encoder"):
        config = bank_adapter(name, {"encoder": {"target_modules": ["0"]}})
        assert isinstance(config, BankAdapterConfig)
        bank = LoraBank(lora_bank({name: config}), {"encoder": nn.Sequential(nn.Linear(4, 4))})
        assert len(bank.parameters_of(name)) == 2
