"""Adapters of a bank come, go and change their names, and the others stay as they are."""

import copy

import pytest
import torch
from banked_whisper import ADAPTERS, SOFT, logits, row_of, slots_of, wide_bank
from safetensors.torch import load_file, save_file
from speechllm.configuration.configuration_lora import lora_bank, select_adapters
from speechllm.modeling.lora_bank import LoraBank
from speechllm.modeling.lora_layers import LoraLinear, adapter_of_key, is_lora_key, without_adapters
from torch import nn
from torch.testing import assert_close


def test_touches_says_from_where_on_the_encoder_is_the_base(stock):
    model = copy.deepcopy(stock)
    bank = LoraBank(lora_bank({"pa": ADAPTERS["pa"]}), slots_of(model))
    assert bank.touches("encoder") and not bank.touches("decoder")
    assert not bank.touches("encoder", below_layer=1) and bank.touches("encoder", below_layer=2)
    bank.add("de", ADAPTERS["de"])
    assert bank.touches("decoder", below_layer=1) and not bank.touches("encoder", below_layer=1)
    bank.add("it", ADAPTERS["it"])
    assert bank.touches("encoder", below_layer=1) and not bank.touches("encoder", below_layer=0)


def state_of(model, *names):
    state = model.state_dict()
    return {key: value.clone() for key, value in state.items() if adapter_of_key(key) in names}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_one_adapter_changes_and_the_others_stay(banked):
    model, bank = banked
    configs = bank.adapters
    others = state_of(model, "it", "hi", "pa")
    bank.remove("de")
    assert bank.names == ["it", "hi", "pa"] and list(configs) == bank.names
    assert not state_of(model, "de") and type(model.model.decoder.layers[0].fc1) is nn.Linear
    assert_same(state_of(model, "it", "hi", "pa"), others)
    bank.add("te", {"decoder": {"r": 3, "target_modules": ["fc1"]}})
    assert bank.names == ["it", "hi", "pa", "te"] and configs["te"].decoder.r == 3
    before = {key.replace(".hi", ".ur"): value for key, value in state_of(model, "hi").items()}
    bank.rename("hi", "ur")
    assert bank.names == ["it", "ur", "pa", "te"] and not state_of(model, "hi")
    assert_same(state_of(model, "ur"), before)
    bank.replace("it", {"encoder": {"r": 1}})
    assert bank.names == ["it", "ur", "pa", "te"] and configs["it"].encoder.r == 1
    assert all(tensor.shape[0] == 1 for key, tensor in state_of(model, "it").items() if "lora_A" in key)
    assert_same(state_of(model, "ur"), before)
    assert_same(state_of(model, "pa"), {key: value for key, value in others.items() if key.endswith(".pa")})


def test_bank_without_adapters_left_is_the_base(stock, banked, request_of_six):
    model, bank = banked
    for name in list(bank.names):
        bank.remove(name)
    assert set(model.state_dict()) == set(stock.state_dict())
    assert not any(isinstance(module, LoraLinear) for module in model.modules())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda bank: bank.add("it", ADAPTERS["it"]), "there is an adapter 'it' already"),
        (lambda bank: bank.rename("it", "de"), "there is an adapter 'de' already"),
        (lambda bank: bank.remove("fr"), "no adapter 'fr'; there are it, de, hi, pa"),
        (lambda bank: bank.rename("fr", "xx"), "no adapter 'fr'"),
        (lambda bank: bank.rename("it", "base"), "can be called 'base'"),
        (lambda bank: bank.add("a.b", ADAPTERS["it"]), "which 'a.b' is not"),
        (
            lambda bank: bank.add(
                "fr", {"encoder": {"r": 2}, "decoder": {"r": 2, "target_modules": ["up_proj"]}}
            ),
            "adapter 'fr': LoRA: no linear of WhisperDecoder is named 'up_proj'; there are fc1",
        ),
        (
            lambda bank: bank.replace("it", {"encoder": {"r": 2, "target_modules": ["nope"]}}),
            "adapter 'it': LoRA: no linear",
        ),
        (
            lambda bank: bank.add("fr", {"encoder": {"r": 2, "layers_to_transform": [0, 7]}}),
            "no layer 7 with such linears; there are 0, 1",
        ),
    ],
)
def test_change_that_cannot_be_is_refused_and_changes_nothing(banked, change, message):
    model, bank = banked
    before, names = model.state_dict(), list(bank.names)
    with pytest.raises(ValueError, match=message) as refusal:
        change(bank)
    assert "\n" not in str(refusal.value)
    assert_same(model.state_dict(), before)
    assert bank.names == names


@torch.no_grad()
def test_copied_model_has_a_bank_of_its_own(banked, request_of_six):
    model, bank = banked
    model.lora_bank = bank
    bank.use(torch.tensor(SOFT))
    expected = logits(model, request_of_six)
    twin = copy.deepcopy(model)
    assert_close(logits(twin, request_of_six), expected)
    twin.lora_bank.use(None)
    assert_close(logits(model, request_of_six), expected)
    twin.lora_bank.use(torch.tensor(SOFT))
    for parameter in bank.parameters_of("it"):
        parameter.zero_()
    twin.lora_bank.remove("pa")
    twin.lora_bank.use(torch.tensor(SOFT)[:, :3])
    assert_close(logits(twin, request_of_six)[0], expected[0])
    assert bank.names == list(ADAPTERS)


@pytest.mark.parametrize("live", [False, True], ids=["prepared", "live"])
def test_rows_that_a_copy_drops_are_still_there(live):
    model, bank = wide_bank()
    model.lora_bank = bank
    states = torch.randn(3, 2, 12)
    with torch.set_grad_enabled(live):
        bank.use(torch.eye(10, requires_grad=live)[[0, 1, 2]])
    with torch.no_grad():
        expected = model(states)
        twin = copy.deepcopy(model)
        twin.lora_bank.keep(torch.tensor([2]))
        assert_close(twin(states[2:]), expected[2:])
        assert_close(model(states), expected)


def test_bank_around_real_bases_is_built_in_the_meta_device(stock):
    model = copy.deepcopy(stock)
    with torch.device("meta"):
        LoraBank(lora_bank(ADAPTERS), slots_of(model))
    assert not any(tensor.is_meta for tensor in model.state_dict().values())


def test_subset_of_a_checkpoint_loads_alone(banked, stock, tmp_path, request_of_six):
    model, bank = banked
    save_file(state_of(model, *bank.names), tmp_path / "bank.safetensors")
    chosen = select_adapters(lora_bank(ADAPTERS), ["hi", "it"])
    assert list(chosen) == ["it", "hi"]
    few = copy.deepcopy(stock)
    few_bank = LoraBank(chosen, slots_of(few))
    tensors = without_adapters(load_file(tmp_path / "bank.safetensors"), {"de", "pa"})
    missing, unexpected = few.load_state_dict(tensors, strict=False)
    assert not unexpected and not any(map(is_lora_key, missing))
    with torch.no_grad():
        bank.use(torch.tensor([[0.5, 0, 0.5, 0]]))
        few_bank.use(torch.tensor([[0.5, 0.5]]))
        request = row_of(request_of_six, 0)
        assert_close(logits(few, request), logits(model, request))
    with pytest.raises(ValueError, match="no adapter 'fr'; there are it, de, hi, pa"):
        select_adapters(lora_bank(ADAPTERS), ["fr"])
