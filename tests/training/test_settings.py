"""Every key is known, documented and of its type; what is wrong is told in one line."""

import logging
import re
from dataclasses import fields

import pytest
import yaml
from speechllm.configuration.configuration_adapters import ADAPTER_CONFIGS, adapter_config_from
from speechllm.training.augmentation.augmentation import EFFECTS, SPEC_AUGMENT
from speechllm.training.data.build import DataSettings
from speechllm.training.entry import CONFIGURATION, main
from speechllm.training.settings import ModelSettings, TrainerSettings, read_run
from training_runs import composed

GROUPED = [
    path
    for group in ("adapter", "augmentation", "trainer")
    for path in (CONFIGURATION / group).glob("*.yaml")
]


@pytest.mark.parametrize(
    "overrides, told",
    [
        (
            ["trainer.learning_rat=1"],
            "there is no key 'trainer.learning_rat'; did you mean 'trainer.learning_rate'?",
        ),
        (["+trainer.learning_rat=1"], "trainer has no field 'learning_rat'; did you mean 'learning_rate'?"),
        (["+phases.0.stepz=1"], "phases.0 has no field 'stepz'; did you mean 'steps'?"),
        (["+model.encodr=x"], "model has no field 'encodr'; did you mean 'encoder'?"),
        (["+adapter.stack=1"], "adapter 'mlp' has no field 'stack'"),
        (["adapter=mpl"], "there is no adapter 'mpl'; did you mean 'mlp'?"),
        (["+experiment=smok"], "there is no experiment 'smok'; did you mean 'smoke'?"),
        (["trainer.steps=many"], "trainer.steps='many' must be a whole number"),
        (["trainer.schedule=cosin"], "trainer.schedule='cosin' is unknown; did you mean 'cosine'?"),
        (["phases=[]"], "phases is empty"),
        (["phases.0.loss=ce"], "unknown loss 'ce'"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(overrides, told, tmp_path, capfd):
    smoke = [] if any("experiment" in word for word in overrides) else ["+experiment=smoke"]
    assert main([*smoke, *overrides, f"output_dir={tmp_path / 'run'}"]) == 1
    error = capfd.readouterr().err.strip().splitlines()
    assert len([line for line in error if "speechllm train:" in line]) == 1
    assert told in error[-1]


def test_every_key_of_the_groups_is_documented_beside_it():
    for path in [*GROUPED, CONFIGURATION / "model" / "bases.yaml", CONFIGURATION / "data" / "manifests.yaml"]:
        if path.name == "none.yaml":
            continue
        for line in path.read_text().splitlines():
            if re.match(r"\w+:", line) and not line.startswith(("kind:", "defaults:")):
                assert "#" in line, f"{path.name}: {line}"


def test_files_of_adapters_are_the_table_of_adapters_with_all_their_fields():
    files = {
        path.stem: yaml.safe_load(path.read_text()) for path in (CONFIGURATION / "adapter").glob("*.yaml")
    }
    for kind, values in files.items():
        assert values.pop("kind") == kind
        config = adapter_config_from({"model_type": kind})
        # Of the class's annotations those that are fields: a constant of the class is none.
        assert set(values) == config.own_fields() & {item.name for item in fields(config)}, kind
    assert set(files) == set(ADAPTER_CONFIGS)


def test_files_name_the_keys_that_there_are():
    def keys(name):
        return set(yaml.safe_load((CONFIGURATION / name).read_text())) - {"defaults"}

    assert keys("trainer/default.yaml") == {item.name for item in fields(TrainerSettings)}
    assert keys("data/manifests.yaml") == {item.name for item in fields(DataSettings)}
    assert keys("augmentation/none.yaml") == {*EFFECTS, SPEC_AUGMENT}
    assert keys("model/bases.yaml") >= {item.name for item in fields(ModelSettings)} - {"fields"}


def test_a_phase_changes_the_trainer_for_itself_alone():
    run = read_run(composed("+experiment=smoke", "trainer.steps=7", "phases.0.steps=3", "~phases.1.steps"))
    assert [phase.trainer.steps for phase in run.phases] == [3, 7]


def test_cfg_job_shows_every_group(capfd):
    assert main(["+experiment=smoke", "--cfg", "job"]) == 0
    shown = yaml.safe_load(capfd.readouterr().out)
    assert {"model", "adapter", "data", "augmentation", "phases", "trainer", "seed"} <= set(shown)


def test_the_command_silences_no_logger_of_the_process(tmp_path, capsys):
    somebody = logging.getLogger("somebody.else")
    # A fault that needs no base: those are on hand only where some other test installed them.
    overrides = [
        f"model.encoder={tmp_path / 'nowhere'}",
        "data.train=a.jsonl",
        f"output_dir={tmp_path / 'run'}",
    ]
    assert main(overrides) == 1
    assert "nowhere" in capsys.readouterr().err
    assert not somebody.disabled and not logging.getLogger("speechllm.training.run").disabled
