"""How many parameters an experiment trains, and the LoRA that trains as many: fair controls are computed."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from speechllm import SpeechLLMConfig, SpeechLLMForConditionalGeneration

try:
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf
except ImportError as error:
    raise ImportError("training needs hydra: install speechllm[train]") from error

from .composition import model_config
from .entry import CONFIGURATION
from .settings import RunSettings, read_run
from .trained_parts import set_trained_parts, trained_counts


@dataclass(frozen=True)
class Budget:
    """What a run trains over all of its phases."""

    parameters: int
    by_part: dict[str, int]


def compare_budgets(experiment: str, control: str, bases=None, report=print) -> str:
    """One line: both budgets, how far they are apart, and the control's rank that comes nearest."""
    runs = {name: read_experiment(name, bases) for name in (experiment, control)}
    configs = {name: model_config(run.model, run.adapter) for name, run in runs.items()}
    budgets = {name: trained_budget(configs[name], trained_parts_of(run)) for name, run in runs.items()}
    wanted, found = budgets[experiment].parameters, budgets[control].parameters
    rank = matching_rank(configs[control], trained_parts_of(runs[control]), wanted)
    return (
        f"{experiment} trains {wanted:,} parameters, {control} {found:,} ({found / wanted - 1:+.2%}); "
        f"LoRA of rank {rank} comes nearest"
    )


def read_experiment(name: str, bases=None) -> RunSettings:
    """The settings of `+experiment=NAME`."""
    there = sorted(path.stem for path in (CONFIGURATION / "experiment").glob("*.yaml"))
    if name not in there:
        raise ValueError(f"there is no experiment {name!r}; there are {', '.join(there)}")
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIGURATION), version_base="1.3"):
        composed = hydra.compose("config", overrides=[f"+experiment={name}"])
    values: Any = OmegaConf.to_container(composed, resolve=True)
    values["model"]["bases"] = bases or values["model"]["bases"]
    return read_run(values)


def trained_parts_of(run: RunSettings) -> list[str]:
    """The parts that any phase trains."""
    return sorted({part for phase in run.phases for part in phase.train})


def trained_budget(config: SpeechLLMConfig, parts: list[str]) -> Budget:
    """What a model of this config would train; no weights are read."""
    with torch.device("meta"):
        model = SpeechLLMForConditionalGeneration(copy.deepcopy(config))
    counts = trained_counts(model, set_trained_parts(model, parts))
    return Budget(sum(counts.values()), counts)


def matching_rank(config: SpeechLLMConfig, parts: list[str], parameters: int) -> int:
    """The rank of the config's LoRA at which `parts` come nearest to so many parameters."""
    if "lora" not in parts or not config.lora_config:
        raise ValueError(f"a rank is sought for LoRA, but what is trained is {', '.join(parts)}")
    config, held = copy.deepcopy(config), trained_budget(config, parts)
    for lora in config.lora_config.values():
        lora.r = 1
    # LoRA is as large as its rank says, and what else is trained stays.
    each = trained_budget(config, parts).by_part["lora"]
    rest = held.parameters - held.by_part["lora"]
    return max(1, round((parameters - rest) / each))
