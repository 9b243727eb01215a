"""A run over a mixture that is streamed goes on where it was killed, to the same weights, bit by bit."""

import signal
import subprocess
import time

import datasets
import pytest
import torch
from safetensors.torch import load_file
from speechllm.training.data import streams
from speechllm.training.data.utterances import read_manifest
from speechllm.training.speech_trainer import SpeechTrainer
from test_interrupted_runs import command, environment
from training_runs import tiny_run, write_corpus

pytestmark = pytest.mark.slow

STEPS = 8
# Dropout draws from the generators that a checkpoint keeps, so it notices whoever else has drawn from them.
DROPOUT = ["model.lora_config={decoder: {r: 2, lora_dropout: 0.3}}", "phases.0.train=[adapter, lora]"]
GAIN = "augmentation.gain={probability: 0.9}"


class PowerCut(BaseException):
    """Nothing catches it on its way, as nothing catches a power cut."""


def streamed(folder) -> list[str]:
    """Overrides for a mixture of a stream and a manifest; written where it is not there yet."""
    rows, corpus = folder / "rows", folder / "corpus"
    if not rows.exists():
        train, _ = write_corpus(corpus)
        clips = read_manifest(train)
        table = {"audio": [clip.audio for clip in clips], "text": [f"{clip.text} h" for clip in clips]}
        datasets.Dataset.from_dict(table).save_to_disk(rows)
    sources = [f"{{id: {rows}, streaming: true, weight: 0.6}}"]
    sources += [f"{{path: {corpus}/train/manifest.jsonl, weight: 0.4}}"]
    return [f"data.train=[{', '.join(sources)}]", f"data.eval={{test: {corpus}/eval/manifest.jsonl}}"]


def assert_same_ends(one, other, phase: str) -> None:
    """Of the last step: the finished model is that of the best one, which may come before the cut."""
    ends = [load_file(run / phase / f"checkpoint-{STEPS}" / "model.safetensors") for run in (one, other)]
    assert set(ends[0]) == set(ends[1])
    for name, tensor in ends[0].items():
        assert torch.equal(ends[1][name], tensor), name


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(streams, "BLOCK_ROWS", 3)


@pytest.mark.parametrize("workers, accumulation", [(0, 2), (1, 1)])
def test_cut_off_anywhere_it_ends_with_the_same_bits(
    bases, tmp_path, monkeypatch, small_blocks, workers, accumulation
):
    def run(name):
        more = [f"trainer.gradient_accumulation={accumulation}", f"trainer.workers={workers}", GAIN]
        return tiny_run(tmp_path / name, bases, *DROPOUT, *streamed(tmp_path), *more, steps=STEPS)

    run("whole")
    step = SpeechTrainer.training_step
    batches = 0

    def cut(*arguments, **options):
        nonlocal batches
        batches += 1
        if batches == 5 * accumulation + 1:
            raise PowerCut
        return step(*arguments, **options)

    monkeypatch.setattr(SpeechTrainer, "training_step", cut)
    with pytest.raises(PowerCut):
        run("cut")
    assert sorted(path.name for path in (tmp_path / "cut" / "phase-1-write").glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-4",
    ]
    run("cut")
    assert_same_ends(tmp_path / "whole", tmp_path / "cut", "phase-1-write")


def test_other_readers_than_before_are_refused(bases, tmp_path, monkeypatch):
    step = SpeechTrainer.training_step
    batches = iter(range(4))

    def cut(*arguments, **options):
        if next(batches) == 3:
            raise PowerCut
        return step(*arguments, **options)

    monkeypatch.setattr(SpeechTrainer, "training_step", cut)
    with pytest.raises(PowerCut):
        tiny_run(tmp_path / "run", bases, *streamed(tmp_path), steps=STEPS)
    with pytest.raises(ValueError, match=r"dealt out to others \(workers 0, not 2\): go on"):
        tiny_run(tmp_path / "run", bases, *streamed(tmp_path), "trainer.workers=2", steps=STEPS)


def test_killed_it_ends_with_the_same_bits(bases, tmp_path):
    def words(folder):
        return command(folder, bases, *streamed(tmp_path), "trainer.gradient_accumulation=2")

    def finish(folder):
        done = subprocess.run(words(folder), env=environment(), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]

    finish(tmp_path / "whole")
    folder = tmp_path / "killed"
    child = subprocess.Popen(words(folder), env=environment(), stderr=subprocess.DEVNULL)
    there = folder / "phase-2-write" / "checkpoint-4" / "trainer_state.json"
    while not there.exists() and child.poll() is None:
        time.sleep(0.02)
    assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    finish(folder)
    for phase in ("phase-1-align", "phase-2-write"):
        assert_same_ends(tmp_path / "whole", folder, phase)
