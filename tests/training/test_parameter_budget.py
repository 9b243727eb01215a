"""The control of the dual-attention recipe trains as many parameters, by a rank that is computed."""

import shutil
from dataclasses import replace

import pytest
from speechllm.cli.main import main
from speechllm.configuration.configuration_speechllm import SpeechLLMConfig
from speechllm.training.parameter_budget import (
    matching_rank,
    read_experiment,
    trained_budget,
    trained_parts_of,
)
from transformers import WhisperConfig

PAIR = ("dual_debian", "dual_debian_control")
BASE = {"d_model": 512, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 8}
BASE |= {"decoder_attention_heads": 8, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048}


def planned(name: str):
    """What an experiment builds on Whisper base's sizes, and the parts that it trains."""
    run = read_experiment(name)
    assert run.model.encoder == "openai/whisper-base"
    adapter = {"model_type": run.adapter["kind"], **{k: v for k, v in run.adapter.items() if k != "kind"}}
    config = SpeechLLMConfig(audio_config=WhisperConfig(**BASE), adapter_config=adapter, **run.model.fields)
    return config, trained_parts_of(run)


def test_the_control_has_the_computed_rank_and_the_budget_within_two_percent():
    dual, control = (planned(name) for name in PAIR)
    wanted = trained_budget(*dual).parameters
    assert matching_rank(*control, wanted) == control[0].lora_config["decoder"].r
    assert abs(trained_budget(*control).parameters / wanted - 1) < 0.02


def test_the_control_differs_in_what_is_trained_and_its_rate_and_in_nothing_else():
    dual, control = (read_experiment(name) for name in PAIR)
    assert (dual.data, dual.augmentation, dual.seed) == (control.data, control.augmentation, control.seed)
    # The experiment says why its own is higher.
    rates = [run.phases[0].trainer.learning_rate for run in (dual, control)]
    assert rates == [3e-3, 1e-3]
    like_the_control = [replace(phase.trainer, learning_rate=rates[1]) for phase in dual.phases]
    assert like_the_control == [phase.trainer for phase in control.phases]
    assert [phase.loss for phase in dual.phases] == [phase.loss for phase in control.phases]
    fields = [{k: v for k, v in run.model.fields.items() if k != "lora_config"} for run in (dual, control)]
    assert fields[0] == fields[1] == {"encoder_padding": "longest"}
    assert dual.model.encoder == control.model.encoder
    assert (trained_parts_of(dual), trained_parts_of(control)) == (["adapter"], ["lora"])


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("dual_new_only", ["adapter"]),
        ("dual_decoder", ["adapter", "decoder"]),
        ("dual_all", ["adapter", "decoder", "encoder"]),
        ("dual_whisper", ["adapter", "decoder", "encoder"]),
        ("dual_whisper_control", ["decoder", "encoder"]),
    ],
)
def test_how_much_is_trained_is_one_of_the_experiments(name, parts):
    run = read_experiment(name)
    assert trained_parts_of(run) == parts
    assert sum(phase.trainer.steps for phase in run.phases) == 10000
    of_whisper = read_experiment("dual_whisper")
    assert run.data == of_whisper.data and run.augmentation == of_whisper.augmentation


def test_ranks_are_found_for_lora_alone():
    dual, control = (planned(name) for name in PAIR)
    with pytest.raises(ValueError, match="a rank is sought for LoRA, but what is trained is adapter"):
        matching_rank(*dual, 1000)
    for rank in (1, 7, 64):
        control[0].lora_config["decoder"].r = rank
        assert matching_rank(*control, trained_budget(*control).parameters) == rank


def test_the_command_tells_both_budgets(bases, tmp_path, capsys):
    shutil.copytree(bases / "tiny--whisper_asr", tmp_path / "openai--whisper-base")
    words = ["analyze", "budget", PAIR[0], "--control", PAIR[1], "--bases", str(tmp_path)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "dual_debian trains" in said and "LoRA of rank" in said
    assert main(["analyze", "budget", "dual_debain", "--control", PAIR[1]]) == 1
    assert "there is no experiment 'dual_debain'" in capsys.readouterr().err
