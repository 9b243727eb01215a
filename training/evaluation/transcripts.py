"""Transcripts on disk: an evaluation that was interrupted, or is asked for more, goes on where it was."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from speechllm.configuration.writing import replacing_files
from speechllm.training.data.utterances import Utterance

from .evaluation_sets import fingerprint
from .provider_base import Heard
from .running import Latency, Run

FOLDER = "transcripts"


def write_run(path: Path, key: str, run: Run, utterances: tuple[Utterance, ...]) -> None:
    """A line about the run, then a line a clip; whole or not at all."""
    head = {
        "key": key,
        "processing_seconds": run.processing_seconds,
        "configuration": run.configuration,
        "memory": run.memory,
        "latency": None if run.latency is None else asdict(run.latency),
    }
    rows: list[dict[str, Any]] = [{"run": head}]
    for item, heard, seconds in zip(utterances, run.heard, run.seconds, strict=True):
        known = {name: value for name, value in asdict(heard).items() if value is not None}
        rows.append({"id": item.name, "audio": item.audio, "said": item.text, "seconds": seconds, **known})
    with replacing_files(path.parent) as partial:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (Path(partial) / path.name).write_text(text, encoding="utf-8")


def read_run(path: Path, key: str, clips: int) -> Run | None:
    """The run that `path` holds, if it is of the same system, settings and sounds."""
    try:
        # Not splitlines: texts may hold signs that it takes for ends of lines.
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
        first, *rows = [json.loads(line) for line in lines]
        head = first["run"]
        if head["key"] != key or len(rows) != clips:
            return None
        heard = tuple(
            Heard(row["text"], row.get("language"), row.get("language_scores"), row.get("error"))
            for row in rows
        )
        latency = None if head["latency"] is None else Latency(**head["latency"])
        times = tuple(row["seconds"] for row in rows), head["processing_seconds"]
        return Run(heard, *times, head["configuration"], head["memory"], latency, reused=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or not ours: it is computed


def run_key(system: dict[str, Any], sounds: dict[str, Any], versions: dict[str, str]) -> str:
    """The same where the same would be computed."""
    return fingerprint({"system": system, "sounds": sounds, "versions": versions})


def transcript_path(folder: Path, system: str, chosen: str, condition: str | None) -> Path:
    """`NAME.SET.jsonl`, and `NAME.SET@white@5dB.jsonl` under noise."""
    return folder / FOLDER / f"{system}.{chosen}{f'@{condition}' if condition else ''}.jsonl"
