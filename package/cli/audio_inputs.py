"""What a command is to hear: files, folders, patterns, addresses and standard input, as a list of sources."""

import glob
import os
import sys
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

# Which files of a folder are audio. A file that is named itself may be called anything.
AUDIO_SUFFIXES = {
    ".3gp", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".au", ".caf",
    ".flac", ".flv", ".m4a", ".m4b", ".mka", ".mkv", ".mov", ".mp2", ".mp3", ".mp4",
    ".oga", ".ogg", ".opus", ".snd", ".w64", ".wav", ".wave", ".webm", ".wma", ".wv",
}  # fmt: skip
STANDARD_INPUT = "-"


@dataclass(frozen=True)
class AudioInput:
    """One source: how it was named, and what `open_audio` takes for it."""

    name: str
    source: Any

    @property
    def label(self) -> str:
        """The name on one line, in characters that can be shown."""
        return printable(self.name)

    @property
    def parts(self) -> list[str]:
        """The name's path, from the root to the file; "stdin" where there is none."""
        if self.name == STANDARD_INPUT:
            return ["stdin"]
        path = unquote(urlsplit(self.name).path) if is_url(self.name) else self.name
        # Both separators, as an address has "/" on every system.
        parts = [part for part in path.replace(os.sep, "/").split("/") if part not in ("", ".", "..")]
        return parts or ["audio"]


def find_inputs(words: list[str]) -> tuple[list[AudioInput], list[tuple[str, str]]]:
    """The sources that `words` name, in their order, and `(name, reason)` for what cannot be searched."""
    if words.count(STANDARD_INPUT) > 1:
        raise ValueError(f"standard input ({STANDARD_INPUT}) can be read only once")
    problems: list[tuple[str, str]] = []
    inputs = [one for word in words for one in _expand(word, problems)]
    return inputs, problems


def printable(name: str) -> str:
    """`name` with its line ends, tabs and undecodable bytes as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def names_one(words: list[str]) -> bool:
    """Whether `words` are one file, address or standard input, and not something that may hold several."""
    return len(words) == 1 and not os.path.isdir(words[0]) and not _is_pattern(words[0])


def is_url(word: str) -> bool:
    return word.lower().startswith(("http://", "https://", "file://"))


def _expand(word: str, problems: list[tuple[str, str]]) -> list[AudioInput]:
    if word == STANDARD_INPUT:
        if sys.stdin.isatty():
            problems.append((word, "standard input is a terminal; pipe or redirect an audio file into it"))
            return []
        return [AudioInput(word, sys.stdin.buffer)]
    if os.path.isdir(word):
        paths = _audio_files(word, problems)
        if not paths:
            problems.append((word, "there are no audio files in this folder"))
    elif _is_pattern(word):
        matches = sorted(glob.glob(word, recursive=True))
        paths = [
            path
            for match in matches
            for path in (_audio_files(match, problems) if os.path.isdir(match) else [match])
        ]
        if not paths:
            problems.append((word, "no such file, and none matches it as a pattern"))
    else:
        # A file that is missing is found out, and told, by whoever reads it.
        paths = [word]
    return [AudioInput(path, path) for path in paths]


def _is_pattern(word: str) -> bool:
    return glob.has_magic(word) and not is_url(word) and not os.path.exists(word)


def _audio_files(folder: str, problems: list[tuple[str, str]]) -> list[str]:
    """Paths of the audio files below `folder`, sorted; whatever is hidden is left out."""
    found = []
    walk = os.walk(folder, onerror=lambda error: problems.append((error.filename, str(error.strerror))))
    for root, folders, names in walk:
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            os.path.join(root, name)
            for name in names
            if os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES and not name.startswith(".")
        ]
    return sorted(found)
