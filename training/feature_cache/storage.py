"""How encoder states lie on disk: number formats by name, and Arrow files that are whole or not there."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

try:
    import pyarrow
except ImportError as error:
    raise ImportError("a feature cache needs Arrow: pip install 'speechllm[train]'") from error

SUFFIX, PARTIAL = ".arrow", ".partial-"
# A row without states only says that a source is the sound of another row.
SCHEMA = pyarrow.schema(
    [
        ("audio_hash", pyarrow.string()),
        ("copy", pyarrow.int32()),
        ("source", pyarrow.string()),
        ("inputs", pyarrow.int32()),
        ("frames", pyarrow.int32()),
        ("states", pyarrow.large_binary()),
        ("scales", pyarrow.large_binary()),
    ]
)
INT8_MOST = 127


@dataclass(frozen=True)
class Storage:
    """A format. `pack(states [T, D] float32)` -> what is kept of them and of their frames' scales."""

    kind: Any
    pack: Callable[[Tensor], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Row:
    """One sound, or one augmented copy of it."""

    audio_hash: str
    copy: int
    source: str
    # Model inputs (mel frames, samples) of the clip: fewer than the states stand for where these are padded.
    inputs: int
    frames: int = 0
    states: bytes | None = None
    scales: bytes | None = None


def pack_float(dtype: torch.dtype) -> Callable[[Tensor], tuple[Tensor, None]]:
    def pack(states: Tensor) -> tuple[Tensor, None]:
        packed = states.to(dtype)
        if not bool(packed.isfinite().all()):
            most = float(states.abs().max())
            raise ValueError(
                f"encoder states of up to {most:g} do not fit into {str(dtype).removeprefix('torch.')}: "
                "store float32 or int8"
            )
        return packed, None

    return pack


def pack_int8(states: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers of a frame's own unit, a 127th of its largest value."""
    if not bool(states.isfinite().all()):
        raise ValueError("encoder states are not finite, so they cannot be stored as int8")
    scales = states.abs().amax(-1, keepdim=True) / INT8_MOST
    # A frame of zeros has no unit.
    units = torch.where(scales > 0, scales, torch.ones_like(scales))
    return (states / units).round().to(torch.int8), scales[:, 0]


STORAGES = {
    "float16": Storage(np.float16, pack_float(torch.float16)),
    "float32": Storage(np.float32, pack_float(torch.float32)),
    "int8": Storage(np.int8, pack_int8),
}


def packed(states: Tensor, storage: str) -> dict[str, Any]:
    """States `[T, D]` as the fields of a `Row`."""
    values, scales = STORAGES[storage].pack(states.detach().float().cpu())
    return {
        "frames": len(states),
        "states": values.contiguous().numpy().tobytes(),
        "scales": None if scales is None else scales.contiguous().numpy().tobytes(),
    }


def unpacked(states: Sequence[np.ndarray], scales: Sequence[np.ndarray | None]) -> Tensor:
    """Clips' stored states `[T, D]` as one zero-padded batch `[B, T, D]`; floats keep their width."""
    size = max(len(one) for one in states)
    kind = states[0].dtype
    batch = np.zeros((len(states), size, states[0].shape[1]), dtype=kind)
    for row, one in zip(batch, states, strict=True):
        row[: len(one)] = one
    if scales[0] is None:
        return torch.from_numpy(batch)
    units = np.zeros((len(states), size, 1), dtype=np.float32)
    for row, scale in zip(units, scales, strict=True):
        row[: len(scale), 0] = scale  # type: ignore[arg-type]
    return torch.from_numpy(batch).float().mul_(torch.from_numpy(units))


def write_part(folder: Path, rows: Sequence[Row]) -> Path:
    """Rows as an Arrow file that is there whole or not at all. Its name says what it holds."""
    name = hashlib.blake2b(digest_size=12)
    for row in rows:
        name.update(f"{row.audio_hash} {row.copy} {row.source}\n".encode())
    path, partial = (
        folder / f"{name.hexdigest()}{SUFFIX}",
        folder / f"{PARTIAL}{os.getpid()}-{name.hexdigest()}",
    )
    columns = [pyarrow.array([getattr(row, field.name) for row in rows], field.type) for field in SCHEMA]
    try:
        # A stream of one batch: what `datasets.Dataset.from_file` opens.
        with pyarrow.OSFile(str(partial), "wb") as file, pyarrow.ipc.new_stream(file, SCHEMA) as writer:
            writer.write_batch(pyarrow.record_batch(columns, schema=SCHEMA))
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(
            f"{path} could not be written ({error}); make room and run again: what is done stays"
        ) from error
    return path


def open_part(path: Path) -> Any:
    """The table in a part, mapped and not read."""
    try:
        table = pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all()
    except (pyarrow.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path} is no part of a feature cache, or damaged ({reason}): delete it and cache again"
        ) from error
    if not table.schema.equals(SCHEMA):
        raise ValueError(f"{path} is no part of a feature cache: its columns are {table.column_names}")
    return table.combine_chunks()


def part_paths(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def remove_partial(folder: Path) -> None:
    """What interrupted processes left; only to be called while none is at work."""
    for path in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def known_rows(tables: Iterable[Any]) -> Iterable[tuple[int, int, dict[str, Any]]]:
    """`(table, row, its small fields)` of every row; states are not touched, only whether they are there."""
    names = ["audio_hash", "copy", "source", "inputs", "frames"]
    for place, table in enumerate(tables):
        held = table["states"].is_valid().to_pylist()
        for row, fields in enumerate(table.select(names).to_pylist()):
            yield place, row, {**fields, "held": held[row]}
