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


def folder_name(base_id: str) -> str:
    """ "openai/whisper-base" -> "openai--whisper-base"; a path gives its last part."""
    return Path(base_id).name if os.path.isabs(base_id) else base_id.strip("./").replace("/", "--")


def local_base(base_id: str, bases: str | os.PathLike | None = None) -> Path | None:
    """Folder of `base_id` below `bases` or below the environment's folder, or the path that the id itself is."""
    for root in (bases, os.environ.get(BASES_VARIABLE)):
        if root and (Path(root) / folder_name(base_id)).is_dir():
            return Path(root) / folder_name(base_id)
    return Path(base_id) if Path(base_id).is_dir() else None


def resolve_base(base_id: str, revision: str | None = None, bases=None) -> tuple[str, dict]:
    """What to pass to `from_pretrained`, and with which keywords: `(folder, {})` or `(id, {"revision": ...})`.

    A folder whose manifest names another revision than the pinned one is refused: its weights may differ.
    """
    folder = local_base(base_id, bases)
    if folder is None:
        return base_id, {"revision": revision} if revision else {}
    held = manifest_revision(folder)
    if revision and held and held != revision:
        raise ValueError(f"base {base_id} is pinned to revision {revision}, but {folder} holds {held}")
    return str(folder), {}


def manifest_revision(folder: Path) -> str | None:
    """The revision a base folder says it holds, if it says so."""
    manifest = folder / MANIFEST
    return json.loads(manifest.read_text())["revision"] if manifest.is_file() else None


def load_base(loader, base_id: str, revision: str | None = None, bases=None, **arguments):
    """`loader(source, **arguments)` for a base, with failures told in one line."""
    source, pinned = resolve_base(base_id, revision, bases)
    try:
        return loader(source, **pinned, **arguments)
    except OSError as error:
        at = f" at revision {revision}" if revision else ""
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OSError(
            f"base model {base_id}{at} cannot be read ({reason}): install it with `speechllm bases install {base_id}`, "
            f"or name a folder that holds {folder_name(base_id)} in {BASES_VARIABLE}"
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
