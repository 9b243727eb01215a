"""A bank, its router, and both together under the router's mixtures: three phases of one run."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from speechllm import SpeechLLMForConditionalGeneration
from speechllm.training.phases import DONE
from tone_languages import write_corpus
from training_runs import SHORT, composed, run_training

LORA = "{r: 4, target_modules: [q_proj, v_proj]}"
MODEL = [
    "model=whisper",
    "adapter=cross_attention",
    "model.encoder=tiny/whisper_asr",
    "model.encoder_padding=longest",
    f"model.lora_bank={{it: {{decoder: {LORA}}}, fr: {{decoder: {LORA}}}}}",
    # Layer 0: what the layers of a random encoder make of a tone says little about its pitch.
    "model.router_config={labels: [it, fr], hidden_sizes: [16], layer: 0}",
]
ROUTER = "{name: router, loss: routing, train: [router], steps: 12, label_smoothing: 0.1}"
JOINT = '{name: joint, loss: {kind: mixture, strategy: soft}, train: ["bank:*", router], steps: 24}'
PHASES = f'phases=[{{name: apart, loss: cross_entropy, train: ["bank:*"], steps: 4}}, {ROUTER}, {JOINT}]'


def train(folder, bases, *overrides):
    """The run's folder after the run."""
    corpus = folder.parent / "corpus"
    if not corpus.exists():
        write_corpus(corpus / "train", 16, 0, longest=1.0)
        write_corpus(corpus / "eval", 8, 1, longest=1.0)
    data = [f"data.train={corpus}/train/manifest.jsonl", f"data.eval={{dev: {corpus}/eval/manifest.jsonl}}"]
    every = [
        "trainer.eval_steps=12",
        "trainer.save_steps=12",
        "trainer.batch_size=8",
        "trainer.learning_rate=0.01",
    ]
    words = [*MODEL, f"model.bases={bases}", "data=manifests", *data, *SHORT, *every, PHASES, *overrides]
    run_training(composed(*words, f"output_dir={folder}"), folder)
    return folder


@pytest.fixture(scope="module")
def run(bases, tmp_path_factory):
    return train(tmp_path_factory.mktemp("mixture") / "run", bases)


def weights(run, phase) -> dict[str, torch.Tensor]:
    return load_file(run / phase / "model" / "model.safetensors")


def facts(run, phase) -> dict:
    return json.loads((run / phase / DONE).read_text())


def test_joint_phase_lowers_its_loss_and_moves_every_adapter_and_the_router(run):
    log = json.loads((run / "phase-3-joint" / "checkpoint-24" / "trainer_state.json").read_text())[
        "log_history"
    ]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert len(losses) == 24 and sum(losses[-4:]) < 0.9 * sum(losses[:4])
    before, after = weights(run, "phase-2-router"), weights(run, "phase-3-joint")
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    for part in (".it", ".fr"):
        assert any(name.endswith(part) for name in moved), part
    assert any(".router." in name for name in moved)


def test_router_phase_ends_with_a_temperature_fitted_on_the_evaluation_clips(run):
    router = facts(run, "phase-2-router")["router"]
    assert router["temperature"] != 1.0
    assert router["calibration_error"] < router["calibration_error_before"]
    assert router["accuracy"] == 1.0 and router["clips_by_label"] == {"it": 4, "fr": 4}
    config = json.loads((run / "phase-2-router" / "model" / "config.json").read_text())
    assert config["router_config"]["temperature"] == router["temperature"]


def test_results_hold_the_calibration_and_the_model_its_temperature(run, bases):
    results = json.loads((run / "model" / "results.json").read_text())
    # The bank was trained under this temperature, so it is not fitted anew.
    assert results["router"] == facts(run, "phase-3-joint")["router"]
    assert results["router"]["temperature"] == facts(run, "phase-2-router")["router"]["temperature"]
    assert 0 <= results["router"]["calibration_error"] <= 1
    model = SpeechLLMForConditionalGeneration.from_pretrained(run / "model", bases=bases)
    assert model.config.router_config.temperature == results["router"]["temperature"]


def test_finished_model_is_judged_under_the_mixture_it_was_trained_under(run):
    judged = json.loads((run / "results.json").read_text())["metrics"]["dev"]
    log = json.loads((run / "phase-3-joint" / "checkpoint-24" / "trainer_state.json").read_text())[
        "log_history"
    ]
    losses = {entry["step"]: entry["eval_dev_loss"] for entry in log if "eval_dev_loss" in entry}
    best = facts(run, "phase-3-joint")["best_step"]
    assert judged["loss"] == pytest.approx(losses[best], abs=1e-4)


def test_run_cut_off_after_the_router_goes_on_with_its_temperature(run, bases, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    shutil.copytree(run.parent / "corpus", tmp_path / "corpus")
    for name in ("phase-3-joint", "model"):
        shutil.rmtree(folder / name)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace(str(run.parent), str(tmp_path)))
    train(folder, bases)
    whole, resumed = weights(run, "phase-3-joint"), weights(folder, "phase-3-joint")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


APART = ["phases.1.loss=cross_entropy", 'phases.1.train=["bank:it"]']


@pytest.mark.parametrize(
    "overrides, told",
    [
        (
            ["model.router_config=null", *APART, 'phases.2.train=["bank:*"]'],
            "has no router",
        ),
        (["phases.2.loss={kind: mixture, strategy: sofd}"], "no strategy 'sofd' of mixtures"),
        (
            ["phases.2.loss={kind: mixture, strategy: hard}"],
            "no gradient reaches the router through 'hard' rows",
        ),
        (
            ["phases.2.loss=contrastive"],
            "loss Contrastive aligns a bridge with a language model's embeddings",
        ),
        (['phases.2.train=["bank:el"]'], "train names 'bank:el', of which this model has nothing"),
        (["++phases.2.learning_rates={decoder: 1.0}"], "learning_rates names 'decoder'"),
        (["++phases.2.optimizer=adamv"], "adamv"),
        (["++phases.2.batch_seconds=0.1"], "clips cost more than the budget"),
    ],
)
def test_a_fault_of_a_later_phase_is_told_before_the_first_step(bases, tmp_path, overrides, told):
    with pytest.raises(ValueError, match=told):
        train(tmp_path / "run", bases, *overrides)
    assert not list((tmp_path / "run").glob("phase-*"))
