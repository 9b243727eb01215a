"""A run that was killed goes on to the same weights, bit by bit; a full disk leaves what was there."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from speechllm.training.speech_trainer import last_whole_checkpoint
from training_runs import SHORT, data_overrides

pytestmark = pytest.mark.slow

PHASES = (
    "phases=[{name: align, loss: ctc, train: [adapter]},"
    " {name: write, loss: cross_entropy, train: [adapter, lora]}]"
)


def command(folder, bases, *overrides):
    """A run of 2 x 8 steps with dropout and augmentation, a checkpoint every second step."""
    data = data_overrides(folder.parent / "corpus")
    words = ["model=bases", "model.encoder=tiny/whisper", "model.decoder=tiny/llama", f"model.bases={bases}"]
    words += [
        "model.lora_config={decoder: {r: 2, lora_dropout: 0.3}}",
        "adapter=qformer",
        "adapter.dropout=0.2",
    ]
    words += ["adapter.hidden_size=16", "adapter.intermediate_size=32", "adapter.num_attention_heads=4"]
    words += ["adapter.num_hidden_layers=1", "augmentation.gain={probability: 0.9}", PHASES]
    words += [*data, *SHORT, "trainer.steps=8", "trainer.batch_size=3", "trainer.learning_rate=0.01"]
    return [sys.executable, "-m", "speechllm.training.train", *words, f"output_dir={folder}", *overrides]


def environment():
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def finish(folder, bases, *overrides):
    done = subprocess.run(
        command(folder, bases, *overrides), env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return load_file(folder / "model" / "model.safetensors")


def kill_when(folder, bases, there):
    """Start the run and kill it, as a power cut would, as soon as a file is there."""
    child = subprocess.Popen(command(folder, bases), env=environment(), stderr=subprocess.PIPE, text=True)
    for _ in range(3000):
        if (folder / there).exists() or child.poll() is not None:
            break
        time.sleep(0.02)
    assert child.poll() is None, child.stderr.read()[-2000:]
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stderr.close()


@pytest.fixture(scope="module")
def whole(bases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return finish(folder, bases), folder


def test_killed_in_every_phase_it_ends_with_the_same_bits(whole, bases, tmp_path):
    folder = tmp_path / "run"
    # Within a phase, and while a checkpoint is written.
    kill_when(folder, bases, "phase-1-align/checkpoint-4/trainer_state.json")
    kill_when(folder, bases, "phase-2-write/checkpoint-2/model.safetensors")
    resumed = finish(folder, bases)
    assert set(resumed) == set(whole[0])
    for name, tensor in whole[0].items():
        assert torch.equal(resumed[name], tensor), name
    for phase in ("phase-1-align", "phase-2-write"):
        # The finished model is that of the best step, which may come before the kill.
        ends = [load_file(root / phase / "checkpoint-8" / "model.safetensors") for root in (folder, whole[1])]
        assert all(torch.equal(ends[0][name], tensor) for name, tensor in ends[1].items()), phase
    losses = [
        [entry["loss"] for entry in json.loads(path.read_text())["log_history"] if "loss" in entry]
        for root in (folder, whole[1])
        for path in [root / "phase-2-write" / "checkpoint-8" / "trainer_state.json"]
    ]
    assert losses[0] == losses[1]


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    for step, text in ((2, '{"global_step": 2}'), (10, '{"global_step": 1')):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    (tmp_path / "checkpoint-12").mkdir()
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-2"
    assert last_whole_checkpoint(tmp_path / "checkpoint-12") is None


def test_a_full_disk_is_told_in_one_line_and_the_checkpoint_before_goes_on(whole, bases, tmp_path):
    folder = tmp_path / "run"
    kill_when(folder, bases, "phase-1-align/checkpoint-2/trainer_state.json")

    def no_room():
        # Python ignores the signal that comes with it, and gets an OSError as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    before = last_whole_checkpoint(folder / "phase-1-align").name
    done = subprocess.run(
        command(folder, bases),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=no_room,
    )
    assert done.returncode == 1
    told = next(line for line in done.stderr.splitlines() if "speechllm train:" in line)
    assert "could not be written" in told and f"the last whole checkpoint is {before}" in told
    assert last_whole_checkpoint(folder / "phase-1-align").name == before
    resumed = finish(folder, bases)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole[0].items())
