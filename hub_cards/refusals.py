"""What must not be published: pickles, secrets, paths of this machine, files that the Hub does not take."""

from __future__ import annotations

import fnmatch
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import get_token
from speechllm.configuration.base_resolution import is_path

from .contents import Contents, in_bytes, size_of

# https://huggingface.co/docs/hub/storage-limits
FILE_LIMIT = 50 * 10**9
FILES_LIMIT = 10_000
# A text longer than this is not read for secrets.
TEXT_LIMIT = 64 * 10**6

PICKLE_SUFFIXES = (
    ".bin",
    ".pt",
    ".pth",
    ".pkl",
    ".pickle",
    ".ckpt",
    ".joblib",
    ".npy",
    ".npz",
    ".msgpack",
    ".h5",
)
BINARY_SUFFIXES = (
    ".safetensors",
    ".png",
    ".jpg",
    ".jpeg",
    ".wav",
    ".flac",
    ".ogg",
    ".mp3",
    ".arrow",
    ".parquet",
)
SECRET_FILES = (
    ".env",
    ".env.*",
    ".netrc",
    "id_rsa*",
    "id_ed25519*",
    "*.pem",
    "*.p12",
    "*.key",
    "credentials*",
)
SECRETS = {
    "a token of the Hub": re.compile(r"\bhf_[A-Za-z0-9]{30,}"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "an AWS key": re.compile(r"\bAKIA[0-9A-Z]{16}\b"),
    "a GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36,}"),
    "an OpenAI key": re.compile(r"\bsk-(?:proj-)?[A-Za-z0-9]{32,}"),
    "a Slack token": re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{20,}"),
    "a Google key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}"),
}
# What a tokenizer knows by heart is no path of anybody's.
VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt", "vocabulary.txt", "added_tokens.json")
PERSONAL_PATH = re.compile(
    r"(?<![\w/.:~-])(?:/(?:home|Users|root|tmp|scratch|mnt|media)/|[A-Z]:\\Users\\)[\w.@+-]+"
)


def problems(contents: Contents) -> list[str]:
    """One line for everything that must not go up; empty where all may."""
    found = [problem for path, source in contents.items() for problem in _of_file(path, source)]
    if len(contents) > FILES_LIMIT:
        found.append(
            f"{len(contents)} files; the Hub takes {FILES_LIMIT} in a folder: pack clips into archives"
        )
    return found


def refuse(contents: Contents) -> None:
    """Raise `ValueError` with the first problem, and how many more there are."""
    found = problems(contents)
    if found:
        more = f" (and {len(found) - 1} more: --dry-run lists them)" if len(found) > 1 else ""
        raise ValueError(f"nothing was pushed: {found[0]}{more}")


def _of_file(path: str, source: Path | bytes) -> Iterator[str]:
    size = size_of(source)
    if size > FILE_LIMIT:
        limit = in_bytes(FILE_LIMIT)
        yield f"{path} has {in_bytes(size)}; the Hub takes {limit} a file: save it in shards (max_shard_size)"
        return
    if isinstance(source, Path) and source.is_symlink():
        yield f"{path} is a link: put the file itself there"
        return
    for check in CHECKS:
        problem = check(path, source)
        if problem:
            yield problem
            return


def _pickle(path: str, source: Path | bytes) -> str | None:
    suffix = Path(path).suffix.lower()
    if suffix not in PICKLE_SUFFIXES and (suffix in BINARY_SUFFIXES or not _holds_pickle(source)):
        return None
    return f"{path} is or may hold a pickle, which runs code where it is loaded: save tensors as safetensors"


def _holds_pickle(source: Path | bytes) -> bool:
    start = source[:2] if isinstance(source, bytes) else _start(source)
    if isinstance(source, Path) and start == b"PK" and zipfile.is_zipfile(source):
        return any(name.endswith(".pkl") for name in zipfile.ZipFile(source).namelist())
    return len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5


def _secret(path: str, source: Path | bytes) -> str | None:
    if any(fnmatch.fnmatch(Path(path).name, pattern) for pattern in SECRET_FILES):
        return f"{path} is a file of secrets, by its name: remove it from the folder"
    text, own = _text(path, source), get_token()
    kind = next((kind for kind, pattern in SECRETS.items() if pattern.search(text)), None)
    kind = "your token" if own and own in text else kind
    return f"{path} holds {kind}: remove it, and have it replaced by a new one" if kind else None


def _path(path: str, source: Path | bytes) -> str | None:
    if Path(path).name in VOCABULARIES:
        return None
    text = _text(path, source)
    if path.endswith(".json"):
        try:
            place = next(_paths_in(json.loads(text)), None)
        except ValueError:
            return f"{path} is no JSON: it was not written to its end"
        if place is None:
            return None
        hint = (
            "; a base has to be named by its id on the Hub"
            if place[0] in ("encoder_id", "decoder_id")
            else ""
        )
        return f"{path} names a path of this machine: {place[0]} is {place[1]}{hint}"
    found = PERSONAL_PATH.search(text)
    return f"{path} names a path of this machine: {found[0]}" if found else None


CHECKS: tuple[Callable[[str, Path | bytes], str | None], ...] = (_pickle, _secret, _path)


def _paths_in(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """`(key, text)` of what is an absolute path somewhere in JSON."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _paths_in(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list):
        for value in values:
            yield from _paths_in(value, key)
    elif (
        isinstance(values, str)
        and "\n" not in values
        and (_is_absolute(values) or PERSONAL_PATH.search(values))
    ):
        yield key, values


def _is_absolute(text: str) -> bool:
    """Whether it is a path with a folder in it: "/" alone, or "/s", is punctuation."""
    return text.startswith("/") and is_path(text) and len(Path(text).parts) > 2 and " " not in text


def _start(source: Path) -> bytes:
    with open(source, "rb") as file:
        return file.read(2)


def _text(path: str, source: Path | bytes) -> str:
    """The text of a file, empty for what is none."""
    if Path(path).suffix.lower() in BINARY_SUFFIXES or size_of(source) > TEXT_LIMIT:
        return ""
    content = source if isinstance(source, bytes) else source.read_bytes()
    return "" if b"\0" in content[:4096] else content.decode("utf-8", errors="replace")
