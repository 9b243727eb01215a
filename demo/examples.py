"""Clips that anybody can try at once, without a network: the table in `audio/README.md`."""

from dataclasses import dataclass
from pathlib import Path

AUDIO = Path(__file__).resolve().parent / "audio"


@dataclass(frozen=True)
class Example:
    """A clip and what is said in it."""

    path: Path
    language: str
    text: str


def read_examples(folder: Path = AUDIO) -> list[Example]:
    """The rows of the table, in its order: file, language, text, and where it comes from."""
    rows = [
        [cell.strip(" `") for cell in line.strip().strip("|").split("|")]
        for line in (folder / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    return [Example(folder / name, language, text) for name, language, text, *_ in rows]
