"""What goes into a repository: paths in it, and the file or bytes behind each."""

from __future__ import annotations

import json
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from speechllm.remote_code import REGISTRATIONS, registered, remote_code

from .dataset_card import dataset_card
from .model_card import model_card
from .rendering import TEMPLATES, may_be_replaced
from .run_facts import RESULTS, RunFacts, without_private_paths

Contents = dict[str, Path | bytes]

CARD = "README.md"
# Folders that tools make for themselves.
TOOLS_FOLDERS = (".git", ".cache", "__pycache__", ".ipynb_checkpoints")
PACKAGE = "speechllm"


def folder_contents(folder: Path) -> Contents:
    """Every file below a folder, but for what tools keep there."""
    found: Contents = {}
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if path.is_file() and not any(part in TOOLS_FOLDERS for part in inner.parts):
            found[inner.as_posix()] = path
    return found


def model_contents(run: RunFacts, repo_id: str | None = None) -> Contents:
    """A checkpoint with its card, pictures, code, results and endpoint handler.

    A card that somebody wrote or changed stays as it is; one that a program wrote is made anew.
    """
    contents = folder_contents(run.checkpoint)
    card = model_card(run, repo_id)
    own = contents.get(CARD)
    if not isinstance(own, Path) or may_be_replaced(own.read_text(encoding="utf-8")):
        contents |= {CARD: card.text.encode(), **card.files}
    contents |= _missing_code(contents)
    if RESULTS in contents:
        public = json.dumps(without_private_paths(run.results), indent=2, ensure_ascii=False) + "\n"
        contents[RESULTS] = public.encode()
    if "handler.py" not in contents:
        contents["handler.py"] = TEMPLATES / "handler.py"
        contents.setdefault("requirements.txt", "\n".join([*requirements(), ""]).encode())
    return dict(sorted(contents.items()))


def _missing_code(contents: Contents) -> Contents:
    """Code and its registration, for a checkpoint that travels with the package and so has none."""
    if "configuration_speechllm.py" in contents:
        return {}
    configs = {name: contents[name] for name in REGISTRATIONS if name in contents}
    return {
        **{name: source.encode() for name, source in remote_code().items()},
        **{name: registered(path).encode() for name, path in configs.items() if isinstance(path, Path)},
    }


def corpus_contents(folder: Path, repo_id: str | None = None) -> Contents:
    """Manifests, sound and report of a corpus, with its card."""
    contents = folder_contents(folder)
    own = contents.get(CARD)
    if not isinstance(own, Path) or may_be_replaced(own.read_text(encoding="utf-8")):
        contents[CARD] = dataset_card(folder, repo_id).text.encode()
    return dict(sorted(contents.items()))


def requirements(*extras: str) -> list[str]:
    """What the installed package needs, with these extras."""
    found = []
    for line in requires(PACKAGE) or []:
        requirement = Requirement(line)
        wanted = not requirement.marker or any(requirement.marker.evaluate({"extra": one}) for one in extras)
        if wanted:
            found.append(f"{requirement.name}{requirement.specifier}")
    return sorted(set(found))


def size_of(source: Path | bytes) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def listing(contents: Contents) -> list[str]:
    """A line a file, its size first; then the sum."""
    sizes = {path: size_of(source) for path, source in contents.items()}
    lines = [f"{in_bytes(size):>9}  {path}" for path, size in sizes.items()]
    return [*lines, f"{in_bytes(sum(sizes.values())):>9}  in {len(sizes)} files"]


def in_bytes(size: int) -> str:
    """1234567 -> "1.2 MB"."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
