"""Where a frozen base comes from: a folder of bases, else the Hub or its cache at a pinned revision."""

import json
import os
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig

BASES_VARIABLE = "SPEECHLLM_BASES"
MANIFEST = "speechllm_base.json"

# Arguments of `from_pretrained` that say how to fetch, not what to build.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "proxies")


def hub_arguments(arguments: dict) -> dict:
    """The part of `arguments` that a base's own `from_pretrained` needs to fetch its files."""
    return {name: arguments[name] for name in HUB_ARGUMENTS if arguments.get(name) is not None}


def is_path(base_id: str) -> bool:
    """Whether this can only be a folder, and no id on the Hub."""
    return os.path.isabs(base_id) or base_id.startswith((".", "~"))


def folder_name(base_id: str) -> str:
    """ "openai/whisper-base" -> "openai--whisper-base"; a path gives its last part."""
    return Path(base_id).name if is_path(base_id) else base_id.replace("/", "--")


def default_bases_folder() -> Path:
    """Where `speechllm bases install` puts bases if it is not told: in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "speechllm" / "bases"


def bases_folders(bases: str | os.PathLike | None = None) -> list[Path]:
    """The folders that may hold a base, in the order in which they are asked."""
    named = [folder for folder in (bases, os.environ.get(BASES_VARIABLE)) if folder]
    return [*(Path(folder).expanduser() for folder in named), default_bases_folder()]


def local_base(base_id: str, bases: str | os.PathLike | None = None) -> Path | None:
    """Folder of `base_id` below one of the folders of bases, or the path that the id itself is."""
    below = [root / folder_name(base_id) for root in bases_folders(bases)]
    found = (path for path in (*below, Path(base_id).expanduser()) if path.is_dir())
    return next(found, None)


def resolve_base(base_id: str, revision: str | None = None, bases=None) -> tuple[str, dict]:
    """What to pass to `from_pretrained`, and the keywords to it: `(folder, {})` or `(id, {"revision": ...})`.

    A folder whose manifest names another revision than the pinned one is refused: its weights may differ.
    """
    folder = local_base(base_id, bases)
    if folder is None:
        return base_id, {"revision": revision} if revision else {}
    held = manifest_revision(folder)
    if revision and held and held != revision:
        raise ValueError(
            f"base {base_id} is pinned to revision {revision}, but {folder} holds {held}: "
            f"name a folder with that revision in {BASES_VARIABLE}, or remove this one and "
            f"`speechllm bases install {base_id} --revision {revision}`"
        )
    return str(folder), {}


def manifest_revision(folder: Path) -> str | None:
    """The revision a base folder says it holds, if it says so."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return None
    try:
        return json.loads(manifest.read_text(encoding="utf-8"))["revision"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{manifest} is damaged: delete {folder} and install the base again") from None


def load_base(loader, base_id: str | None, revision: str | None = None, bases=None, **arguments):
    """`loader(source, **arguments)` for a base, with failures told in one line."""
    if not base_id:
        raise ValueError("this config names no base: build it with from_bases, or load a saved checkpoint")
    source, pinned = resolve_base(base_id, revision, bases)
    if is_path(source) and not Path(source).expanduser().is_dir():
        raise FileNotFoundError(
            f"base model {base_id}: there is no such folder; name a folder that holds "
            f"{folder_name(base_id)} in {BASES_VARIABLE}"
        )
    try:
        return loader(source, **pinned, **arguments)
    except OSError as error:
        at = f" at revision {revision}" if revision else ""
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        wanted = f"{base_id} --revision {revision}" if revision else base_id
        raise OSError(
            f"base model {base_id}{at} cannot be read ({reason}): install it with "
            f"`speechllm bases install {wanted}`, or name a folder that holds {folder_name(base_id)} "
            f"in {BASES_VARIABLE}"
        ) from error


def base_config(base_id: str, revision: str | None = None, bases=None, **hub):
    """`(config, revision)` of a base; the revision is the exact commit where it is known."""
    config = load_base(AutoConfig.from_pretrained, base_id, revision, bases, **hub)
    folder = local_base(base_id, bases)
    if folder is not None:
        return config, manifest_revision(folder) or revision
    return config, commit_of(base_id, revision, hub) or revision


def commit_of(base_id: str, revision: str | None, hub: dict) -> str | None:
    """The commit behind a branch or tag, read from the cache entry that the config was just loaded from."""
    cached = try_to_load_from_cache(
        base_id, "config.json", cache_dir=hub.get("cache_dir"), revision=revision or "main"
    )
    return Path(cached).parent.name if isinstance(cached, str) else None
