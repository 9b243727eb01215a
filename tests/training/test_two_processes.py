"""Two processes train as one does with the same effective batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_interrupted_runs import command, environment

pytestmark = pytest.mark.slow
TRAIN = Path(__file__).parents[2] / "training" / "train.py"


def losses(folder, phase):
    log = json.loads((folder / phase / "checkpoint-8" / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in log if "loss" in entry]


def launch(folder, bases, processes, *overrides):
    words = command(
        folder, bases, "model.lora_config.decoder.lora_dropout=0.0", "adapter.dropout=0.0", *overrides
    )[3:]
    launcher = []
    if processes > 1:
        # Without --multi_gpu accelerate starts one where there is no GPU, however many were asked for.
        port = f"--main_process_port={29500 + os.getpid() % 2000}"
        launcher = ["-m", "accelerate.commands.launch", port, "--multi_gpu", f"--num_processes={processes}"]
    start = [sys.executable, *launcher, str(TRAIN)]
    done = subprocess.run([*start, *words], env=environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.mark.parametrize("budget", [[], ["trainer.batch_seconds=3.0"]], ids=["clips", "seconds"])
def test_two_processes_have_the_loss_curve_of_one(bases, tmp_path, budget):
    launch(tmp_path / "one" / "run", bases, 1, "trainer.gradient_accumulation=2", *budget)
    launch(tmp_path / "two" / "run", bases, 2, *budget)
    for phase in ("phase-1-align", "phase-2-write"):
        one, two = (losses(tmp_path / name / "run", phase) for name in ("one", "two"))
        assert len(one) == 8
        assert one == pytest.approx(two, abs=1e-4), phase
    weights = [load_file(tmp_path / name / "run" / "model" / "model.safetensors") for name in ("one", "two")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=1e-3, rtol=1e-3)
    metrics = [
        json.loads((tmp_path / n / "run" / "results.json").read_text())["metrics"] for n in ("one", "two")
    ]
    assert metrics[0]["test"]["wer"] == metrics[1]["test"]["wer"]


def test_a_launcher_that_starts_fewer_processes_than_asked_is_told_of(bases, tmp_path):
    words = command(tmp_path / "run", bases, "trainer.steps=2")[3:]
    start = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2", str(TRAIN)]
    done = subprocess.run([*start, *words], env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "without a GPU more of them take --multi_gpu" in done.stderr
