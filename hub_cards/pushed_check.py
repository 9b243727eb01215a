"""Does a pushed checkpoint come back as it was? Both are loaded by name, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("loaded_by_name.py")


def check_pushed(folder: Path, repo_id: str, commit: str) -> None:
    """Raise `ValueError` where the repository at `commit` differs from the folder that was pushed."""
    here, there = loaded(str(folder.resolve())), loaded(repo_id, commit)
    different = [what for what in here if here[what] != there[what]]
    if different:
        what = different[0]
        raise ValueError(f"{repo_id} loads, but its {what} is {there[what]!r}, not {here[what]!r}")


def loaded(name: str, revision: str | None = None) -> dict[str, str]:
    """What a fresh process makes of a checkpoint: `pipeline`, `trained`, `text`."""
    # -P: modules beside the script would hide those of other packages.
    words = [sys.executable, "-P", str(SCRIPT), name, *([revision] if revision else [])]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ValueError(f"{name} does not load in a fresh process: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])
