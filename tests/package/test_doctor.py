"""The doctor tells what is there, and fails only where a requirement is not met."""

import importlib.metadata
import json

import pytest
from packaging.requirements import Requirement
from speechllm.bases.install import write_manifest
from speechllm.cli import doctor
from speechllm.cli.main import main


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder of bases, no cache, and products too short to slow a test down."""
    monkeypatch.setenv("SPEECHLLM_BASES", str(tmp_path))
    monkeypatch.setattr(doctor, "MATMUL_SECONDS", 0.01)
    return tmp_path


def report(capsys):
    code = main(["doctor", "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_json_tells_versions_devices_and_bases(here, capsys):
    folder = here / "openai--whisper-base"
    folder.mkdir()
    write_manifest("openai/whisper-base", folder, "registry")
    code, told = report(capsys)
    assert code == 0 and told["ok"]
    assert told["speechllm"] == importlib.metadata.version("speechllm")
    assert told["devices"]["cpu_cores"] >= 1 and told["devices"]["cpu_bfloat16_speedup"] > 0
    assert told["bases"]["folder"] == str(here)
    assert {model["id"]: model["installed"] for model in told["bases"]["models"]} == {
        "openai/whisper-base": True,
        "HuggingFaceTB/SmolLM2-135M-Instruct": False,
    }


def test_every_requirement_of_the_package_is_shown_with_its_bound(here, capsys):
    told = {entry["name"]: entry for entry in report(capsys)[1]["requirements"]}
    for requirement in map(Requirement, importlib.metadata.requires("speechllm")):
        if requirement.marker is None:
            assert told[requirement.name]["hard"] and told[requirement.name]["met"]
            assert told[requirement.name]["required"] == str(requirement.specifier)
    assert told["peft"]["extras"] == ["train"] and not told["peft"]["hard"]


def test_a_requirement_that_is_too_old_or_missing_is_exit_code_1(here, capsys, monkeypatch):
    lines = ["numpy>=9999", "no-such-package-anywhere>=1", "soundfile>=0.1"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    code, told = report(capsys)
    assert code == 1 and not told["ok"]
    assert {entry["name"]: entry["met"] for entry in told["requirements"] if entry["hard"]} == {
        "numpy": False,
        "no-such-package-anywhere": False,
        "soundfile": True,
    }
    assert main(["doctor"]) == 1
    assert "requirements not met: numpy, no-such-package-anywhere" in capsys.readouterr().out


def test_what_is_optional_never_fails(here, capsys, monkeypatch):
    lines = ["numpy", "no-such-package-anywhere>=1; extra == 'demo'", "numpy>=9999; extra == 'train'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    code, told = report(capsys)
    entries = {entry["name"]: entry for entry in told["requirements"]}
    assert code == 0
    assert entries["no-such-package-anywhere"]["extras"] == ["demo"]
    # One package, needed by all and in a newer version by an extra.
    assert entries["numpy"]["hard"] and entries["numpy"]["met"] and entries["numpy"]["required"] == ""


def test_offline_mode_is_told_without_asking_the_hub(here, capsys, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(doctor, "hub_is_reachable", lambda: pytest.fail("the Hub was asked"))
    assert report(capsys)[1]["hub"]["state"] == "offline mode"


def test_a_hub_that_does_not_answer_is_not_reachable(here, capsys, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # Nothing listens on the discard port of this machine.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert report(capsys)[1]["hub"] == {"endpoint": "http://127.0.0.1:9", "state": "not reachable"}


def test_a_damaged_manifest_is_shown_and_the_rest_goes_on(here, capsys):
    folder = here / "tiny--base"
    folder.mkdir()
    (folder / "speechllm_base.json").write_text("[]")
    code, told = report(capsys)
    assert code == 0 and "is damaged" in told["bases"]["problem"]


def test_the_page_for_people_has_a_line_for_each_subject(here, capsys):
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for word in (
        "python",
        "torch",
        "transformers",
        "cpu:",
        "cuda",
        "mps",
        "ffmpeg",
        "hub",
        "bases",
        "all requirements",
    ):
        assert word in shown
