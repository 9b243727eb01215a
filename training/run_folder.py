"""The folder of a run: what it was asked, with what, and whether the same is asked again."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from .speech_trainer import write_text

CONFIG, FACTS = "config.yaml", "run.json"
# What is in a run's folder before the run is.
MADE_BEFORE = ("train.log", "material")
PACKAGES = ("speechllm", "torch", "transformers", "accelerate", "datasets", "peft", "jiwer", "hydra-core")
# What may differ when a run goes on: it changes neither weights nor numbers. A tuple is a path of keys.
FREE_KEYS = (("output_dir",), ("overwrite",), ("trainer", "workers"), ("trainer", "report_to"))


def open_run(folder: Path, config: dict[str, Any], facts: dict[str, Any], overwrite: bool) -> dict[str, Any]:
    """Begin a run in `folder`, or go on with the one that is there; its facts.

    Another run's folder is refused, by the first key that differs; `overwrite` deletes what is there. Further
    phases behind those that are there make no other run of it.
    """
    stored = folder / CONFIG
    held = sorted(path for path in folder.glob("*") if path.name not in MADE_BEFORE)
    if overwrite and stored.exists():
        for path in held:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        held = []
    if not stored.exists():
        if held:
            raise ValueError(
                f"{folder} holds {held[0].name!r} but no run: name an empty folder as output_dir"
            )
        facts = {**facts, **surroundings(), "began": datetime.now(UTC).isoformat(timespec="seconds")}
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / FACTS, json.dumps(facts, indent=2))
        write_text(stored, OmegaConf.to_yaml(OmegaConf.create(config)))
        return facts
    there: Any = OmegaConf.to_container(OmegaConf.load(stored))
    if further_phases(there, config):
        there["phases"] = config["phases"]
        write_text(stored, OmegaConf.to_yaml(OmegaConf.create(there)))
    different = difference(without_free_keys(there), without_free_keys(config))
    if different:
        key, held_value, asked = different
        raise ValueError(
            f"{folder} holds a run with {key}={held_value!r}, not {asked!r}: name another output_dir, "
            "or say overwrite=true to delete that run"
        )
    return json.loads((folder / FACTS).read_text())


def surroundings() -> dict[str, Any]:
    """Versions, revision of the code if it lies in a repository, and the machine."""
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "git_revision": git_revision(),
        "machine": {
            "platform": platform.platform(),
            "processor": platform.machine(),
            "accelerators": devices,
        },
    }


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """The commit of the code that runs, with "+changes" where files differ; `None` outside a repository."""
    here = Path(__file__).resolve().parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()


def further_phases(there: dict[str, Any], asked: dict[str, Any]) -> list:
    """The phases by which `asked` goes on behind those of the run that is there; none where it does not."""
    known, wanted = there.get("phases") or [], asked.get("phases") or []
    one, other = (without_free_keys({**config, "phases": known}) for config in (there, asked))
    goes_on = difference(one, other) is None and wanted[: len(known)] == known
    return wanted[len(known) :] if goes_on else []


def is_finished(results: Path, phases: int) -> bool:
    """Whether the run that wrote these results went through so many phases."""
    return results.exists() and len(json.loads(results.read_text())["phases"]) == phases


def without_free_keys(config: dict[str, Any]) -> dict[str, Any]:
    """A copy without what may differ between the sessions of a run."""
    config = json.loads(json.dumps(config))
    for *parents, key in FREE_KEYS:
        place: Any = config
        for parent in parents:
            place = place.get(parent, {})
        place.pop(key, None)
    return config


def difference(one: Any, other: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """`(key, value here, value there)` of the first thing in which two configurations differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            found = difference(one.get(key), other.get(key), f"{path}.{key}" if path else key)
            if found:
                return found
        return None
    return None if one == other else (path, one, other)
