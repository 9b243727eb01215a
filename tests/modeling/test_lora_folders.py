"""Adapters of a bank as PEFT folders of a stock Whisper: PEFT's numbers both ways, and what is refused."""

import copy
import json
from pathlib import Path

import pytest
import torch
from banked_whisper import row_of, shake, slots_of
from safetensors.torch import load_file, save_file
from speechllm.configuration.configuration_lora import lora_bank
from speechllm.modeling.lora_bank import LoraBank
from speechllm.modeling.lora_folders import read_bank_folder, write_bank_folder
from speechllm.modeling.lora_layers import adapter_of_key, is_lora_key
from torch.testing import assert_close

try:
    import peft
except ImportError:
    peft = None

needs_peft = pytest.mark.skipif(peft is None, reason="compares with PEFT, which is not installed")
PREFIXES = {"encoder": "model.encoder.", "decoder": "model.decoder."}
BASE = "tiny/whisper"
ADAPTERS = {
    "both": {"encoder": {"r": 4, "lora_alpha": 8}, "decoder": {"r": 2, "lora_alpha": 7}},
    "same": {"encoder": {"r": 3, "lora_alpha": 6}, "decoder": {"r": 3, "lora_alpha": 6}},
    "decoder": {"decoder": {"r": 2, "target_modules": ["encoder_attn.q_proj", "fc1"]}},
    "upper": {"encoder": {"r": 2, "layers_to_transform": [1]}},
}


@pytest.fixture(scope="module")
def request_of_one(request_of_six):
    return row_of(request_of_six, 0)


def banked(stock, adapters=None):
    model = copy.deepcopy(stock)
    bank = LoraBank(lora_bank(adapters) or {}, slots_of(model))
    return shake(model).eval(), bank


@torch.no_grad()
def logits(model, request, bank=None, name=None):
    if bank is not None:
        bank.use(torch.tensor([[float(other == name) for other in bank.names]]))
    return model(**request, use_cache=False).logits


@needs_peft
@pytest.mark.parametrize("name", ADAPTERS)
def test_peft_makes_of_a_folder_what_the_bank_makes_of_the_adapter(stock, request_of_one, tmp_path, name):
    model, bank = banked(stock, ADAPTERS)
    write_bank_folder(bank, name, tmp_path, PREFIXES, BASE)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(stock), str(tmp_path)).eval()
    expected = logits(theirs, request_of_one)
    assert_close(logits(model, request_of_one, bank, name), expected, atol=1e-5, rtol=1e-5)
    assert (expected - logits(stock, request_of_one)).abs().max() > 0.02


THEIRS = {
    "list": {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]},
    "regex": {"r": 2, "target_modules": r"model\.decoder\..*\.(q_proj|fc2)"},
    "layers": {"r": 2, "target_modules": ["fc1", "k_proj"], "layers_to_transform": [1]},
    "patterns": {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "fc1"],
        "rank_pattern": {r"model\.encoder\..*": 5},
        "alpha_pattern": {r"decoder\.layers\.\d+\..*": 9},
    },
}


@needs_peft
@pytest.mark.parametrize("kind", THEIRS)
def test_folder_that_peft_made_becomes_an_adapter(stock, request_of_one, tmp_path, kind):
    settings = peft.LoraConfig(**THEIRS[kind], init_lora_weights=False)
    theirs = peft.get_peft_model(copy.deepcopy(stock), settings).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    model, bank = banked(stock, {"other": ADAPTERS["both"]})
    read_bank_folder(bank, "new", tmp_path / "theirs", PREFIXES, BASE, language="it")
    expected = logits(theirs, request_of_one)
    assert_close(logits(model, request_of_one, bank, "new"), expected, atol=1e-5, rtol=1e-5)
    assert bank.config_of("new").language == "it"
    # What was read is a config that builds the same and a folder that PEFT reads again.
    again, again_bank = banked(stock, {"new": bank.config_of("new")})
    assert {k for k in again.state_dict() if is_lora_key(k)} == {
        k for k in model.state_dict() if adapter_of_key(k) == "new"
    }
    write_bank_folder(bank, "new", tmp_path / "ours", PREFIXES, BASE)
    back = peft.PeftModel.from_pretrained(copy.deepcopy(stock), str(tmp_path / "ours")).eval()
    assert_close(logits(back, request_of_one), expected, atol=1e-5, rtol=1e-5)


@needs_peft
def test_config_that_is_read_is_short_where_endings_will_do(stock, tmp_path):
    found = {}
    for kind, fields in THEIRS.items():
        theirs = peft.get_peft_model(copy.deepcopy(stock), peft.LoraConfig(**fields))
        theirs.save_pretrained(tmp_path / kind)
        _, bank = banked(stock)
        read_bank_folder(bank, "new", tmp_path / kind, PREFIXES)
        found[kind] = {
            slot: (lora.r, lora.lora_alpha, lora.target_modules, lora.layers_to_transform)
            for slot, lora in bank.config_of("new").slots.items()
        }
    targets = ["q_proj", "v_proj"]
    assert found == {
        "list": {"encoder": (4, 6, targets, None), "decoder": (4, 6, targets, None)},
        "regex": {"decoder": (2, 8, ["fc2", "q_proj"], None)},
        "layers": {"encoder": (2, 8, ["fc1", "k_proj"], [1])},
        "patterns": {
            "encoder": (5, 4, ["fc1", "q_proj"], None),
            "decoder": (2, 9, ["fc1", "q_proj"], None),
        },
    }


def test_folder_of_old_is_read_where_it_holds_tensors_and_nothing_else(stock, tmp_path):
    weights = written(stock, tmp_path) / "adapter_model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    torch.save(tensors, tmp_path / "adapter_model.bin")
    model, bank = banked(stock)
    read_bank_folder(bank, "new", tmp_path, PREFIXES, BASE)
    found = model.model.encoder.layers[0].self_attn.q_proj.lora_A["new"]
    assert torch.equal(found, tensors[QUERY + "A.weight"])
    torch.save({"code": Path}, tmp_path / "adapter_model.bin")
    with pytest.raises(ValueError, match="cannot be read"):
        read_bank_folder(bank, "newer", tmp_path, PREFIXES, BASE)


def test_adapter_comes_back_bit_for_bit_also_from_a_folder_for_each_slot(stock, tmp_path):
    model, bank = banked(stock, ADAPTERS)
    expected = {k: v for k, v in model.state_dict().items() if adapter_of_key(k) == "both"}
    again, again_bank = banked(stock)
    for slot, prefix in PREFIXES.items():
        write_bank_folder(bank, "both", tmp_path / slot, {slot: prefix}, BASE)
        read_bank_folder(again_bank, "both", tmp_path / slot, {slot: prefix}, BASE)
    found = {k: v for k, v in again.state_dict().items() if is_lora_key(k)}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert again_bank.config_of("both").own_values() == bank.config_of("both").own_values()


def written(stock, tmp_path, name="both", base=BASE):
    write_bank_folder(banked(stock, ADAPTERS)[1], name, tmp_path, PREFIXES, base)
    return tmp_path


def edit(folder, **settings):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def edit_tensors(folder, change):
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


WIDTH = r"does not fit this base: layers.0.self_attn.q_proj is 33 wide there and 32 here"
QUERY = "base_model.model.model.encoder.layers.0.self_attn.q_proj.lora_"
SPOILED = {
    "other_base": (
        lambda f: edit(f, base_model_name_or_path="tiny/other"),
        "made for tiny/other, but this base is tiny/whisper",
    ),
    "width": (
        lambda f: edit_tensors(f, lambda t: {**t, QUERY + "A.weight": torch.zeros(4, 33)}),
        WIDTH,
    ),
    "rank": (
        lambda f: edit_tensors(f, lambda t: {**t, QUERY + "A.weight": torch.zeros(5, 32)}),
        "no plain LoRA: layers.0.self_attn.q_proj has rank 5, its settings say 4",
    ),
    "half": (
        lambda f: edit_tensors(f, lambda t: {k: v for k, v in t.items() if k != QUERY + "B.weight"}),
        "not whole: layers.0.self_attn.q_proj has no lora_B",
    ),
    "head": (
        lambda f: edit_tensors(f, lambda t: {**t, "base_model.model.proj_out.lora_A.weight": torch.ones(1)}),
        "no linear for proj_out.lora_A.weight",
    ),
    "magnitude": (
        lambda f: edit_tensors(
            f, lambda t: {**t, QUERY.replace("lora_", "lora_magnitude_vector.weight"): torch.ones(1)}
        ),
        "no linear for",
    ),
    "empty": (lambda f: edit_tensors(f, lambda t: {}), "holds no tensors"),
    "dora": (lambda f: edit(f, use_dora=True), "no plain LoRA: its use_dora is True"),
    "pissa": (
        lambda f: edit(f, init_lora_weights="pissa"),
        "no plain LoRA: its init_lora_weights is 'pissa'",
    ),
    "strengths": (
        lambda f: edit(f, alpha_pattern={"q_proj": 3}),
        "one base has several strengths .*'q_proj': 3",
    ),
    "no_rank": (lambda f: edit(f, r=None), "no plain LoRA"),
    "no_json": (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read"),
    "nothing": (lambda f: (f / "adapter_model.safetensors").unlink(), "is no PEFT folder"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_folder_that_does_not_fit_is_refused_and_changes_nothing(stock, tmp_path, kind):
    spoil, message = SPOILED[kind]
    spoil(written(stock, tmp_path))
    model, bank = banked(stock, {"other": ADAPTERS["same"]})
    before = model.state_dict()
    with pytest.raises(ValueError, match=message) as refusal:
        read_bank_folder(bank, "new", tmp_path, PREFIXES, BASE)
    assert "\n" not in str(refusal.value)
    assert bank.names == ["other"] and set(model.state_dict()) == set(before)


def test_base_that_is_a_folder_somewhere_is_no_other_base(stock, tmp_path):
    written(stock, tmp_path, base="/somewhere/whisper")
    read_bank_folder(banked(stock)[1], "new", tmp_path, PREFIXES, BASE)


def test_name_is_not_used_twice(stock, tmp_path):
    written(stock, tmp_path)
    _, bank = banked(stock, ADAPTERS)
    with pytest.raises(ValueError, match="there is an adapter 'both' already"):
        read_bank_folder(bank, "both", tmp_path, PREFIXES, BASE)
    with pytest.raises(ValueError, match="no adapter 'fr'; there are both, same"):
        write_bank_folder(bank, "fr", tmp_path, PREFIXES, BASE)
    with pytest.raises(ValueError, match="'decoder' has no LoRA on encoder"):
        write_bank_folder(bank, "decoder", tmp_path, {"encoder": "model.encoder."}, BASE)
