"""Adapter configs: they refuse what they do not know, survive JSON, and count speech tokens."""

import pytest
from speechllm.configuration.configuration_adapters import (
    ADAPTER_CONFIGS,
    adapter_config,
    adapter_config_from,
)
from speechllm.configuration.speech_lengths import chain_length, check_steps

KINDS = sorted(ADAPTER_CONFIGS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_filed_under_its_own_name(kind):
    assert ADAPTER_CONFIGS[kind].model_type == kind
    assert adapter_config(kind).model_type == kind


@pytest.mark.parametrize("kind", KINDS)
def test_adapter_config_survives_its_dict(kind):
    config = adapter_config(kind)
    again = adapter_config_from(config.to_dict())
    assert type(again) is type(config)
    assert again.to_dict() == config.to_dict()
    assert adapter_config_from(config) is config


@pytest.mark.parametrize("kind", KINDS)
def test_adapter_config_survives_its_file(kind, tmp_path):
    config = adapter_config(kind)
    config.save_pretrained(tmp_path)
    assert type(config).from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_fields_set_by_hand_survive_the_dict():
    config = adapter_config("conv", strides=[1, 3], kernel_size=5)
    assert adapter_config_from(config.to_dict()).strides == [1, 3]
    assert adapter_config("conv").strides == [2, 2]


def test_dict_given_is_left_alone():
    given = {"model_type": "mlp", "stack_factor": 4}
    assert adapter_config_from(given).stack_factor == 4
    assert given == {"model_type": "mlp", "stack_factor": 4}


def test_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown adapter 'mpl'; there are conv, cross_attention"):
        adapter_config("mpl")
    with pytest.raises(ValueError, match="needs a 'model_type'; there are conv, cross_attention"):
        adapter_config_from({"stack_factor": 4})


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_field_is_refused_by_every_kind(kind):
    with pytest.raises(ValueError, match="has no field 'encoder_width'"):
        adapter_config(kind, encoder_width=512)


def test_misspelt_field_is_answered_with_the_right_one():
    with pytest.raises(ValueError, match="has no field 'stak_factor'; did you mean 'stack_factor'"):
        adapter_config("mlp", stak_factor=4)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("mlp", {"stack_factor": 0}, "stack_factor=0 must be at least 1"),
        ("mlp", {"activation": "tanh"}, "activation"),
        ("mlp", {"stack_factor": "4"}, "expected int"),
        ("prefix", {"window_frames": 0}, "window_frames=0 must be at least 1"),
        ("prefix", {"hidden_size": 100}, "hidden_size=100 must be a multiple of num_attention_heads=8"),
        ("prefix", {"positions": "rotary"}, "positions"),
        ("transformer", {"dropout": 1.0}, "dropout=1.0 must be at least 0 and below 1"),
        ("transformer", {"hidden_size": 24, "num_attention_heads": 8}, "even head size"),
        ("conv", {"strides": []}, "strides is empty"),
        ("conv", {"strides": [2, 0]}, "must be at least 1"),
        ("conv", {"kernel_size": 4}, "kernel_size=4 must be odd"),
        ("qformer", {"num_attention_heads": 7}, "multiple of num_attention_heads=7"),
        ("moe", {"num_experts_per_token": 5}, "must be at most num_experts=4"),
        ("moe", {"balance_loss_weight": -0.1}, "balance_loss_weight=-0.1 must be at least 0"),
    ],
)
def test_senseless_value_is_refused_in_one_line_that_names_it(kind, fields, message):
    with pytest.raises(ValueError, match=message) as refusal:
        adapter_config(kind, **fields)
    assert "\n" not in str(refusal.value)
    assert kind in str(refusal.value)


def test_zero_is_a_legal_rate():
    assert adapter_config("transformer", dropout=0).dropout == 0
    assert adapter_config("moe", balance_loss_weight=0).balance_loss_weight == 0


def test_head_size_may_be_odd_where_nothing_is_rotated():
    assert adapter_config("transformer", hidden_size=24, positions="none").hidden_size == 24


@pytest.mark.parametrize(
    ("kind", "fields", "tokens"),
    [
        ("mlp", {}, {0: 0, 1: 1, 5: 1, 6: 2, 150: 30}),
        ("mlp", {"remainder": "drop"}, {0: 0, 4: 0, 5: 1, 9: 1, 150: 30}),
        ("prefix", {}, {0: 32, 1: 32, 1500: 32}),
        ("prefix", {"window_frames": 50}, {0: 0, 1: 32, 50: 32, 51: 64}),
        ("transformer", {}, {0: 0, 1: 1, 167: 167}),
        ("transformer", {"stack_factor": 4}, {0: 0, 1: 1, 167: 42}),
        ("conv", {}, {0: 0, 1: 1, 2: 1, 4: 1, 5: 2, 150: 38}),
        ("conv", {"strides": [1, 3], "kernel_size": 5}, {0: 0, 1: 1, 3: 1, 4: 2}),
        ("qformer", {}, {0: 0, 1: 3, 15: 3, 16: 6, 150: 30}),
        ("moe", {}, {0: 0, 1: 1, 150: 38}),
    ],
)
def test_speech_tokens_of_a_clip(kind, fields, tokens):
    steps = adapter_config(kind, **fields).length_steps()
    check_steps(steps)
    assert {frames: chain_length(frames, steps) for frames in tokens} == tokens


@pytest.mark.parametrize(("fields", "size"), [({}, 8192), ({"hidden_size": 1024}, 2048)])
def test_prefix_mlp_follows_the_width(fields, size):
    assert adapter_config("prefix", **fields).mlp_size() == size
    assert adapter_config("prefix", intermediate_size=64, **fields).mlp_size() == 64
