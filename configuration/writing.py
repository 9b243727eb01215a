"""Writes that are whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path


@contextlib.contextmanager
def replacing_files(folder):
    """A temporary folder whose files replace those of `folder` when the block ends well.

    Weights of an earlier save that the new one does not name are removed: a loader would read them too.
    """
    folder = Path(folder)
    if folder.is_file():
        raise ValueError(f"{folder} is a file; a checkpoint needs a folder")
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    try:
        yield str(partial)
        written = {path.name for path in partial.iterdir()}
        for name in written:
            os.replace(partial / name, folder / name)
        if any(name.startswith("model") and ".safetensors" in name for name in written):
            for old in folder.glob("model*.safetensors*"):
                if old.name not in written:
                    old.unlink()
    finally:
        shutil.rmtree(partial, ignore_errors=True)
