"""Folders that are there when all went well, and not at all otherwise."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def new_folder(target: str | os.PathLike) -> Iterator[Path]:
    """A folder to write into, which becomes `target` when the block ends well."""
    target = Path(target).expanduser()
    check_new(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the last step is one rename.
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as staging:
        built = Path(staging) / target.name
        built.mkdir()
        yield built
        if target.exists():
            target.rmdir()
        built.rename(target)


def check_new(target: Path) -> None:
    """Files that were there already would belong to what is written, and loaders would read them."""
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ValueError(f"{target} holds something already: name a new folder")
