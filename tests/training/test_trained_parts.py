"""Named parts are trained, in float32, at their own rates, and nothing else is."""

import pytest
import torch
from speechllm import SpeechLLMForConditionalGeneration
from speechllm.modeling.lora_layers import is_lora_key
from speechllm.training.losses.cross_entropy import CrossEntropy
from speechllm.training.trained_parts import parameter_groups, set_trained_parts

LORA = {"encoder": {"r": 2}, "decoder": {"r": 2}}


@pytest.fixture()
def model(compose):
    return compose("whisper", "llama", lora_config=LORA)[0]


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    "part, prefix, lora",
    [
        ("adapter", ("model.adapter.", "model.speech_norm."), False),
        ("lora", ("model.audio_tower.", "model.language_model."), True),
        ("decoder", ("model.language_model.", "lm_head."), False),
        ("encoder", ("model.audio_tower.",), False),
    ],
)
def test_a_part_is_all_of_it_and_nothing_else(model, part, prefix, lora):
    set_trained_parts(model, [part])
    wanted = {n for n, _ in model.named_parameters() if n.startswith(prefix) and is_lora_key(n) == lora}
    assert wanted and trained(model) == wanted


def test_parts_that_match_nothing_are_refused(compose):
    model = compose("whisper", "llama")[0]
    with pytest.raises(
        ValueError, match="train names 'lora', of which this model has nothing; it has adapter"
    ):
        set_trained_parts(model, ["adapter", "lora"])
    with pytest.raises(ValueError, match="train names 'bank:it'"):
        set_trained_parts(model, ["bank:it"])
    with pytest.raises(ValueError, match="unknown part 'adaptor' in train; did you mean 'adapter'"):
        set_trained_parts(model, ["adaptor"])
    with pytest.raises(ValueError, match="train is empty"):
        set_trained_parts(model, [])


def test_what_is_trained_is_float32_and_what_is_frozen_stays_half(compose):
    model = compose("whisper", "llama", dtype=torch.bfloat16)[0]
    set_trained_parts(model, ["decoder"])
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert {t for n, t in dtypes.items() if n.startswith(("model.language_model.", "lm_head."))} == {
        torch.float32
    }
    assert {t for n, t in dtypes.items() if n.startswith("model.audio_tower.")} == {torch.bfloat16}


def test_a_base_that_was_trained_stays_in_checkpoints_of_later_phases(model, bases, tmp_path):
    set_trained_parts(model, ["decoder"])
    with torch.no_grad():
        model.lm_head.weight += 1
    set_trained_parts(model, ["adapter"])
    model.save_pretrained(tmp_path)
    again = SpeechLLMForConditionalGeneration.from_pretrained(tmp_path, bases=bases)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_groups_have_their_rates_and_norms_and_biases_no_decay(compose):
    model, processor = compose("whisper", "llama", lora_config=LORA)
    parts = set_trained_parts(model, ["adapter", "lora"])
    objective = CrossEntropy(model, processor, {})
    groups = parameter_groups(objective, parts, {"lora": 3e-4}, 1e-3, 0.01)
    assert {(g["part"], g["lr"]) for g in groups} == {("adapter", 1e-3), ("lora", 3e-4)}
    for group in groups:
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])
    grouped = [id(p) for g in groups for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    with pytest.raises(ValueError, match="learning_rates names 'decoder', which this phase does not train"):
        parameter_groups(objective, parts, {"decoder": 1e-5}, 1e-3, 0.01)
