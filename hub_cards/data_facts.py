"""What a run was trained and judged on: hours, licences, languages, as far as they can be found out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechllm.training.data.presets import preset
from speechllm.training.data.utterances import Utterance, read_manifest

from .run_facts import RunFacts, public_path

LANGUAGE_CODE = re.compile(r"[a-z]{2,3}")


@dataclass(frozen=True)
class DataSource:
    """One corpus of a run. `hub_id` where it is a data set of the Hub."""

    title: str
    licences: tuple[str, ...]
    languages: tuple[str, ...]
    hub_id: str | None = None
    weight: float | None = None


@dataclass(frozen=True)
class DataSet:
    """One row of the card's table: training, or an evaluation set."""

    name: str
    sources: tuple[DataSource, ...]
    clips: int | None
    hours: float | None


def data_sets(run: RunFacts) -> list[DataSet]:
    """The training set first, then every set that the run was judged on; empty where nothing is recorded."""
    data = run.results.get("data") or {}
    named = data.get("configuration") or {}
    if not named:
        return []
    clips, hours = data.get("clips") or {}, data.get("hours") or {}
    rows = [("training", "train", named.get("train"))]
    rows += [
        (f"evaluation “{name}”", f"eval {name}", given) for name, given in (named.get("eval") or {}).items()
    ]
    return [
        DataSet(name, tuple(data_sources(given)), clips.get(key), hours.get(key)) for name, key, given in rows
    ]


def data_sources(given: Any) -> list[DataSource]:
    """The corpora behind an entry of a data configuration: a path, a mapping, or several."""
    entries = given if isinstance(given, list) else [given] if given else []
    return [_source({"path": entry} if isinstance(entry, str) else entry) for entry in entries]


def languages(run: RunFacts) -> list[str]:
    """Codes of the languages trained on, from the data, else from the bank and the router."""
    found = {code for one in data_sets(run)[:1] for source in one.sources for code in source.languages}
    bank = run.config.lora_bank or {}
    found |= set() if found else {adapter.language or name for name, adapter in bank.items()}
    return sorted(code for code in found if LANGUAGE_CODE.fullmatch(code))


def unique(values: Iterable[str | None]) -> list[str]:
    """What there is, each once, in order."""
    return list(dict.fromkeys(value for value in values if value))


def _source(entry: Mapping[str, Any]) -> DataSource:
    language = [entry["language"]] if entry.get("language") else []
    weight = entry.get("weight")
    if entry.get("preset"):
        known = preset(entry["preset"])
        spoken = language or (list(known.languages) if len(known.languages) == 1 else [])
        hub_id = entry.get("id") or (None if entry.get("path") else known.id)
        return DataSource(known.title, tuple(unique([known.licence])), tuple(spoken), hub_id, weight)
    if entry.get("id"):
        return DataSource(entry["id"], (), tuple(language), entry["id"], weight)
    path = str(entry.get("path") or "")
    clips = _clips(path)
    licences = unique(str(clip.extra["licence"]) for clip in clips if clip.extra.get("licence"))
    spoken = language or sorted({clip.language for clip in clips if clip.language})
    return DataSource(public_path(path), tuple(sorted(licences)), tuple(spoken), None, weight)


def _clips(path: str) -> list[Utterance]:
    """The lines of a manifest, if it still lies there."""
    try:
        return read_manifest(path) if Path(path).is_file() else []
    except (ValueError, OSError):
        return []
