"""One utterance of a corpus, and the manifests that hold them."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from speechllm.configuration.writing import replacing_files

# Field -> its spellings in the wild. A manifest may hold several of one field: the first listed counts.
SPELLINGS = {
    "audio": ("audio", "audio_path", "path", "audio_filepath", "wav", "file", "file_name", "filename"),
    "text": ("text", "transcript", "sentence", "transcription", "normalized"),
    "language": ("language", "lang", "locale"),
    "seconds": ("seconds", "duration", "audio_duration"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk_id", "spk"),
    "id": ("id", "utt_id", "utterance_id", "segment_id", "key"),
    "task": ("task",),
    "prompt": ("prompt",),
}
REQUIRED = ("audio", "text")


@dataclass(frozen=True)
class Utterance:
    """A piece of sound and what is said in it; `text` is empty where nothing is.

    `audio` is a path or URL. `extra` holds whatever else the corpus says: origin, licence, and `offset`,
    the second of the file at which a piece of `seconds` begins.
    """

    audio: str
    text: str
    language: str | None = None
    seconds: float | None = None
    speaker: str | None = None
    id: str | None = None
    task: str | None = None
    prompt: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.id or Path(self.audio).name or "unnamed clip"

    @property
    def sound(self) -> Any:
        """What `read_audio` reads."""
        return self.audio


FIELDS = tuple(item.name for item in fields(Utterance))


def read_manifest(path: str | os.PathLike, columns: Mapping[str, str] | None = None) -> list[Utterance]:
    """The utterances of a manifest of any common shape.

    JSON (a list of objects, or one object of file names and texts), JSONL, CSV or TSV. `columns`: field ->
    key, for keys that are not in `SPELLINGS`. Relative audio paths are resolved against the manifest.
    """
    path = Path(path)
    rows = _rows(path)
    if not rows:
        return []
    keys = field_keys(dict.fromkeys(key for row in rows for key in row), columns, path.name)
    return [
        utterance_from_row(row, keys, path.parent, f"{path.name}, entry {number}")
        for number, row in enumerate(rows, 1)
    ]


def write_manifest(path: str | os.PathLike, utterances: Iterable[Utterance]) -> None:
    """JSONL, whole or not at all; audio below the manifest's folder is relative to it, else absolute."""
    path = Path(path)
    with (
        replacing_files(path.parent) as partial,
        open(Path(partial) / path.name, "w", encoding="utf-8") as file,
    ):
        for utterance in utterances:
            row = {name: getattr(utterance, name) for name in FIELDS}
            row["audio"] = _relative(utterance.audio, path.parent)
            known = {key: row[key] for key in FIELDS if key in REQUIRED or row[key] not in (None, {})}
            file.write(json.dumps(known, ensure_ascii=False, allow_nan=False) + "\n")


def field_keys(there: Iterable[str], columns: Mapping[str, str] | None, where: str) -> dict[str, str]:
    """Field -> the column that holds it; audio and text must be there."""
    there = list(there)
    chosen = {name: key for name, key in (columns or {}).items() if key is not None}
    for name, key in chosen.items():
        if name not in SPELLINGS:
            raise ValueError(f"columns names {name!r}; there are {sorted(SPELLINGS)}")
        if key not in there:
            raise ValueError(f"{where}: no column {key!r} for {name}; there are {sorted(there)}")
    for name, spellings in SPELLINGS.items():
        # What one field was told to take is not taken by another.
        free = [key for key in spellings if key in there and key not in chosen.values()]
        if name not in chosen and free:
            chosen[name] = free[0]
    for name in REQUIRED:
        if name not in chosen:
            raise ValueError(f"{where}: no column for {name}; there are {sorted(there)}, name one in columns")
    return chosen


def utterance_from_row(
    row: Mapping[str, Any], keys: Mapping[str, str], folder: Path, where: str
) -> Utterance:
    """One row of a table; what is in no field is kept in `extra`."""
    values = {name: row.get(key) for name, key in keys.items()}
    audio = values.pop("audio")
    audio = audio.get("path") if isinstance(audio, Mapping) else audio
    text, seconds = values.pop("text"), values.pop("seconds", None)
    extra = {key: value for key, value in row.items() if key not in keys.values() and not _absent(value)}
    # Our own manifests hold `extra` as an object.
    nested = extra.pop("extra") if isinstance(extra.get("extra"), Mapping) else {}
    return Utterance(
        audio=_resolved(str(audio), folder) if not _absent(audio) else "",
        text="" if _absent(text) else str(text),
        seconds=_seconds(seconds, where),
        extra={**extra, **nested},
        **{name: None if _absent(value) else str(value) for name, value in values.items()},
    )


def _absent(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _seconds(value: Any, where: str) -> float | None:
    if _absent(value):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: a duration of {value!r} is no number of seconds") from None


def _resolved(audio: str, folder: Path) -> str:
    return audio if "://" in audio or os.path.isabs(audio) else os.path.normpath(folder / audio)


def _relative(audio: str, folder: Path) -> str:
    """To `folder`, by whichever link either was named; absolute elsewhere: one reads from any folder."""
    if not audio or "://" in audio:
        return audio
    for follow in (os.path.abspath, os.path.realpath):
        path = Path(follow(os.path.dirname(audio)), os.path.basename(audio))
        if path.is_relative_to(base := follow(folder)):
            return str(path.relative_to(base))
    return os.path.abspath(audio)


def _rows(path: Path) -> list[dict[str, Any]]:
    """The objects or lines of a manifest, whatever its form."""
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise ValueError(f"{path.name}: a manifest is one of {sorted(READERS)}")
    try:
        # utf-8-sig: spreadsheets write a byte order mark, which would become part of the first column's name.
        return READERS[suffix](path.read_text(encoding="utf-8-sig"), path.name)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such manifest") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: not UTF-8 at byte {error.start}; save it as UTF-8") from None


def _json_rows(text: str, name: str) -> list[dict[str, Any]]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        # JSONL under the name of JSON is common.
        if error.msg.startswith("Extra data"):
            return _jsonl_rows(text, name)
        raise ValueError(f"{name}: not JSON at line {error.lineno}: {error.msg}") from None
    if isinstance(content, Mapping) and all(isinstance(value, str) for value in content.values()):
        if not {*SPELLINGS["audio"]} & {*content}:
            return [{"audio": key, "text": value} for key, value in content.items()]
        content = [content]
    if isinstance(content, Mapping):
        content = next((value for value in content.values() if isinstance(value, Sequence)), content)
    return _objects(content, name)


def _objects(content: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(content, list):
        raise ValueError(
            f"{name}: holds {type(content).__name__}; give a list of objects, or one of files and texts"
        )
    for number, row in enumerate(content, 1):
        if not isinstance(row, dict):
            raise ValueError(f"{name}, entry {number}: is {type(row).__name__}, not an object")
    return content


def _jsonl_rows(text: str, name: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"{name}: line {number} is not JSON: {error.msg}") from None
    return _objects(rows, name)


def _table_rows(dialect: type[csv.Dialect]):
    def rows(text: str, name: str) -> list[dict[str, Any]]:
        table = list(csv.DictReader(io.StringIO(text, newline=""), dialect=dialect))
        for number, row in enumerate(table, 2):
            if None in row:
                raise ValueError(f"{name}: line {number} has more cells than the header has names")
        return table

    return rows


class TabSeparated(csv.excel_tab):
    """Corpora in tab-separated files have bare quotation marks in their sentences."""

    quoting = csv.QUOTE_NONE


READERS = {
    ".json": _json_rows,
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".csv": _table_rows(csv.excel),
    ".tsv": _table_rows(TabSeparated),
}
