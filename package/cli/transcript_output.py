"""Where transcripts go: standard output, one file, or a file for each input. Files are whole or not there."""

import os
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from .audio_inputs import AudioInput


class StreamOutput:
    """Every transcript onto one stream, as soon as it is there; `open_stream` is called for the first."""

    def __init__(self, open_stream: Callable[[], TextIO]):
        self.open_stream = open_stream
        self.stream: TextIO | None = None

    def write(self, index: int, text: str) -> None:
        self.stream = self.stream or self.open_stream()
        # A progress bar on the same terminal makes room.
        with tqdm.external_write_mode(file=self.stream):
            self.stream.write(text)
            self.stream.flush()


class FolderOutput:
    """One file for each input, with `names` in the order of the inputs."""

    def __init__(self, folder: Path, names: list[str]):
        self.folder, self.names = folder, names

    def write(self, index: int, text: str) -> None:
        with replacing_file(self.folder / self.names[index]) as stream:
            stream.write(text)


@contextmanager
def open_output(path: str | None, inputs: list[AudioInput], suffix: str):
    """What `--output path` asks for; a single file is in its place once the block has ended well."""
    if path is None:
        # A name that the terminal's encoding lacks is no reason to end a long run.
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")
        yield StreamOutput(lambda: sys.stdout)
    elif is_folder(path):
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        yield FolderOutput(folder, output_names(inputs, suffix))
    else:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as files:
            yield StreamOutput(lambda: files.enter_context(replacing_file(Path(path))))


def is_folder(path: str) -> bool:
    """Whether `path` is, or is to become, a folder: what does not exist yet is one if it has no suffix."""
    if os.path.exists(path):
        return os.path.isdir(path)
    return path.endswith(("/", os.sep)) or not Path(path).suffix


@contextmanager
def replacing_file(path: Path):
    """A stream into a file beside `path`, which takes its place if all went well."""
    if path.exists() and not path.is_file():
        # A device or a pipe: written to, never replaced.
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
            yield stream
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
            yield stream
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def output_names(inputs: list[AudioInput], suffix: str) -> list[str]:
    """A file name for each input: its stem; where stems meet, its name, then its folders, then a number."""
    parts = [one.parts for one in inputs]
    depths = [0] * len(inputs)
    stems = list(map(_stem, parts, depths))
    while True:
        # Without regard to case: some file systems have none.
        counts = Counter(stem.casefold() for stem in stems)
        longer = [
            index
            for index, stem in enumerate(stems)
            if counts[stem.casefold()] > 1 and depths[index] < len(parts[index])
        ]
        if not longer:
            break
        for index in longer:
            depths[index] += 1
            stems[index] = _stem(parts[index], depths[index])
    return [stem + suffix for stem in _numbered(stems)]


def _stem(parts: list[str], depth: int) -> str:
    """["a", "b", "c.wav"] -> "c", "c.wav", "b-c.wav", "a-b-c.wav" at depths 0 to 3."""
    return "-".join(parts[-depth:]) if depth else Path(parts[-1]).stem


def _numbered(stems: list[str]) -> list[str]:
    """The same file, named twice, is written twice."""
    taken: set[str] = set()
    numbered = []
    for stem in stems:
        name, number = stem, 2
        while name.casefold() in taken:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name.casefold())
        numbered.append(name)
    return numbered
