"""The repositories of the stand-in for the Hub, as plain files.

The folder of a repository holds a folder of files for each commit, a `<commit>.json` beside it (title, date,
parent, which files are large), `refs/heads`, `refs/tags` and `settings.json`.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

Tree = dict[str, tuple[bytes, str | None]]  # content and, of a large file, its SHA-256, by path
INITIAL_TREE: Tree = {".gitattributes": (b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", None)}


class HubError(Exception):
    """A refusal; by `code`, the header X-Error-Code, the client chooses its exception."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str):
        super().__init__(message)
        self.status, self.headers = status, {"X-Error-Message": ascii(message)[1:-1], **headers}
        if code is not None:
            self.headers["X-Error-Code"] = code


def git_blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class StoredFile:
    path: str
    location: Path
    sha256: str | None  # of a large file only

    def read(self) -> bytes:
        return self.location.read_bytes()

    def describe(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": self.path, "size": self.location.stat().st_size}
        if self.sha256 is None:
            return {**entry, "oid": git_blob_id(self.read())}
        version = "version https://git-lfs.github.com/spec/v1"
        pointer = f"{version}\noid sha256:{self.sha256}\nsize {entry['size']}\n".encode()
        # The tree calls the hash of a large file "oid", the repository's info "sha256".
        large = {
            "oid": self.sha256,
            "sha256": self.sha256,
            "size": entry["size"],
            "pointerSize": len(pointer),
        }
        return {**entry, "oid": git_blob_id(pointer), "lfs": large}


class Repository:
    def __init__(self, folder: Path, repo_id: str):
        self.folder, self.id = folder, repo_id

    def exists(self) -> bool:
        return (self.folder / "settings.json").is_file()

    @property
    def settings(self) -> dict[str, Any]:
        return json.loads((self.folder / "settings.json").read_text())

    def create(self, settings: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / "settings.json").write_text(json.dumps(settings))
        self._write_commit("main", None, "initial commit", INITIAL_TREE)

    def ref_file(self, kind: str, name: str) -> Path:
        return self.folder / "refs" / kind / quote(name, safe="")

    def refs(self, kind: str) -> dict[str, str]:
        files = sorted((self.folder / "refs" / kind).glob("*"))
        return {unquote(file.name): file.read_text() for file in files}

    def set_ref(self, kind: str, name: str, commit: str) -> None:
        self.ref_file(kind, name).parent.mkdir(parents=True, exist_ok=True)
        self.ref_file(kind, name).write_text(commit)

    def resolve(self, revision: str) -> str:
        names = {**self.refs("tags"), **self.refs("heads")}
        if revision in names:
            return names[revision]
        if re.fullmatch(r"[0-9a-f]{40}", revision) and (self.folder / revision).is_dir():
            return revision
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def manifest(self, commit: str) -> dict[str, Any]:
        return json.loads((self.folder / f"{commit}.json").read_text())

    def files(self, commit: str) -> dict[str, StoredFile]:
        top, large = self.folder / commit, self.manifest(commit)["large"]
        paths = sorted(file.relative_to(top).as_posix() for file in top.rglob("*") if file.is_file())
        return {path: StoredFile(path, top / path, large.get(path)) for path in paths}

    def tree(self, commit: str) -> dict[str, dict[str, Any]]:
        """Every folder and file, by path."""
        entries = {}
        for path, file in self.files(commit).items():
            for folder in [parent.as_posix() for parent in Path(path).parents][:-1]:
                folder_id = hashlib.sha1(f"{commit}/{folder}".encode()).hexdigest()
                entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": folder_id}
            entries[path] = file.describe()
        return entries

    def commit(self, branch: str, title: str, operations: Iterable[dict], large_files: Path) -> str:
        """Apply the client's operations to the head of a branch; returns the id of the new commit."""
        if branch not in self.refs("heads"):
            raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        parent = self.resolve(branch)
        tree: Tree = {path: (file.read(), file.sha256) for path, file in self.files(parent).items()}
        for operation in operations:
            value, path = operation["value"], operation["value"]["path"].rstrip("/")
            if any(part in ("", ".", "..") for part in path.split("/")):
                raise HubError(400, f"a file cannot be stored at {path!r}")
            match operation["key"]:
                case "file":
                    tree[path] = base64.b64decode(value["content"]), None
                case "lfsFile":
                    if not (large_files / value["oid"]).is_file():
                        raise HubError(400, f"the large file {path} was not uploaded before it was committed")
                    tree[path] = (large_files / value["oid"]).read_bytes(), value["oid"]
                case "deletedFile" | "deletedFolder" as kind:
                    inside = f"{path}/"
                    gone = [name for name in tree if name == path or name.startswith(inside)]
                    if not gone or (kind == "deletedFile") != (path in tree):
                        raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
                    for name in gone:
                        del tree[name]
        return self._write_commit(branch, parent, title, tree)

    def _write_commit(self, branch: str, parent: str | None, title: str, tree: Tree) -> str:
        # The count of commits tells apart two that bring the same content to the same parent.
        count = len(list(self.folder.glob("*.json")))
        content = sorted((path, git_blob_id(data)) for path, (data, _) in tree.items())
        commit = hashlib.sha1(json.dumps([self.id, parent, title, count, content]).encode()).hexdigest()
        (self.folder / commit).mkdir()
        for path, (data, _) in tree.items():
            (self.folder / commit / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / commit / path).write_bytes(data)
        manifest = {
            "title": title,
            "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "parent": parent,
            "large": {path: sha256 for path, (_, sha256) in tree.items() if sha256},
        }
        (self.folder / f"{commit}.json").write_text(json.dumps(manifest))
        self.set_ref("heads", branch, commit)
        return commit
