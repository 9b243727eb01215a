"""Trackers get curves, tables of texts and sounds; one that is not there is named before anything is read."""

import importlib.util
import sys
import types

import pytest
from speechllm.training.trackers import TRACKERS, markdown_table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import tiny_run

TWO_PHASES = (
    "phases=[{name: spell, loss: ctc, train: [adapter]},"
    " {name: write, loss: cross_entropy, train: [adapter]}]"
)


@pytest.mark.slow
def test_tensorboard_gets_curves_tables_and_sounds_of_every_phase(bases, tmp_path):
    tiny_run(tmp_path / "run", bases, TWO_PHASES, "trainer.report_to=[tensorboard]")
    for phase in ("phase-1-spell", "phase-2-write"):
        files = list((tmp_path / "run" / phase).rglob("events.out.tfevents.*"))
        # The last judgement of the run begins none of its own.
        assert len(files) == 1
        events = EventAccumulator(str(files[0])).Reload()
        tags = events.Tags()
        assert {"train/loss", "train/learning_rate", "eval/test_wer"} <= set(tags["scalars"])
        assert tags["audio"] == ["test/0", "test/1"]
        (text,) = (tag for tag in tags["tensors"] if tag.startswith("eval_test"))
        assert b"| ba |" in events.Tensors(text)[0].tensor_proto.string_val[0]


class Recorder(types.ModuleType):
    """Stands in for a service's client: what it was told, run by run."""

    def __init__(self, name):
        super().__init__(name)
        self.__spec__ = importlib.util.spec_from_loader(name, None)
        self.run, self.runs, self.config = None, [], Settings()
        self.context_vars = types.SimpleNamespace(current_space_id=types.SimpleNamespace(get=lambda: None))

    def init(self, project=None, name=None, **options):
        self.run = types.SimpleNamespace(name=name, summary={}, _label=lambda **labels: None)
        self.runs.append((name, []))

    def log(self, values):
        self.runs[-1][1].append(values)

    def finish(self):
        self.run = None

    def Table(self, columns=None, data=None, dataframe=None):  # noqa: N802  as theirs is called
        rows = dataframe.values.tolist() if dataframe is not None else data
        return ("table", list(dataframe) if dataframe is not None else columns, rows)

    def Audio(self, waveform, caption=None, sample_rate=None):  # noqa: N802  as theirs is called
        return ("audio", waveform.ndim, sample_rate)


class Settings(dict):
    def update(self, values, allow_val_change=False):
        super().update(values)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_service_gets_a_run_of_each_phase_with_tables_and_sounds(bases, tmp_path, monkeypatch, name):
    client = Recorder(name)
    monkeypatch.setitem(sys.modules, name, client)
    if name == "wandb":
        errors = types.ModuleType("wandb.sdk.lib.config_util")
        errors.ConfigError = KeyError
        for parent in ("wandb.sdk", "wandb.sdk.lib"):
            monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        monkeypatch.setitem(sys.modules, "wandb.sdk.lib.config_util", errors)
    tiny_run(tmp_path / "run", bases, TWO_PHASES, f"trainer.report_to=[{name}]")
    assert [run for run, _ in client.runs] == ["run-spell", "run-write"]
    for _, logged in client.runs:
        names = {key: value for entry in logged for key, value in entry.items()}
        assert {"train/loss", "eval/test_wer"} <= set(names)
        kind, columns, rows = names["eval_test"]
        assert (kind, columns) == ("table", ["said", "heard", "wer"]) and [row[0] for row in rows] == [
            "ba",
            "gg",
        ]
        assert names["test/0"] == ("audio", 1, 16000)
        assert all("train/global_step" in entry for entry in logged)


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed_is_named_before_anything_is_read(bases, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda asked, *rest: None if asked == name else found(asked, *rest)
    )
    with pytest.raises(
        ValueError, match=f"report_to={name} needs {name}, which is not installed: pip install"
    ) as told:
        tiny_run(tmp_path / "run", bases, f"trainer.report_to=[{name}]", "data.train=nowhere.jsonl")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_does_not_exist_is_refused(bases, tmp_path):
    with pytest.raises(ValueError, match="unknown tracker 'wandbb' in report_to; did you mean 'wandb'"):
        tiny_run(tmp_path / "run", bases, "trainer.report_to=[wandbb]")


def test_tables_keep_their_cells_apart():
    table = markdown_table([{"said": "a|b", "wer": 0.5}])
    assert table.splitlines() == ["| said | wer |", "| --- | --- |", "| a\\|b | 0.50 |"]
