"""Shared: a run with its evaluation, once for all tests of cards, and a Hub to push to."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))

from hub_standin import HubStandIn
from own_hub import use_hub
from speechllm.cli.main import main
from speechllm.hub_cards.model_card import Card, model_card
from speechllm.hub_cards.run_facts import read_run
from training_runs import tiny_run


@pytest.fixture(scope="session")
def run_folder(bases, tmp_path_factory) -> Path:
    """A finished run of two steps on tiny bases; what it was trained on lies beside it in `corpus`."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    tiny_run(folder, bases, "name=first")
    return folder


@pytest.fixture(scope="session")
def evaluation_folder(run_folder, bases, tmp_path_factory) -> Path:
    """What `speechllm evaluate` finds of it: a set in two languages, clean and in noise, and another set."""
    folder = tmp_path_factory.mktemp("evaluation")
    manifest = run_folder.parent / "corpus" / "train" / "manifest.jsonl"
    rows = manifest.read_text().splitlines()
    halves = [row.replace('"en"', '"ro"') if number % 2 else row for number, row in enumerate(rows)]
    two = manifest.with_name("two.jsonl")
    two.write_text("\n".join(halves))
    sets = ["--data", f"spoken={two}", "--data", f"other={manifest}"]
    words = ["--system", str(run_folder / "model"), *sets, "--snr", "clean,0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECHLLM_BASES", str(bases))
        assert main(["evaluate", *words, "--noise", "white", "--to", str(folder), "--resamples", "50"]) == 0
    return folder


@pytest.fixture(scope="session")
def evaluated_card(run_folder, evaluation_folder) -> Card:
    """The card of that run with that evaluation."""
    return model_card(read_run(run_folder, evaluation_folder), "me/my-asr")


@pytest.fixture(scope="session")
def saved_checkpoint(compose, tmp_path_factory) -> Path:
    """A checkpoint that came of no run."""
    folder = tmp_path_factory.mktemp("checkpoints") / "mine"
    for part in compose():
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(saved_checkpoint, tmp_path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(saved_checkpoint, tmp_path / "mine"))


@pytest.fixture
def hub(tmp_path, monkeypatch, bases):
    """A stand-in for the Hub that this process and its children take for the real one."""
    with HubStandIn(tmp_path / "hub") as standin:
        use_hub(standin, monkeypatch, tmp_path / "home")
        monkeypatch.setenv("SPEECHLLM_BASES", str(bases))
        yield standin
