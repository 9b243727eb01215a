"""What is known of a checkpoint: its config, and what the run that made it left behind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from speechllm.configuration.base_resolution import is_path
from speechllm.configuration.configuration_speechllm import SpeechLLMConfig

from .evaluation_files import read_evaluation
from .scores import Evaluation, training_evaluation

MODEL, RESULTS, SETTINGS = "model", "results.json", "config.yaml"


@dataclass(frozen=True)
class RunFacts:
    """`checkpoint`: its folder; `folder`: the run's, where there was one.

    `results` and `settings` are what training wrote, empty for a checkpoint that came another way.
    """

    checkpoint: Path
    folder: Path | None
    results: dict[str, Any]
    settings: dict[str, Any]
    evaluation: Evaluation | None

    @cached_property
    def config(self) -> SpeechLLMConfig:
        return SpeechLLMConfig.from_pretrained(str(self.checkpoint))

    @property
    def name(self) -> str:
        named = self.checkpoint.resolve()
        return self.results.get("name") or (named.parent if named.name == MODEL else named).name

    @property
    def bases(self) -> list[tuple[str, str, str | None]]:
        """`(slot, id, revision)` of each base, once where one base fills both slots."""
        config = self.config
        found = [
            ("encoder", config.encoder_id, config.encoder_revision),
            ("decoder", config.decoder_id, config.decoder_revision),
        ]
        if config.family.one_base:
            found = [("encoder and decoder", config.encoder_id, config.encoder_revision)]
        return [(slot, base_id, revision) for slot, base_id, revision in found if base_id]


def read_run(folder: str | Path, results: str | Path | None = None, system: str | None = None) -> RunFacts:
    """The facts of a run's folder, of the `model` folder in one, or of any checkpoint.

    `results`: what `speechllm evaluate` wrote, a file or its folder, in which `system` names this checkpoint;
    without it, the `evaluation` that lies beside it, else what training counted on its evaluation sets.
    """
    checkpoint = checkpoint_in(folder)
    run = checkpoint.resolve().parent if checkpoint.resolve().name == MODEL else None
    run = run if run and (run / SETTINGS).exists() else None
    training = _read(checkpoint / RESULTS)
    evaluation = (
        read_evaluation(results, checkpoint, system)
        if results
        else _found_evaluation(checkpoint, run, system)
    )
    return RunFacts(
        checkpoint, run, training, _read(run / SETTINGS) if run else {},
        evaluation or training_evaluation(training),
    )  # fmt: skip


def checkpoint_in(folder: str | Path) -> Path:
    """The checkpoint of a run's folder, or the folder where it is one itself."""
    given = Path(folder).expanduser()
    if not given.is_dir():
        raise ValueError(f"{folder}: no such folder; a card is made of a run's folder or a checkpoint's")
    checkpoint = given / MODEL if (given / MODEL / "config.json").exists() else given
    if not (checkpoint / "config.json").exists():
        raise ValueError(f"{folder} holds neither a checkpoint (config.json) nor a run (model/config.json)")
    return checkpoint


def public_path(path: str) -> str:
    """A path as a reader may see it: what lies above its last folder is the author's business."""
    return "/".join(Path(path).expanduser().parts[-2:]) if is_path(path) else path


def without_private_paths(values: Any) -> Any:
    """The same values, every path of this machine cut to its last two parts."""
    if isinstance(values, dict):
        return {key: without_private_paths(value) for key, value in values.items()}
    if isinstance(values, list):
        return [without_private_paths(value) for value in values]
    return public_path(values) if isinstance(values, str) and values.startswith(("/", "~/")) else values


def _found_evaluation(checkpoint: Path, run: Path | None, system: str | None) -> Evaluation | None:
    """What `speechllm evaluate` left beside the checkpoint or in its run."""
    for folder in filter(None, (checkpoint, run)):
        if (folder / "evaluation" / RESULTS).exists():
            return read_evaluation(folder / "evaluation", checkpoint, system)
    return None


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        # Not YAML for both: it takes JSON's 1e-08 for text.
        values = (json.loads if path.suffix == ".json" else yaml.safe_load)(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no keys and values")
    return values
