"""Datasets of the Hugging Face Hub, or of that form on disk: their rows as utterances."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .utterances import Utterance, field_keys, utterance_from_row

try:
    import datasets
except ImportError:
    datasets = None


@dataclass(frozen=True)
class RowUtterance(Utterance):
    """An utterance whose sound lies in a dataset's row, from which it is taken when it is read."""

    rows: Any = field(default=None, compare=False, repr=False)
    row: int = 0
    column: str = "audio"

    @property
    def sound(self) -> Any:
        return self.rows[self.row][self.column]


def open_dataset(
    name: str | os.PathLike,
    split: str,
    config: str | None = None,
    streaming: bool = False,
    revision: str | None = None,
) -> Any:
    """The split of a dataset of the Hub, or of a folder that `save_to_disk` wrote or that holds data files.

    Its sound stays encoded: decoding is ours, and needs no further library.
    """
    if datasets is None:
        raise ImportError("reading datasets needs the extra: pip install 'speechllm[train]'")
    try:
        if _saved_to_disk(Path(name)):
            found = _from_disk(str(name), split, streaming)
        else:
            # "a+b" is understood for datasets in memory only, so it is taken apart for streams too.
            parts = [
                datasets.load_dataset(str(name), config, split=part, streaming=streaming, revision=revision)
                for part in split.split("+")
            ]
            found = parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)
    except (ValueError, OSError, ConnectionError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"dataset {name} (config {config}, split {split}): {reason}") from error
    return undecoded(found)


def undecoded(rows: Any) -> Any:
    """The dataset with every audio column as `{"bytes", "path"}`."""
    for column, feature in (rows.features or {}).items():
        if isinstance(feature, datasets.Audio):
            rows = rows.cast_column(column, datasets.Audio(decode=False))
    return rows


def dataset_utterances(rows: Any, columns: Mapping[str, str] | None, name: str) -> list[RowUtterance]:
    """Every row of a dataset in memory or on disk; sound is left where it is."""
    keys = field_keys(rows.column_names, columns, name)
    # Without the sounds, all rows are read at once and cheaply.
    labels = rows.remove_columns([keys["audio"]])
    return [
        _row_utterance(label, keys, rows, index, f"{name}[{index}]") for index, label in enumerate(labels)
    ]


def row_utterances(batch: Mapping[str, list], columns: Mapping[str, str] | None, name: str) -> Iterator:
    """The rows of one batch of a streamed dataset."""
    keys = field_keys(batch, columns, name)
    rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    for index, row in enumerate(rows):
        yield _row_utterance(row, keys, rows, index, f"{name} row {index}")


def _row_utterance(row: Mapping, keys: Mapping[str, str], rows: Any, index: int, where: str) -> RowUtterance:
    plain = {key: value for key, value in row.items() if _is_label(value)}
    # Nameless sound still needs a name in messages.
    sound = row.get(keys["audio"])
    path = sound.get("path") if isinstance(sound, Mapping) else sound if isinstance(sound, str) else None
    known = utterance_from_row({**plain, keys["audio"]: path or where}, keys, Path(), where)
    values = {name: getattr(known, name) for name in known.__dataclass_fields__}
    values["audio"] = path or where
    return RowUtterance(**values, rows=rows, row=index, column=keys["audio"])


def _is_label(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))


def _saved_to_disk(folder: Path) -> bool:
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def _from_disk(folder: str, split: str, streaming: bool) -> Any:
    found = datasets.load_from_disk(folder)
    if isinstance(found, dict):
        if split not in found:
            raise ValueError(f"no such split; there are {sorted(found)}")
        found = found[split]
    return found.to_iterable_dataset() if streaming else found
