"""The smoke experiment works on a bare machine, in all three ways of starting it."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from speechllm.cli.main import main
from speechllm.training.material import TONES, said_in_tones
from transformers import pipeline

ROOT = Path(__file__).parent.parent.parent
WAYS = {
    "script": [str(ROOT / "training" / "train.py")],
    "module": ["-m", "speechllm.training.train"],
    "command": ["-m", "speechllm", "train"],
    "accelerate": [
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        "1",
        str(ROOT / "training" / "train.py"),
    ],
}


def seconds_of_children() -> float:
    """Of all cores together, of processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
def test_smoke_learns_and_its_checkpoint_transcribes(tmp_path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    environment.pop("SPEECHLLM_BASES", None)
    words = [sys.executable, *WAYS["accelerate"], "+experiment=smoke"]
    before = seconds_of_children()
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    # A minute on two cores, and as much again for slower ones; what other processes take does not count.
    assert seconds_of_children() - before < 2 * 2 * 60
    run = tmp_path / "outputs" / "smoke"
    phases = json.loads((run / "results.json").read_text())["phases"]
    assert "training took" in (run / "train.log").read_text()
    assert phases[0]["best_metric"]["wer"] < 0.8 and phases[1]["best_metric"]["wer"] < 0.6
    asr = pipeline("automatic-speech-recognition", model=str(run / "model"), trust_remote_code=True)
    heard = asr(said_in_tones(["do", "sol"], np.random.default_rng(0)))["text"]
    assert set(heard.split()) & set(TONES)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_composes_the_same(way, tmp_path):
    words = [sys.executable, *WAYS[way], "+experiment=smoke", "--cfg", "job"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "material: tones" in done.stdout, done.stderr[-1000:]


def test_command_line_tells_faults_in_one_line(capsys):
    assert main(["train", "+experiment=smok"]) == 1
    error = capsys.readouterr().err
    assert error == "speechllm train: there is no experiment 'smok'; did you mean 'smoke'?\n"
