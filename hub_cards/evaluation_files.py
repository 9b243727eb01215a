"""Reads what `speechllm evaluate` wrote: `results.json`, and beside it the transcripts, if they are there.

Of `results.json` these keys are read, all others left alone: `systems` (name -> `model`), `results` and
`noise` (a row for each system and set: `system`, `set`, `clips`, `wer`, `wer_interval`, `cer`,
`cer_interval`, `by_language`, `noise`, `snr_db`, rates), `sets` (name -> `origin`), `normalisers`,
`bootstrap`, `created`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from speechllm.training.data.normalisers import normaliser
from speechllm.training.data.sources import source_from
from speechllm.training.recognition_errors import edit_counts, error_rate

from .scores import METRICS, OTHER_RATES, Evaluation, Score

RESULTS, TRANSCRIPTS = "results.json", "transcripts"
WORST = 20


def read_evaluation(path: str | Path, checkpoint: Path, system: str | None = None) -> Evaluation:
    """What was found of this checkpoint, in a results file or in the folder of one.

    `system`: what the evaluation calls it; needed where that cannot be told by its folder.
    """
    path = Path(path).expanduser()
    path = path / RESULTS if path.is_dir() else path
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        name = system_of(values["systems"], checkpoint, system)
        rows = [row for row in values["results"] if row["system"] == name]
        noisy = [row for row in values["noise"] if row["system"] == name]
        origins = {row["set"]: values["sets"].get(row["set"], {}).get("origin") for row in rows}
        told = values["normalisers"]
        return Evaluation(
            [score for row in rows for score in _scores(row)]
            + [score for row in noisy for score in _under_noise(row)],
            by_training=False,
            normaliser=", ".join(_named(*one) for one in told.items()),
            sources={one: source for one, origin in origins.items() if (source := hub_source(origin))},
            worst=[clip for one in origins for clip in worst_clips(path.parent, name, one, told)],
            other_rates={row["set"]: {rate: row[rate] for rate in OTHER_RATES} for row in rows},
            date=values.get("created"),
            confidence=values["bootstrap"]["confidence"],
        )  # fmt: skip
    except FileNotFoundError:
        raise ValueError(f"{path}: there are no results; `speechllm evaluate` writes them") from None
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not what `speechllm evaluate` writes: {error!r}") from error


def system_of(systems: Mapping[str, Mapping[str, Any]], checkpoint: Path, named: str | None) -> str:
    """The name of the system that this checkpoint is."""
    if named is not None:
        if named not in systems:
            raise ValueError(f"the results have no system {named!r}; there are {sorted(systems)}")
        return named
    own = [name for name, about in systems.items() if _same_folder(about.get("model"), checkpoint)]
    if len(own) == 1:
        return own[0]
    raise ValueError(
        f"none of the systems {sorted(systems)} was loaded from {checkpoint}: say which it is with --system"
        if not own
        else f"the systems {sorted(own)} are all this checkpoint: say which to tell of with --system"
    )


def hub_source(origin: str | None) -> dict[str, Any] | None:
    """Where a set is on the Hub, from how it was named: "preset=fleurs,language=it"."""
    pairs = [part.partition("=") for part in (origin or "").split(",")]
    if not origin or not all(equals for _, equals, _ in pairs):
        return None
    source = source_from({key.strip(): value.strip() for key, _, value in pairs}, default_split="test")
    found = {"id": source.id, "config": source.config, "split": source.split, "revision": source.revision}
    return {key: value for key, value in found.items() if value} if source.id else None


def worst_clips(
    folder: Path, system: str, chosen: str, normalisers: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The clips of a set with the highest error rates, from its transcripts."""
    path = folder / TRANSCRIPTS / f"{system}.{chosen}.jsonl"
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    plain = normaliser(normalisers["default"]["name"])
    judged = [
        {
            "set": chosen,
            "said": row["said"],
            "heard": row["text"],
            "wer": error_rate(edit_counts([plain(row["text"])], [plain(row["said"])])),
        }
        for row in rows
        if row.get("said") and "text" in row and not row.get("error")
    ]
    return sorted(judged, key=lambda one: -one["wer"])[:WORST]


def _scores(row: Mapping[str, Any]) -> Iterator[Score]:
    """Of a whole set, then of each of its languages."""
    yield from _measured(row)
    for language, values in row["by_language"].items():
        yield from _measured({**values, "set": row["set"]}, language=language)


def _measured(row: Mapping[str, Any], **place: Any) -> Iterator[Score]:
    for metric in METRICS:
        if row[metric] is not None:
            bounds = row[f"{metric}_interval"] or {}
            ends = bounds.get("low"), bounds.get("high")
            yield Score(row["set"], metric, float(row[metric]), *ends, row["clips"], **place)


def _under_noise(row: Mapping[str, Any]) -> Iterator[Score]:
    clean = row["snr_db"] == "clean"
    yield from _measured(row, noise=row["noise"], snr_db=float("inf") if clean else float(row["snr_db"]))


def _named(language: str, about: Mapping[str, Any]) -> str:
    return f"{'' if language == 'default' else language + ': '}{about['name']}/{about['version']}"


def _same_folder(model: str | None, checkpoint: Path) -> bool:
    return bool(model) and Path(str(model)).expanduser().resolve() == checkpoint.resolve()
