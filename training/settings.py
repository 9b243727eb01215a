"""A run's configuration, checked: every key known, of its type, and there. Defaults stand in `conf/`."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from speechllm.configuration.configuration_adapters import adapter_config_from
from speechllm.configuration.configuration_speechllm import SETTLED_BY_BASES, SpeechLLMConfig
from speechllm.configuration.configuration_strict import refuse_unknown, suggest


@dataclass(frozen=True)
class TrainerSettings:
    """How one phase is trained; the keys are explained in `conf/trainer/default.yaml`."""

    steps: int
    epochs: float | None
    batch_size: int
    batch_seconds: float | None
    gradient_accumulation: int
    learning_rate: float
    learning_rates: dict | None
    weight_decay: float
    betas: list
    epsilon: float
    optimizer: str
    schedule: Literal["cosine", "linear", "constant"]
    warmup: float
    max_grad_norm: float
    label_smoothing: float
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    tf32: bool | None
    gradient_checkpointing: bool
    compile: bool
    eval_steps: int
    eval_batch_size: int
    max_new_tokens: int | None
    num_beams: int
    best_metric: str
    patience: int | None
    patience_threshold: float
    save_steps: int
    keep_checkpoints: int
    logging_steps: int
    report_to: list
    workers: int
    prediction_rows: int


@dataclass(frozen=True)
class PhaseSettings:
    """One entry of `phases`: what is trained, by which loss, and how."""

    name: str
    loss: str | dict
    train: list
    trainer: TrainerSettings


@dataclass(frozen=True)
class ModelSettings:
    """What is built: bases or a checkpoint to go on from, and the fields of `SpeechLLMConfig`."""

    encoder: str | None
    decoder: str | None
    bases: str | None
    start_from: str | None
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    quantization: Literal["8bit", "4bit"] | None
    attn_implementation: str | None
    fields: dict


@dataclass(frozen=True)
class RunSettings:
    """The whole of a run."""

    name: str
    output_dir: str
    seed: int
    overwrite: bool
    material: str | None
    model: ModelSettings
    adapter: dict
    data: dict
    augmentation: dict
    phases: list[PhaseSettings]


def read_run(given: Mapping[str, Any]) -> RunSettings:
    """The settings in a composed configuration; anything unknown, missing or of a wrong type is told."""
    values = dict(given)
    trainer = values.pop("trainer", {})
    read_settings(TrainerSettings, trainer, "trainer")
    values["model"] = read_model(values.get("model") or {})
    values["phases"] = read_phases(values.get("phases") or [], trainer)
    values["adapter"] = read_adapter(values.get("adapter") or {})
    for name in ("data", "augmentation"):
        values[name] = dict(values.get(name) or {})
    return read_settings(RunSettings, values, "the configuration")


def read_model(given: Mapping[str, Any]) -> ModelSettings:
    """`model`: keys of `ModelSettings`; others are fields of the model's config, null being its default."""
    own = {item.name for item in fields(ModelSettings)} - {"fields"}
    of_config = SpeechLLMConfig.own_fields() - set(SETTLED_BY_BASES)
    refuse_unknown("model", {k: v for k, v in given.items() if v is not None}, own | of_config)
    rest = {name: value for name, value in given.items() if name not in own and value is not None}
    return read_settings(
        ModelSettings, {**{name: given[name] for name in own if name in given}, "fields": rest}, "model"
    )


def read_adapter(given: Mapping[str, Any]) -> dict[str, Any]:
    """`adapter`: its kind and its config's fields, where null means the default."""
    if "kind" not in given:
        raise ValueError("adapter has no 'kind': choose a file of conf/adapter with adapter=NAME")
    fields_of_kind = {name: value for name, value in given.items() if name != "kind"}
    refuse_unknown(
        f"adapter {given['kind']!r}",
        fields_of_kind,
        adapter_config_from({"model_type": given["kind"]}).own_fields(),
    )
    return {"kind": given["kind"]} | {k: v for k, v in fields_of_kind.items() if v is not None}


def read_phases(given: list, trainer: Mapping[str, Any]) -> list[PhaseSettings]:
    """`phases`: each entry may hold any key of `trainer`, for that phase alone."""
    if not given:
        raise ValueError("phases is empty: choose a file of conf/phase with phase=NAME")
    phases = []
    for position, entry in enumerate(given):
        where = f"phases.{position}"
        own = {"name", "loss", "train"}
        known = {item.name for item in fields(TrainerSettings)}
        refuse_unknown(where, entry, own | known)
        changed = {name: value for name, value in entry.items() if name in known}
        settings = read_settings(TrainerSettings, {**trainer, **changed}, where)
        if settings.save_steps % settings.eval_steps:
            raise ValueError(
                f"{where}: save_steps={settings.save_steps} must be a multiple of "
                f"eval_steps={settings.eval_steps}, or the best checkpoint could be one that was not saved"
            )
        values = {name: entry[name] for name in own if name in entry}
        phases.append(read_settings(PhaseSettings, {**values, "trainer": settings}, where))
    names = [phase.name for phase in phases]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated:
        raise ValueError(f"two phases are called {repeated!r}: their folders would be one")
    return phases


def read_settings(kind: type, given: Mapping[str, Any], where: str) -> Any:
    """An instance of the dataclass `kind` of a mapping that has all of its keys and no others."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{where} must hold keys and values, not {given!r}")
    names = [item.name for item in fields(kind)]
    refuse_unknown(where, given, names)
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(f"{where} lacks {missing[0]!r}; it needs {', '.join(names)}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: checked(given[name], hints[name], f"{where}.{name}") for name in names})


def checked(value: Any, hint: Any, where: str) -> Any:
    """`value` if it is of type `hint`; a whole number becomes a float where a float is wanted."""
    if fits(value, hint):
        return value
    if type(value) is int and fits(float(value), hint):
        return float(value)
    if typing.get_origin(hint) is Literal and isinstance(value, str):
        raise ValueError(f"{where}={value!r} is unknown; {suggest(value, typing.get_args(hint))}")
    raise ValueError(f"{where}={value!r} must be {described(hint)}")


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` is of type `hint`: a class, a union, or some literals."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return any(fits(value, part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    kind = typing.get_origin(hint) or hint
    # Not isinstance: True is no number of steps.
    return type(value) is kind if kind in (int, float, bool, str, types.NoneType) else isinstance(value, kind)


def described(hint: Any) -> str:
    """A type in words."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " or ".join(described(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        list: "a list",
        dict: "keys with values",
        types.NoneType: "null",
    }
    return words.get(typing.get_origin(hint) or hint, str(hint))
