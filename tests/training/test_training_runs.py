"""Runs end with a model that loads, facts and pictures; what is damaged or asked twice is told."""

import json

import pytest
import torch
from safetensors.torch import load_file
from speechllm import SpeechLLMForConditionalGeneration
from training_runs import tiny_run
from transformers import pipeline

TWO_PHASES = (
    "phases=[{name: align, loss: contrastive, train: [adapter]},"
    " {name: write, loss: cross_entropy, train: [adapter, lora], learning_rates: {lora: 0.01}}]"
)
LORA = "model.lora_config={decoder: {r: 2}}"


@pytest.fixture(scope="module")
def run(bases, tmp_path_factory):
    """A finished run of two phases."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return tiny_run(folder, bases, TWO_PHASES, LORA, "trainer.learning_rate=0.01"), folder


def test_the_pipeline_loads_what_a_run_ends_with(run, bases, clips, monkeypatch):
    monkeypatch.setenv("SPEECHLLM_BASES", str(bases))
    asr = pipeline("automatic-speech-recognition", model=str(run[0]), trust_remote_code=True)
    assert isinstance(asr(clips[1])["text"], str)


def test_facts_name_what_a_card_needs(run):
    model, folder = run
    results = json.loads((folder / "results.json").read_text())
    assert results == json.loads((model / "results.json").read_text())
    assert {"wer", "cer", "loss", "repetition_rate", "empty_rate"} <= set(results["metrics"]["test"])
    assert results["steps"] == 4 and results["seed"] == 42 and results["minutes"] > 0
    assert results["versions"]["torch"] == torch.__version__
    assert set(results["parameters"]["trained_parts"]) == {"adapter", "lora"}
    assert results["data"]["clips"] == {"train": 8, "eval test": 2}
    assert results["data"]["normaliser"] == "basic/1"
    assert [phase["name"] for phase in results["phases"]] == ["align", "write"]
    stored = SpeechLLMForConditionalGeneration.config_class.from_pretrained(model)
    assert results["bases"]["encoder"] == [stored.encoder_id, stored.encoder_revision]


def test_pictures_tables_and_whole_checkpoints_are_written(run):
    phase = run[1] / "phase-2-write"
    assert {p.name for p in (phase / "plots").iterdir()} == {"loss.png", "errors.png", "learning_rate.png"}
    # The last judgement of the whole run, which has no curves, leaves them alone.
    over = (phase / "phase.json").stat().st_mtime
    assert all(picture.stat().st_mtime <= over for picture in (phase / "plots").iterdir())
    rows = [
        json.loads(line)
        for line in (phase / "predictions" / "eval_test-step-2.jsonl").read_text().splitlines()
    ]
    assert [row["said"] for row in rows] == ["ba", "gg"] and "heard" in rows[0]
    files = {path.name for path in (phase / "checkpoint-2").iterdir()}
    assert {"model.safetensors", "processor_config.json", "modeling_speechllm.py", "optimizer.pt"} <= files
    assert "training_args.bin" not in files
    assert '"max_length"' not in (run[0] / "generation_config.json").read_text()


def test_checkpoints_hold_what_was_trained_and_no_bases(run):
    tensors = load_file(run[0] / "model.safetensors")
    assert all(".adapter." in name or "speech_norm" in name or ".lora_" in name for name in tensors)
    align = load_file(run[1] / "phase-1-align" / "checkpoint-2" / "loss.safetensors")
    assert set(align) == {"log_scale"}


def test_phases_train_their_parts_and_start_from_each_other(run):
    first, second = (
        load_file(run[1] / name / "model" / "model.safetensors")
        for name in ("phase-1-align", "phase-2-write")
    )
    lora = [name for name in first if ".lora_B." in name]
    assert all(not first[name].any() for name in lora) and any(second[name].any() for name in lora)
    adapters = [name for name in first if ".adapter." in name]
    assert any(not torch.equal(first[name], second[name]) for name in adapters)


def test_a_finished_run_is_not_trained_again(run, bases):
    before = (run[0] / "results.json").stat().st_mtime_ns
    assert tiny_run(run[1], bases, TWO_PHASES, LORA, "trainer.learning_rate=0.01") == run[0]
    assert (run[0] / "results.json").stat().st_mtime_ns == before


def test_a_finished_run_goes_on_with_further_phases_as_if_it_had_had_them(run, bases, tmp_path):
    ours, rate = tmp_path / "run", "trainer.learning_rate=0.01"
    first = "phases=[{name: align, loss: contrastive, train: [adapter]}]"
    alone = load_file(tiny_run(ours, bases, first, LORA, rate) / "model.safetensors")
    began = json.loads((ours / "run.json").read_text())["began"]
    both = tiny_run(ours, bases, TWO_PHASES, LORA, rate)
    wanted, found = (load_file(folder / "model.safetensors") for folder in (run[0], both))
    assert wanted.keys() == found.keys() and all(torch.equal(wanted[key], found[key]) for key in wanted)
    assert any(not torch.equal(alone[key], found[key]) for key in alone)
    results = json.loads((both / "results.json").read_text())
    assert [phase["name"] for phase in results["phases"]] == ["align", "write"]
    assert json.loads((ours / "run.json").read_text())["began"] == began
    # Its first phase is settled: another one is another run.
    with pytest.raises(ValueError, match="holds a run with phases"):
        tiny_run(ours, bases, TWO_PHASES.replace("contrastive", "ctc"), LORA, rate)


def test_another_run_in_the_same_folder_is_refused_by_the_key_that_differs(run, bases):
    with pytest.raises(
        ValueError, match=r"holds a run with trainer.learning_rate=0.01, not 0.02: name another"
    ):
        tiny_run(run[1], bases, TWO_PHASES, LORA, "trainer.learning_rate=0.02")


def test_a_folder_of_something_else_is_refused(bases, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    for overwrite in ("false", "true"):
        with pytest.raises(ValueError, match="holds 'thesis.tex' but no run"):
            tiny_run(tmp_path / "run", bases, f"overwrite={overwrite}")
    assert (tmp_path / "run" / "thesis.tex").exists()


@pytest.mark.parametrize(
    "overrides, told",
    [
        (["data.eval=null"], "there is no evaluation set"),
        (["data.train=nowhere.jsonl"], "nowhere.jsonl"),
        (["phases.0.train=[lora]"], "train names 'lora', of which this model has nothing"),
        (["phases.0.loss=ctc", "model.encoder=tiny/nothing"], "tiny/nothing"),
        (["trainer.save_steps=3"], "save_steps"),
    ],
)
def test_what_cannot_work_is_told_before_the_first_step(bases, tmp_path, overrides, told):
    with pytest.raises((ValueError, OSError), match=told):
        tiny_run(tmp_path / "run", bases, *overrides)
    assert not list((tmp_path / "run").rglob("checkpoint-*"))
