"""Writes what would go to the Hub into a folder."""

import shutil
from pathlib import Path


def write(contents, folder: Path) -> Path:
    for path, source in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            (folder / path).write_bytes(source)
        else:
            shutil.copy(source, folder / path)
    return folder
