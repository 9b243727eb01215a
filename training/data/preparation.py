"""From a corpus, of any kind, to manifests in a folder, with a report of what was kept and what was not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from speechllm.configuration.writing import replacing_files

from .filters import DropReport, FilterSettings, filter_utterances
from .hub import RowUtterance
from .presets import preset
from .sources import Source, load_source
from .splits import SHARES, Splits, prove_disjoint, split
from .utterances import Utterance, write_manifest

SUFFIXES = {"WAV": ".wav", "WAVEX": ".wav", "FLAC": ".flac", "OGG": ".ogg", "MPEG": ".mp3", "MP3": ".mp3"}


def prepare_corpus(
    source: Source,
    folder: Path,
    settings: FilterSettings,
    divide: str | None = None,
    shares: Sequence[float] = SHARES,
) -> list[dict[str, Any]]:
    """Write `folder/{split}.jsonl`, of one split of a corpus or, divided by text or speaker, of three.

    Sound that lies in a dataset's rows is written to `folder/audio`, encoded as it is.
    """
    report = DropReport(source.title)
    kept = filter_utterances(load_source(source), settings, source.rules or (), report)
    kept = [_with_file(utterance, folder / "audio", number) for number, utterance in enumerate(kept)]
    licence = preset(source.preset).licence if source.preset else None
    if licence:
        kept = [replace(item, extra={"licence": licence, **item.extra}) for item in kept]
    splits: Splits = {_file_name(source): kept} if divide is None else split(kept, divide, shares)
    if divide is not None:
        prove_disjoint(splits, divide)
    for name, utterances in splits.items():
        write_manifest(folder / f"{name}.jsonl", utterances)
    return [summary(source.title, splits, report)]


def summary(name: str, splits: Mapping[str, Sequence[Utterance]], report: DropReport) -> dict[str, Any]:
    """What one set holds and lost, for `report.json`."""
    hours = {split: sum(item.seconds or 0 for item in items) / 3600 for split, items in splits.items()}
    speakers = {item.speaker for items in splits.values() for item in items if item.speaker}
    return {
        "name": name,
        "clips": {split: len(items) for split, items in splits.items()},
        "hours": {split: round(value, 4) for split, value in hours.items()},
        "speakers": len(speakers),
        "dropped": report.dropped,
    }


def write_report(folder: Path, reports: Sequence[Mapping[str, Any]]) -> None:
    """`folder/report.json`, whole or not at all."""
    with replacing_files(folder) as partial:
        text = json.dumps(list(reports), indent=2, ensure_ascii=False)
        (Path(partial) / "report.json").write_text(text + "\n", encoding="utf-8")


def _file_name(source: Source) -> str:
    return (source.split or "train").replace("+", "-").replace("/", "-")


def _with_file(utterance: Utterance, folder: Path, number: int) -> Utterance:
    """The utterance as a file, where its sound was held by a dataset."""
    if not isinstance(utterance, RowUtterance):
        return utterance
    known = {name: getattr(utterance, name) for name in Utterance.__dataclass_fields__}
    sound = utterance.sound
    if isinstance(sound, Mapping) and sound.get("bytes") is None and sound.get("array") is None:
        return Utterance(**{**known, "audio": str(sound.get("path"))})
    folder.mkdir(parents=True, exist_ok=True)
    named = Path(utterance.audio).stem if utterance.audio else "clip"
    stem = "".join(sign if sign.isalnum() or sign in "-_" else "-" for sign in named)[:80]
    return Utterance(**{**known, "audio": str(_written(sound, folder / f"{number:07d}-{stem}"))})


def _written(sound: Any, stem: Path) -> Path:
    """Encoded bytes as they are, under the suffix of their format; samples as FLAC."""
    if sound.get("bytes") is None:
        target = stem.with_name(stem.name + ".flac")
        soundfile.write(target, np.asarray(sound["array"], dtype=np.float32), sound["sampling_rate"])
        return target
    partial = stem.with_name(stem.name + ".partial")
    partial.write_bytes(sound["bytes"])
    try:
        suffix = SUFFIXES.get(soundfile.info(str(partial)).format, Path(sound.get("path") or "").suffix)
    except RuntimeError:  # a format that is left to ffmpeg
        suffix = Path(sound.get("path") or "").suffix
    return partial.replace(stem.with_name(stem.name + (suffix or ".audio")))
