"""Every experiment is run by the command it begins with, composes, and takes steps on tiny bases."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from speechllm.training.entry import CONFIGURATION
from speechllm.training.losses.loss_table import LOSSES
from speechllm.training.settings import read_run
from training_runs import SHORT, composed, data_overrides, run_training

EXPERIMENTS = {path.stem: path for path in sorted((CONFIGURATION / "experiment").glob("*.yaml"))}
# Widths that go with tiny bases; what an adapter has of them is replaced.
TINY_SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
# The tiny base of each encoder family.
TINY_ENCODERS = {"MBZUAI": "speecht5", "facebook": "hubert_large", "openai": "whisper"}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_begins_with_the_command_that_runs_it(name):
    lines = EXPERIMENTS[name].read_text().splitlines()
    command = lines[1].removeprefix("# ")
    words = shlex.split(command)
    assert words[:3] == ["accelerate", "launch", "training/train.py"]
    assert words[3] == f"+experiment={name}"
    composed(*words[3:])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_called_as_its_file_and_all_of_it_is_understood(name):
    config = composed(f"+experiment={name}")
    assert config["name"] == name
    assert read_run(config).phases


def tiny_experiment(name, bases, folder):
    """Two steps of every phase on tiny bases; the run's model, and how many phases there were."""
    config = composed(f"+experiment={name}", *SHORT)
    config["data"] = composed(*data_overrides(folder / "corpus"))["data"]
    model = config["model"]
    model["bases"] = str(bases)
    if model["start_from"]:
        # "mean": that of this run and the one before it, which is of the same shape.
        before = re.fullmatch(r"outputs/(\w+)/(?:model|mean)", model["start_from"])[1]
        model["start_from"] = str(tiny_experiment(before, bases, folder)[0])
    else:
        make_tiny(model, config["adapter"])
    for phase in config["phases"]:
        phase.update(steps=2, epochs=None)
        if model["start_from"]:
            # Its data speak of fewer languages than the one of the clips of the tests.
            phase["train"] = ["bank:en"]
    config["trainer"].update(batch_seconds=config["trainer"]["batch_seconds"] and 8.0)
    return run_training(config, folder / name), len(config["phases"])


def make_tiny(model, adapter):
    """Tiny bases in the place of those that an experiment names."""
    family = model["encoder"].split("/")[0]
    model["encoder"] = f"tiny/{TINY_ENCODERS[family]}"
    if model["decoder"]:
        model["decoder"] = "tiny/qwen3" if "Qwen" in model["decoder"] else "tiny/llama"
    else:
        model["encoder"] = "tiny/whisper_asr"
    adapter.update({key: size for key, size in TINY_SIZES.items() if key in adapter})
    bank = [*(model["lora_bank"] or {}).values()]
    if bank and not any(fields["language"] == "en" for fields in bank):
        # The clips of the tests are English.
        bank[0]["language"] = "en"
    for lora in [fields[slot] for fields in bank for slot in ("encoder", "decoder")]:
        # Tiny bases have fewer layers than those that are named.
        lora.pop("layers_to_transform", None)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name != "smoke"])
def test_an_experiment_takes_two_steps_in_every_phase_on_tiny_bases(name, bases, tmp_path):
    folder, phases = tiny_experiment(name, bases, tmp_path)
    results = yaml.safe_load((folder / "results.json").read_text())
    assert [phase["steps"] for phase in results["phases"]] == [2] * phases
    assert {"wer", "cer", "loss", "repetition_rate", "empty_rate"} <= set(results["metrics"]["test"])


def test_the_page_on_training_names_every_experiment_and_none_that_is_not():
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    rows = page.partition("\n## Experiments\n")[2].splitlines()
    named = [
        name for row in rows if row.startswith("| `") for name in re.findall(r"`(\w+)`", row.split("|")[1])
    ]
    assert sorted(named) == sorted(EXPERIMENTS)


def test_the_page_on_training_names_every_loss_and_every_group():
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    assert set(
        re.findall(r"^\| `(\w+)` \|", page.partition("\n## Phases\n")[2].partition("\n## ")[0], re.M)
    ) == set(LOSSES)
    groups = page.partition("\n## What a run is composed of\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", groups, re.M)) == {
        p.name for p in CONFIGURATION.iterdir() if p.is_dir()
    }


def test_every_adapter_and_every_system_has_an_experiment():
    adapters = {path.stem for path in (CONFIGURATION / "adapter").glob("*.yaml")}
    used = {composed(f"+experiment={name}")["adapter"]["kind"] for name in EXPERIMENTS}
    assert used == adapters
    assert all(re.fullmatch(r"[a-z_0-9]+", name) for name in EXPERIMENTS)
