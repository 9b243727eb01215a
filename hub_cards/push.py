"""Brings files to the Hub, in one commit, and says in one line why it could not."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from .contents import CARD, Contents
from .refusals import refuse
from .rendering import may_be_replaced

# Of these, what the new contents lack would be loaded or imported beside them.
REPLACED = ("*.safetensors", "*.safetensors.index.json", "*.py")
READ_ONLY = "read"


@dataclass(frozen=True)
class Destination:
    """Where files go. `kind`: model, dataset or space; `options`: of `create_repo`, for a new repository."""

    repo_id: str
    kind: str = "model"
    public: bool = False
    revision: str | None = None
    tag: str | None = None
    message: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def push(contents: Contents, to: Destination, api: HfApi, report: Callable[[str], None] = print) -> str:
    """Upload, and tag; the id of the commit.

    A repository that is made is private unless `to.public`; one that is public already is refused without it.
    Weights and code of an earlier push that are not in `contents` are removed; a card that somebody wrote
    there stays.
    """
    refuse(contents)
    with faults_in_one_line(to, api):
        check_rights(to, api)
        fresh = prepare(to, api)
        if not fresh and _keeps_card(contents, to, api):
            contents = {path: source for path, source in contents.items() if path != CARD}
            report(f"{to.repo_id} keeps its {CARD}, which somebody wrote")
        there = [] if fresh else api.list_repo_files(to.repo_id, repo_type=to.kind, revision=to.revision)
        old = [
            path
            for path in there
            if path not in contents and any(fnmatch.fnmatch(path, one) for one in REPLACED)
        ]
        operations: list[Any] = [
            CommitOperationAdd(path, source if isinstance(source, bytes) else str(source))
            for path, source in contents.items()
        ]
        operations += [CommitOperationDelete(path) for path in old]
        commit = api.create_commit(
            to.repo_id,
            operations,
            commit_message=to.message or f"Push {to.kind} with speechllm",
            repo_type=to.kind,
            revision=to.revision,
        )
        if to.tag:
            api.create_tag(to.repo_id, tag=to.tag, revision=commit.oid, repo_type=to.kind)
    for path in old:
        report(f"removed {path}, of an earlier push")
    return commit.oid


def check_rights(to: Destination, api: HfApi) -> None:
    """Raise `ValueError` where the token can't write to the repository."""
    validate_repo_id(to.repo_id)
    owner, separator, _ = to.repo_id.partition("/")
    if not separator:
        raise ValueError(f"{to.repo_id!r} has no owner: say OWNER/NAME")
    me = api.whoami()
    mine = [me["name"], *(one["name"] for one in me.get("orgs") or [])]
    if owner not in mine:
        raise ValueError(f"{to.repo_id} is not yours: your token is of {', '.join(mine)}")
    if (me.get("auth") or {}).get("accessToken", {}).get("role") == READ_ONLY:
        raise ValueError(
            "your token may only read: make one that may write, at huggingface.co/settings/tokens"
        )


def prepare(to: Destination, api: HfApi) -> bool:
    """Make repository and branch where they are missing; whether the repository is new."""
    try:
        known = api.repo_info(to.repo_id, repo_type=to.kind)
    except RepositoryNotFoundError:
        api.create_repo(to.repo_id, repo_type=to.kind, private=not to.public, **to.options)
        fresh = True
    else:
        fresh = False
        if not known.private and not to.public:
            raise ValueError(f"{to.repo_id} is public: say --public if everybody may see what you push")
        if to.tag and to.tag in [one.name for one in api.list_repo_refs(to.repo_id, repo_type=to.kind).tags]:
            raise ValueError(f"{to.repo_id} has a tag {to.tag!r} already: name another")
    if to.revision:
        api.create_branch(to.repo_id, branch=to.revision, repo_type=to.kind, exist_ok=True)
    return fresh


@contextlib.contextmanager
def faults_in_one_line(to: Destination, api: HfApi) -> Iterator[None]:
    """What the Hub and the way to it may answer, as `ValueError` or `OSError` that says what to do."""
    try:
        yield
    except LocalTokenNotFoundError:
        raise ValueError("there is no token: run `hf auth login`, or set HF_TOKEN") from None
    except OfflineModeIsEnabled:
        raise OSError("HF_HUB_OFFLINE is set: nothing can be pushed") from None
    except HFValidationError as error:
        raise ValueError(f"{to.repo_id!r} is no name for a repository: {error}") from None
    except HfHubHTTPError as error:
        raise OSError(_answer(error, to, api)) from error
    except HTTPError as error:
        raise OSError(f"{api.endpoint} can't be reached: {error}") from error


def _answer(error: HfHubHTTPError, to: Destination, api: HfApi) -> str:
    status, said = error.response.status_code, error.server_message or str(error).splitlines()[0]
    known = {
        401: f"{api.endpoint} does not accept your token: run `hf auth login` again, or set HF_TOKEN",
        403: f"your token may not write to {to.repo_id} ({said})",
        404: f"{to.repo_id} is not there, or not for you to see ({said})",
        413: f"{to.repo_id}: the Hub found a file too large ({said})",
    }
    return known.get(status, f"{api.endpoint} answered {status}: {said}")


def _keeps_card(contents: Contents, to: Destination, api: HfApi) -> bool:
    """Whether our card would replace one that somebody wrote. A card that lies in the folder was meant."""
    own = contents.get(CARD)
    if not isinstance(own, bytes):
        return False
    try:
        path = api.hf_hub_download(to.repo_id, CARD, repo_type=to.kind, revision=to.revision)
    except EntryNotFoundError:
        return False
    with open(path, encoding="utf-8") as file:
        return not may_be_replaced(file.read())
