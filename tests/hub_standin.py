"""A Hub on the loopback interface: what `huggingface_hub` asks of the real one, answered from plain files.

    with HubStandIn(folder) as hub:
        HfApi(endpoint=hub.endpoint, token=hub.token).create_repo("me/model")

Repositories lie in `<root>/<org>/<name>`, those of data sets and Spaces in `<root>/datasets/<org>/<name>` and
`<root>/spaces/<org>/<name>`: see hub_repository.py.

The client never asks whether there is Xet storage: with `hf_xet` installed it sends every large file there,
so a test that uploads one sets HF_HUB_DISABLE_XET=1, as `HubStandIn.environment` does, or raises
`large_from`. Pull requests, gated repositories and .gitignore rules are not offered.
"""

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Sequence
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from hub_http import LoopbackServer, Reply, Request, json_reply
from hub_repository import HubError, Repository


def read_card(text: str) -> Any:
    """The YAML between the two `---` lines that open a card, None where there is none."""
    front_matter = re.match(r"---\r?\n(.*?)^---\s*$", text, re.DOTALL | re.MULTILINE)
    return yaml.safe_load(front_matter[1]) if front_matter else None


# Method, path, handler, and what the caller must be allowed to do with {repo}. A {revision} or {name} is one
# segment: the client quotes the slashes in it.
ROUTES = (
    ("GET", "/api/whoami-v2", "whoami", ""),
    ("POST", "/api/validate-yaml", "validate_card", ""),
    ("POST", "/api/repos/create", "create_repo", ""),
    ("DELETE", "/api/repos/delete", "delete_repo", ""),
    ("GET", "/api/{kind}/{repo}", "repo_info", "read"),
    ("GET", "/api/{kind}/{repo}/revision/{revision}", "repo_info", "read"),
    ("GET", "/api/{kind}/{repo}/tree/{revision}", "list_tree", "read"),
    ("GET", "/api/{kind}/{repo}/tree/{revision}/{path}", "list_tree", "read"),
    ("POST", "/api/{kind}/{repo}/paths-info/{revision}", "paths_info", "read"),
    ("GET", "/api/{kind}/{repo}/refs", "list_refs", "read"),
    ("GET", "/api/{kind}/{repo}/commits/{revision}", "list_commits", "read"),
    ("POST", "/api/{kind}/{repo}/branch/{name}", "create_branch", "write"),
    ("POST", "/api/{kind}/{repo}/tag/{revision}", "create_tag", "write"),
    ("POST", "/api/{kind}/{repo}/preupload/{revision}", "preupload", "write"),
    ("POST", "/api/{kind}/{repo}/commit/{revision}", "commit", "write"),
    ("GET", "/api/{kind}/{repo}/xet-write-token/{revision}", "refuse_xet", "write"),
    ("POST", "/{prefix}{repo}.git/info/lfs/objects/batch", "large_file_batch", "write"),
    ("POST", "/{prefix}{repo}.git/info/lfs/verify", "verify_large_file", "write"),
    ("PUT", "/large-files/{sha256}", "store_large_file", ""),
    ("GET", "/{prefix}{repo}/resolve/{revision}/{path}", "download", "read"),
)
PARTS = {
    "kind": r"(?P<kind>models|datasets|spaces)",
    "prefix": r"(?:(?P<kind>datasets|spaces)/)?",
    "repo": r"(?P<repo>\w[\w.-]*/\w[\w.-]*)",
    "revision": r"(?P<revision>[^/]+)",
    "name": r"(?P<name>[^/]+)",
    "path": r"(?P<path>.+)",
    "sha256": r"(?P<sha256>[0-9a-f]{64})",
}


def compiled(path: str) -> re.Pattern[str]:
    return re.compile(path.replace(".git", r"\.git").format(**PARTS))


MATCHERS = [(method, compiled(path), handler, access) for method, path, handler, access in ROUTES]


class HubStandIn:
    """Serves `root` while it is entered; `requests` lists the (method, path) pairs seen, in order.

    `token` may read and write in each of `namespaces`, of which the first is the user's own. A file of more
    than `large_from` bytes is uploaded as a large one, on the Hub one of more than 10 MB.
    """

    def __init__(
        self,
        root: Path,
        token: str = "hf_standin",
        namespaces: Sequence[str] = ("me",),
        large_from: int = 10_000,
    ):
        self.root, self.token, self.namespaces, self.large_from = root, token, namespaces, large_from
        self.requests: list[tuple[str, str]] = []
        self.large_files = root / ".large_files"
        self.large_files.mkdir(parents=True, exist_ok=True)
        self._one_at_a_time = threading.Lock()
        self._server = LoopbackServer(self.answer)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubStandIn":
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that make another process use this Hub, with its cache in `home`."""
        switches = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS")
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_TOKEN": self.token,
            **dict.fromkeys(switches, "1"),
        }

    def answer(self, method: str, target: str, headers: Message, body: bytes) -> Reply:
        """Find the route, check that the caller may take it, and let its handler answer."""
        url = urlsplit(target)
        self.requests.append((method, url.path))
        try:
            for route_method, pattern, handler, access in MATCHERS:
                found = pattern.fullmatch(url.path)
                if found and route_method == ("GET" if method == "HEAD" else method):
                    args = {name: unquote(value) for name, value in found.groupdict().items() if value}
                    request = Request(args, parse_qs(url.query), headers, body, self._authenticate(headers))
                    with self._one_at_a_time:
                        if access:
                            request.repo = self._repository(request, access)
                        return getattr(self, handler)(request)
            raise HubError(404, f"the stand-in for the Hub does not offer {method} {url.path}")
        except HubError as refusal:
            return json_reply({"error": str(refusal)}, refusal.status, refusal.headers)
        except Exception as failure:  # a 5xx would make the client try again for half a minute
            return json_reply({"error": f"the stand-in for the Hub failed: {failure!r}"}, 400)

    def _authenticate(self, headers: Message) -> bool:
        given = headers.get("Authorization")
        if given not in (None, f"Bearer {self.token}"):
            # By exactly this message the client tells a wrong token from a repository that it may not see.
            raise HubError(401, "Invalid credentials in Authorization header")
        return given is not None

    def _repository(self, request: Request, access: str) -> Repository:
        repo_id = request.args["repo"]
        repo = Repository(self.root / request.type_prefix / repo_id, repo_id)
        owned = request.authenticated and repo_id.split("/")[0] in self.namespaces
        visible = repo.exists() and (owned or not repo.settings["private"])
        if access != "create" and not visible:
            # Without a token the Hub does not tell a missing repository from a private one.
            raise HubError(404 if request.authenticated else 401, "Repository not found", "RepoNotFound")
        if access != "read" and not owned:
            raise HubError(403 if request.authenticated else 401, f"No right to write to {repo_id}")
        return repo

    def _repository_in_body(self, request: Request, access: str) -> Repository:
        body = request.json()
        owner = body.get("organization") or self.namespaces[0]
        request.args = {"repo": f"{owner}/{body['name']}", "kind": f"{body.get('type') or 'model'}s"}
        return self._repository(request, access)

    def _url(self, request: Request) -> str:
        return f"{self.endpoint}/{request.type_prefix}{request.args['repo']}"

    def whoami(self, request: Request) -> Reply:
        if not request.authenticated:
            raise HubError(401, "Invalid username or password.")
        user, *organizations = self.namespaces
        orgs = [{"type": "org", "name": name, "roleInOrg": "admin"} for name in organizations]
        access_token = {"displayName": "stand-in", "role": "write"}
        auth = {"type": "access_token", "accessToken": access_token}
        return json_reply({"type": "user", "name": user, "fullname": user, "orgs": orgs, "auth": auth})

    def validate_card(self, request: Request) -> Reply:
        try:
            card = read_card(request.json()["content"])
        except yaml.YAMLError as broken:
            return json_reply({"errors": [{"message": str(broken)}], "warnings": []}, 400)
        if card is not None and not isinstance(card, dict):
            return json_reply({"errors": [{"message": "metadata must be a mapping"}], "warnings": []}, 400)
        warnings = [] if card else [{"message": "empty or missing yaml metadata in repo card"}]
        return json_reply({"errors": [], "warnings": warnings})

    def create_repo(self, request: Request) -> Reply:
        repo = self._repository_in_body(request, "create")
        created = {"url": self._url(request), "name": repo.id, "id": repo.id}
        if repo.exists():
            return json_reply({**created, "error": "You already created this repo"}, 409)
        body = request.json()
        repo.create({"private": body.get("visibility") == "private", "sdk": body.get("sdk")})
        return json_reply(created)

    def delete_repo(self, request: Request) -> Reply:
        shutil.rmtree(self._repository_in_body(request, "write").folder)
        return json_reply({})

    def repo_info(self, request: Request) -> Reply:
        repo = request.repo
        commit = repo.resolve(request.args.get("revision", "main"))
        files = repo.files(commit)
        siblings = [{"rfilename": path} for path in files]
        if "blobs" in request.query:
            described = [file.describe() for file in files.values()]
            siblings = [{"rfilename": it["path"], "blobId": it["oid"], **it} for it in described]
        card = read_card(files["README.md"].read().decode()) if "README.md" in files else None
        settings = {name: value for name, value in repo.settings.items() if value is not None}
        standing = {"gated": False, "disabled": False, "downloads": 0, "likes": 0}
        tags = (card or {}).get("tags", [])
        info = {"id": repo.id, "author": repo.id.split("/")[0], "sha": commit, "siblings": siblings}
        dates = {"lastModified": repo.manifest(commit)["date"]}
        return json_reply({**info, **settings, **standing, **dates, "cardData": card, "tags": tags})

    def list_tree(self, request: Request) -> Reply:
        commit, under = request.repo.resolve(request.args["revision"]), request.args.get("path")
        tree = request.repo.tree(commit)
        if under and tree.get(under, {}).get("type") != "directory":
            raise HubError(404, f"{under} does not exist on this revision", "EntryNotFound")
        prefix = f"{under}/" if under else ""
        below = {path[len(prefix) :]: entry for path, entry in tree.items() if path.startswith(prefix)}
        recursive = request.query.get("recursive", ["false"])[0].lower() in ("1", "true")
        return json_reply([entry for path, entry in below.items() if recursive or "/" not in path])

    def paths_info(self, request: Request) -> Reply:
        tree = request.repo.tree(request.repo.resolve(request.args["revision"]))
        asked = parse_qs(request.body.decode()).get("paths", [])
        return json_reply([tree[path.rstrip("/")] for path in asked if path.rstrip("/") in tree])

    def list_refs(self, request: Request) -> Reply:
        lists: dict[str, list] = {"converts": [], "pullRequests": []}
        for name, kind in (("branches", "heads"), ("tags", "tags")):
            refs = request.repo.refs(kind).items()
            lists[name] = [
                {"name": ref, "ref": f"refs/{kind}/{ref}", "targetCommit": sha} for ref, sha in refs
            ]
        return json_reply(lists)

    def list_commits(self, request: Request) -> Reply:
        commit, log = request.repo.resolve(request.args["revision"]), []
        while commit:
            manifest = request.repo.manifest(commit)
            authors = [{"user": self.namespaces[0]}]
            log.append({"id": commit, "authors": authors, "message": "", **manifest})
            commit = manifest["parent"]
        return json_reply(log)

    def create_branch(self, request: Request) -> Reply:
        start = request.json().get("startingPoint", "main")
        return self._create_ref(request.repo, "heads", request.args["name"], start)

    def create_tag(self, request: Request) -> Reply:
        return self._create_ref(request.repo, "tags", request.json()["tag"], request.args["revision"])

    def _create_ref(self, repo: Repository, kind: str, name: str, revision: str) -> Reply:
        if name in repo.refs(kind):
            raise HubError(409, f"Reference already exists: {name}")
        repo.set_ref(kind, name, repo.resolve(revision))
        return json_reply({})

    def preupload(self, request: Request) -> Reply:
        present = request.repo.files(request.repo.resolve(request.args["revision"]))
        answers = []
        for file in request.json()["files"]:
            mode = "lfs" if file["size"] > self.large_from else "regular"
            known = present.get(file["path"])
            # The client leaves out a file whose content it finds here: SHA-256 of a large one, else git's id.
            oid = (known.sha256 or known.describe()["oid"]) if known else None
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return json_reply({"files": answers})

    def refuse_xet(self, request: Request) -> Reply:
        raise HubError(400, "the stand-in for the Hub has no Xet storage: set HF_HUB_DISABLE_XET=1")

    def commit(self, request: Request) -> Reply:
        if "create_pr" in request.query:
            raise HubError(400, "the stand-in for the Hub offers no pull requests")
        repo, branch = request.repo, request.args["revision"]
        header, *operations = [json.loads(line) for line in request.body.splitlines()]
        expected = header["value"].get("parentCommit")
        if expected and not repo.resolve(branch).startswith(expected):
            raise HubError(412, f"A commit has happened since {expected}")
        commit = repo.commit(branch, header["value"]["summary"], operations, self.large_files)
        return json_reply(
            {"success": True, "commitOid": commit, "commitUrl": f"{self._url(request)}/commit/{commit}"}
        )

    def large_file_batch(self, request: Request) -> Reply:
        objects = []
        for asked in request.json()["objects"]:
            upload = {"href": f"{self.endpoint}/large-files/{asked['oid']}"}
            verify = {"href": f"{self._url(request)}.git/info/lfs/verify"}
            actions = {"actions": {"upload": upload, "verify": verify}}
            stored = (self.large_files / asked["oid"]).is_file()
            objects.append({"oid": asked["oid"], "size": asked["size"], **({} if stored else actions)})
        return json_reply({"transfer": "basic", "objects": objects})

    def store_large_file(self, request: Request) -> Reply:
        if hashlib.sha256(request.body).hexdigest() != request.args["sha256"]:
            raise HubError(400, "the content does not have the SHA-256 that it was announced with")
        (self.large_files / request.args["sha256"]).write_bytes(request.body)
        return Reply()

    def verify_large_file(self, request: Request) -> Reply:
        stored = self.large_files / request.json()["oid"]
        if not stored.is_file() or stored.stat().st_size != request.json()["size"]:
            raise HubError(404, "no such large file was uploaded")
        return json_reply({})

    def download(self, request: Request) -> Reply:
        commit, path = request.repo.resolve(request.args["revision"]), request.args["path"]
        files = request.repo.files(commit)
        if path not in files:
            raise HubError(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit})
        data, described = files[path].read(), files[path].describe()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{described["oid"]}"', "Accept-Ranges": "bytes"}
        if "lfs" in described:
            headers |= {"X-Linked-ETag": f'"{files[path].sha256}"', "X-Linked-Size": str(len(data))}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if part is None:
            return Reply(data, 200, headers)
        first, last = int(part[1]), min(int(part[2] or len(data)), len(data) - 1)
        if first > last:
            raise HubError(416, "Range not satisfiable", **{"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return Reply(data[first : last + 1], 206, headers)
