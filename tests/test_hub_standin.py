import json
import warnings
from pathlib import Path

import httpx2
import pytest
from hub_standin import HubStandIn
from huggingface_hub import CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from subprocesses import run_python

LARGE = bytes(range(256)) * 100


@pytest.fixture(autouse=True)
def client_is_online_and_without_xet(monkeypatch):
    # The client read these from the environment when it was imported.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def hub(tmp_path):
    with HubStandIn(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.endpoint, token=hub.token)


@pytest.fixture
def anonymous(hub):
    return HfApi(endpoint=hub.endpoint, token=False)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "to_upload"
    (folder / "code").mkdir(parents=True)
    (folder / "config.json").write_text('{"width": 16}')
    (folder / "code" / "model.py").write_text("WIDTH = 16\n")
    (folder / "model.safetensors").write_bytes(LARGE)
    (folder / "README.md").write_text("---\nlicense: mit\ntags: [speech]\n---\nA model.\n")
    return folder


@pytest.fixture
def uploaded(api, folder):
    """The id of the commit that brought the folder to me/model."""
    api.create_repo("me/model")
    return api.upload_folder(repo_id="me/model", folder_path=folder, commit_message="the folder").oid


def status_of(error):
    return error.value.response.status_code


def test_whoami_knows_the_user_and_the_organizations(tmp_path):
    with HubStandIn(tmp_path, namespaces=("me", "lab")) as hub:
        me = HfApi(endpoint=hub.endpoint, token=hub.token).whoami()
    assert me["name"] == "me"
    assert [org["name"] for org in me["orgs"]] == ["lab"]
    assert hub.requests == [("GET", "/api/whoami-v2")]


def test_a_second_creation_is_refused_unless_allowed(api, hub):
    assert api.create_repo("model", private=True).repo_id == "me/model"
    assert api.create_repo("me/model", exist_ok=True) == f"{hub.endpoint}/me/model"
    assert api.model_info("me/model").private
    with pytest.raises(HfHubHTTPError) as error:
        api.create_repo("me/model")
    assert status_of(error) == 409


def test_a_deleted_repository_is_gone(api):
    api.create_repo("me/model")
    api.delete_repo("me/model")
    assert not api.repo_exists("me/model")
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("me/model")


def test_small_and_large_files_take_their_own_ways(api, hub, uploaded):
    files = api.get_paths_info("me/model", ["config.json", "model.safetensors"])
    small, large = (file.lfs for file in files)
    assert (small, large.size) == (None, len(LARGE))
    assert [path for method, path in hub.requests if method == "PUT"] == [f"/large-files/{large.sha256}"]
    assert ("POST", "/me/model.git/info/lfs/verify") in hub.requests
    assert ("POST", "/api/validate-yaml") in hub.requests
    assert (hub.root / "me" / "model" / uploaded / "model.safetensors").read_bytes() == LARGE


def test_a_repository_is_described_and_listed(api, uploaded):
    info = api.model_info("me/model", files_metadata=True)
    assert (info.id, info.sha, info.private) == ("me/model", uploaded, False)
    assert info.card_data.license == "mit"
    assert info.tags == ["speech"]
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings}
    assert sizes["model.safetensors"] == len(LARGE)
    names = [".gitattributes", "README.md", "code/model.py", "config.json", "model.safetensors"]
    assert sorted(sizes) == sorted(api.list_repo_files("me/model")) == names
    assert [entry.path for entry in api.list_repo_tree("me/model", "code")] == ["code/model.py"]
    assert "code" in [entry.path for entry in api.list_repo_tree("me/model")]
    found = api.get_paths_info("me/model", ["config.json", "code", "absent"])
    assert [entry.path for entry in found] == ["config.json", "code"]


def test_files_come_back_by_branch_tag_and_commit(api, uploaded, tmp_path):
    api.create_tag("me/model", tag="v1/first")
    api.create_branch("me/model", branch="next", revision="v1/first")
    for number, revision in enumerate((None, "v1/first", "next", uploaded)):
        cache = tmp_path / f"cache{number}"
        path = api.hf_hub_download("me/model", "model.safetensors", revision=revision, cache_dir=cache)
        assert Path(path).read_bytes() == LARGE
        assert uploaded in path
    refs = api.list_repo_refs("me/model")
    assert {branch.name: branch.target_commit for branch in refs.branches} == {
        "main": uploaded,
        "next": uploaded,
    }
    assert [(tag.name, tag.ref) for tag in refs.tags] == [("v1/first", "refs/tags/v1/first")]


def test_existing_tags_and_branches_are_refused_unless_allowed(api, uploaded):
    api.create_tag("me/model", tag="v1")
    api.create_tag("me/model", tag="v1", exist_ok=True)
    api.create_branch("me/model", branch="main", exist_ok=True)
    with pytest.raises(HfHubHTTPError) as error:
        api.create_tag("me/model", tag="v1")
    assert status_of(error) == 409


def test_a_snapshot_fills_a_fresh_cache_and_is_not_loaded_twice(api, hub, folder, uploaded, tmp_path):
    snapshot = Path(api.snapshot_download("me/model", cache_dir=tmp_path / "cache"))
    for file in (file for file in folder.rglob("*") if file.is_file()):
        assert (snapshot / file.relative_to(folder)).read_bytes() == file.read_bytes()
    hub.requests.clear()
    assert Path(api.snapshot_download("me/model", cache_dir=tmp_path / "cache")) == snapshot
    assert hub.requests == [("GET", "/api/models/me/model/revision/main")]


def test_the_first_of_two_commits_stays_readable(api, uploaded, tmp_path):
    second = api.upload_file(
        repo_id="me/model",
        path_or_fileobj=b'{"width": 32}',
        path_in_repo="config.json",
        commit_message="wider",
    ).oid
    read = {
        revision: json.loads(
            Path(
                api.hf_hub_download("me/model", "config.json", revision=revision, cache_dir=tmp_path)
            ).read_text()
        )["width"]
        for revision in (uploaded, second, "main")
    }
    assert read == {uploaded: 16, second: 32, "main": 32}
    commits = api.list_repo_commits("me/model")
    assert [commit.title for commit in commits] == ["wider", "the folder", "initial commit"]
    assert [commit.commit_id for commit in commits[:2]] == [second, uploaded]


def test_unchanged_files_make_no_commit(api, hub, folder, uploaded):
    hub.requests.clear()
    assert api.upload_folder(repo_id="me/model", folder_path=folder).oid == uploaded
    assert ("POST", "/api/models/me/model/commit/main") not in hub.requests


def test_files_and_folders_can_be_deleted(api, uploaded):
    operations = [CommitOperationDelete("code/"), CommitOperationDelete("config.json")]
    api.create_commit("me/model", operations, commit_message="less")
    assert api.list_repo_files("me/model") == [".gitattributes", "README.md", "model.safetensors"]
    for absent in ("code", "config.json", "absent/"):
        with pytest.raises(RemoteEntryNotFoundError):
            api.create_commit("me/model", [CommitOperationDelete(absent)], commit_message="again")


def test_a_commit_on_an_outdated_parent_is_refused(api, uploaded):
    api.upload_file(repo_id="me/model", path_or_fileobj=b"x", path_in_repo="x")
    with pytest.raises(HfHubHTTPError) as error:
        api.upload_file(repo_id="me/model", path_or_fileobj=b"y", path_in_repo="y", parent_commit=uploaded)
    assert status_of(error) == 412


def test_missing_things_raise_the_exception_that_names_them(api, anonymous, uploaded, tmp_path):
    with pytest.raises(RepositoryNotFoundError) as error:
        api.model_info("me/absent")
    assert status_of(error) == 404
    with pytest.raises(RepositoryNotFoundError) as error:
        anonymous.model_info("me/absent")
    assert status_of(error) == 401
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download("me/model", "config.json", revision="v9", cache_dir=tmp_path)
    with pytest.raises(RevisionNotFoundError):
        api.upload_file(repo_id="me/model", path_or_fileobj=b"x", path_in_repo="x", revision="v9")
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download("me/model", "absent.json", cache_dir=tmp_path)
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree("me/model", "absent"))
    remembered = tmp_path / "models--me--model" / ".no_exist" / uploaded / "absent.json"
    assert remembered.exists()
    assert [api.file_exists("me/model", name) for name in ("config.json", "absent")] == [True, False]


def test_a_wrong_token_is_refused_everywhere(hub, uploaded):
    stranger = HfApi(endpoint=hub.endpoint, token="hf_wrong")
    for call in (
        stranger.whoami,
        lambda: stranger.create_repo("me/other"),
        lambda: stranger.model_info("me/model"),
        lambda: stranger.upload_file(repo_id="me/model", path_or_fileobj=b"x", path_in_repo="x"),
    ):
        with pytest.raises(HfHubHTTPError) as error:
            call()
        assert status_of(error) == 401


def test_writing_needs_a_token_and_a_namespace_of_ones_own(api, anonymous, uploaded):
    for call in (
        lambda: anonymous.create_repo("me/other"),
        lambda: anonymous.upload_file(repo_id="me/model", path_or_fileobj=b"x", path_in_repo="x"),
        lambda: anonymous.create_tag("me/model", tag="v1"),
        lambda: anonymous.delete_repo("me/model"),
    ):
        with pytest.raises(HfHubHTTPError) as error:
            call()
        assert status_of(error) == 401
    with pytest.raises(HfHubHTTPError) as error:
        api.create_repo("somebody/model")
    assert status_of(error) == 403


def test_a_public_repository_can_be_read_but_not_written_by_others(hub, uploaded):
    with HubStandIn(hub.root, token="hf_other", namespaces=("other",)) as elsewhere:
        other = HfApi(endpoint=elsewhere.endpoint, token="hf_other")
        assert other.model_info("me/model").sha == uploaded
        with pytest.raises(HfHubHTTPError) as error:
            other.upload_file(repo_id="me/model", path_or_fileobj=b"x", path_in_repo="x")
    assert status_of(error) == 403


def test_a_private_repository_is_invisible_without_the_token(api, anonymous, tmp_path):
    api.create_repo("me/secret", private=True)
    api.upload_file(repo_id="me/secret", path_or_fileobj=b"x", path_in_repo="x")
    assert Path(api.hf_hub_download("me/secret", "x", cache_dir=tmp_path / "mine")).read_bytes() == b"x"
    for call in (
        lambda: anonymous.model_info("me/secret"),
        lambda: anonymous.list_repo_files("me/secret"),
        lambda: anonymous.hf_hub_download("me/secret", "x", cache_dir=tmp_path / "theirs"),
    ):
        with pytest.raises(RepositoryNotFoundError):
            call()


@pytest.mark.parametrize(("repo_type", "settings"), [("dataset", {}), ("space", {"space_sdk": "gradio"})])
def test_data_sets_and_spaces_are_kept_apart_from_models(api, hub, folder, tmp_path, repo_type, settings):
    url = api.create_repo("me/thing", repo_type=repo_type, **settings)
    assert (url, url.repo_type) == (f"{hub.endpoint}/{repo_type}s/me/thing", repo_type)
    commit = api.upload_folder(repo_id="me/thing", repo_type=repo_type, folder_path=folder).oid
    info = api.repo_info("me/thing", repo_type=repo_type)
    assert (info.sha, getattr(info, "sdk", None)) == (commit, settings.get("space_sdk"))
    path = api.snapshot_download("me/thing", repo_type=repo_type, cache_dir=tmp_path / "cache")
    assert (Path(path) / "model.safetensors").read_bytes() == LARGE
    assert not api.repo_exists("me/thing")
    api.delete_repo("me/thing", repo_type=repo_type)
    assert not api.repo_exists("me/thing", repo_type=repo_type)


def test_a_card_is_checked_before_it_is_committed(api, hub, uploaded):
    with pytest.raises(ValueError, match="Invalid metadata in README.md"):
        api.upload_file(
            repo_id="me/model", path_or_fileobj=b"---\nlicense: [mit\n---\n", path_in_repo="README.md"
        )
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        api.upload_file(repo_id="me/model", path_or_fileobj=b"Only text.\n", path_in_repo="README.md")
    assert any("empty or missing yaml metadata" in str(warning.message) for warning in seen)


def test_an_interrupted_download_can_go_on_where_it_stopped(hub, uploaded):
    url = f"{hub.endpoint}/me/model/resolve/main/model.safetensors"
    rest = httpx2.get(url, headers={"Range": "bytes=25000-"})
    assert (rest.status_code, rest.content) == (206, LARGE[25000:])
    assert rest.headers["Content-Range"] == f"bytes 25000-{len(LARGE) - 1}/{len(LARGE)}"
    middle = httpx2.get(url, headers={"Range": "bytes=10-19"})
    assert middle.content == LARGE[10:20]
    assert httpx2.get(url, headers={"Range": f"bytes={len(LARGE)}-"}).status_code == 416


def test_what_is_not_offered_is_refused_in_words(api, hub, uploaded):
    with pytest.raises(BadRequestError, match="no pull requests"):
        api.upload_file(repo_id="me/model", path_or_fileobj=b"x", path_in_repo="x", create_pr=True)
    with pytest.raises(HfHubHTTPError, match="does not offer GET /api/models/me/model/discussions"):
        list(api.get_repo_discussions("me/model"))
    damaged = httpx2.put(f"{hub.endpoint}/large-files/{'0' * 64}", content=b"other")
    assert damaged.status_code == 400


DIGEST = """
    import hashlib

    def digest(model):
        weights = sorted(model.state_dict().items())
        return hashlib.sha256(b"".join(weight.numpy().tobytes() for _, weight in weights)).hexdigest()
"""
PUSH = """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=64
    )
    model = LlamaForCausalLM(config)
    print(model.push_to_hub("me/tiny", commit_message="tiny").oid, digest(model))
"""
PULL = """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained("me/tiny", revision="{commit}")
    print(config.hidden_size, digest(AutoModelForCausalLM.from_pretrained("me/tiny")))
"""


@pytest.mark.slow
def test_transformers_pushes_a_model_that_another_process_loads(hub, tmp_path):
    here, elsewhere = (
        {**hub.environment(tmp_path / name), "OMP_NUM_THREADS": "1"} for name in ("here", "elsewhere")
    )
    commit, pushed = run_python(DIGEST + PUSH, here).split()
    width, pulled = run_python(DIGEST + PULL.format(commit=commit), elsewhere).split()
    assert (width, pulled) == ("16", pushed)
    assert any(path.startswith("/large-files/") for method, path in hub.requests if method == "PUT")
    assert ("HEAD", f"/me/tiny/resolve/{commit}/config.json") in hub.requests
