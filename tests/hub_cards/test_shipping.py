"""The folder in which a run travels along: small, public, and the same model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from speechllm import SpeechLLMForConditionalGeneration
from speechllm.hub_cards.contents import folder_contents
from speechllm.hub_cards.refusals import problems
from speechllm.hub_cards.shipping import ship


@pytest.fixture(scope="module")
def shipped(run_folder, evaluation_folder, bases, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shipped") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECHLLM_BASES", str(bases))
        ship(run_folder, folder, evaluation_folder, "model", further=[run_folder])
    return folder


def test_shipped_run_loads_as_what_was_trained_rounded_to_half_the_size(
    shipped, run_folder, monkeypatch, bases
):
    monkeypatch.setenv("SPEECHLLM_BASES", str(bases))
    ours, theirs = (load_file(place / "model.safetensors") for place in (shipped, run_folder / "model"))
    assert ours.keys() == theirs.keys() and {one.dtype for one in ours.values()} == {torch.float16}
    assert all(torch.equal(ours[key], theirs[key].half()) for key in ours)
    SpeechLLMForConditionalGeneration.from_pretrained(shipped)
    assert not list(shipped.glob("*.py")) and "auto_map" not in (shipped / "config.json").read_text()


def test_shipped_run_brings_its_records_its_evaluation_and_its_card(shipped, run_folder):
    names = set(folder_contents(shipped))
    records = {"config.yaml", "results.json", "train.log", "card/architecture.png", "evaluation/report.md"}
    phases = [phase.name.removeprefix("phase-") for phase in run_folder.glob("phase-*")]
    pictures = {f"plots/{phase}/loss.png" for phase in phases}
    assert records | pictures <= names and phases
    place = f"runs/{run_folder.name}/"
    further = {name.removeprefix(place) for name in names if name.startswith(place)}
    assert {"config.yaml", "results.json", "train.log"} | pictures <= further
    assert not any(name.endswith("safetensors") for name in further)
    assert not any("transcripts" in name for name in names)
    found = json.loads((shipped / "evaluation" / "results.json").read_text())["results"][0]
    assert f"| spoken | 8 | {100 * found['wer']:.1f} (" in (shipped / "README.md").read_text()


def test_shipped_run_tells_no_path_of_the_machine(shipped, run_folder):
    private = str(run_folder.parents[1])
    assert private in (run_folder / "train.log").read_text()
    for name, path in folder_contents(shipped).items():
        assert private.encode() not in path.read_bytes(), name
    assert problems(folder_contents(shipped)) == []


def test_a_checkpoint_that_the_run_led_to_is_shipped_in_the_place_of_its_own(
    run_folder, monkeypatch, bases, tmp_path
):
    monkeypatch.setenv("SPEECHLLM_BASES", str(bases))
    other = tmp_path / "other"
    shutil.copytree(run_folder / "model", other)
    tensors = {key: tensor / 2 for key, tensor in load_file(other / "model.safetensors").items()}
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    ship(run_folder, tmp_path / "small", model=other)
    ours = load_file(tmp_path / "small" / "model.safetensors")
    assert all(torch.equal(ours[key], tensors[key].half()) for key in tensors)
    assert (tmp_path / "small" / "train.log").is_file() and not (tmp_path / "small" / "runs").exists()


def test_folder_that_holds_something_is_left_alone(shipped, run_folder):
    before = {path: path.stat().st_mtime_ns for path in shipped.rglob("*")}
    with pytest.raises(ValueError, match="holds something already"):
        ship(run_folder, shipped)
    assert before == {path: path.stat().st_mtime_ns for path in shipped.rglob("*")}
