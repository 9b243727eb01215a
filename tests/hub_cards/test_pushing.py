"""Pushed over HTTP to a stand-in for the Hub: what arrives, what is refused, what stays."""

import json
from pathlib import Path

import pytest
from hub_repository import HubError
from hub_standin import HubStandIn
from huggingface_hub import HfApi, ModelCard
from own_hub import use_hub
from safetensors.torch import load_file, save_file
from speechllm.cli.main import main
from speechllm.hub_cards.contents import folder_contents, model_contents
from speechllm.hub_cards.pushed_check import check_pushed
from speechllm.hub_cards.run_facts import read_run
from speechllm.remote_code import REGISTRATIONS

WRITTEN_BY_HAND = "---\nlicense: mit\n---\n# Mine\n"


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.endpoint, token=hub.token)


def pushed(*words) -> int:
    return main(["push", *map(str, words), "--no-check"])


def said_in_one_line(capsys) -> str:
    error = capsys.readouterr().err.splitlines()
    assert len([line for line in error if line.startswith("speechllm push:")]) == 1
    return error[-1]


@pytest.mark.slow
def test_pushed_repository_is_private_tagged_and_loads_as_what_was_pushed(run_folder, api, capsys, tmp_path):
    assert main(["push", str(run_folder), "me/first", "--tag", "v1"]) == 0
    captured = capsys.readouterr()
    assert "it loads, and is what was pushed" in captured.err
    info = api.model_info("me/first", revision="v1")
    assert info.private and captured.out.strip().endswith(f"/me/first/tree/{info.sha}")
    there = {sibling.rfilename for sibling in info.siblings}
    assert {"model.safetensors", "config.json", "pipeline_speechllm.py", "card/architecture.png"} <= there
    card = ModelCard.load("me/first", token=api.token)
    assert card.data.base_model == ["tiny/whisper", "tiny/llama"] and 'model="me/first"' in card.text
    other = tmp_path / "other"
    api.snapshot_download("me/first", local_dir=other)
    tensors = load_file(other / "model.safetensors")
    save_file({key: tensor + 1 for key, tensor in tensors.items()}, other / "model.safetensors")
    with pytest.raises(ValueError, match="me/first loads, but its trained is"):
        check_pushed(other, "me/first", info.sha)


def test_checkpoint_that_travelled_without_code_gets_it(checkpoint):
    whole = {path: place.read_bytes() for path, place in folder_contents(checkpoint).items()}
    for name, keys in REGISTRATIONS.items():
        values = json.loads(whole[name])
        bare = {key: value for key, value in values.items() if key not in keys}
        (checkpoint / name).write_text(json.dumps(bare))
    for path in checkpoint.glob("*.py"):
        path.unlink()
    contents = model_contents(read_run(checkpoint))
    added = {path for path in whole if path.endswith(".py")} | set(REGISTRATIONS)
    assert len(added) > 60
    assert {path: contents[path] for path in added} == {path: whole[path] for path in added}


def test_branch_is_made_and_main_is_left_alone(checkpoint, api):
    assert pushed(checkpoint, "me/mine") == 0
    before = api.model_info("me/mine").sha
    (checkpoint / "notes.md").write_text("Another learning rate.\n")
    assert pushed(checkpoint, "me/mine", "--revision", "experiment", "--message", "Try it") == 0
    assert api.model_info("me/mine").sha == before
    assert api.list_repo_commits("me/mine", revision="experiment")[0].title == "Try it"


def test_what_an_earlier_push_left_is_removed(checkpoint, api, capsys):
    assert pushed(checkpoint, "me/mine") == 0
    stale = "model-00001-of-00002.safetensors"
    for name in (stale, "old_module.py", "talk.wav"):
        api.upload_file(path_or_fileobj=b"x", path_in_repo=name, repo_id="me/mine")
    assert pushed(checkpoint, "me/mine") == 0
    there = api.list_repo_files("me/mine")
    assert stale not in there and "old_module.py" not in there and "talk.wav" in there
    assert f"removed {stale}, of an earlier push" in capsys.readouterr().err


def test_card_that_somebody_wrote_on_the_hub_stays(checkpoint, api, capsys):
    assert pushed(checkpoint, "me/mine") == 0
    ours = ModelCard.load("me/mine", token=api.token).content
    api.upload_file(path_or_fileobj=WRITTEN_BY_HAND.encode(), path_in_repo="README.md", repo_id="me/mine")
    assert pushed(checkpoint, "me/mine") == 0
    assert "me/mine keeps its README.md" in capsys.readouterr().err
    assert ModelCard.load("me/mine", token=api.token).content == WRITTEN_BY_HAND
    api.upload_file(path_or_fileobj=ours.encode(), path_in_repo="README.md", repo_id="me/mine")
    (checkpoint / "README.md").write_text(WRITTEN_BY_HAND + "By hand, in the folder.\n")
    assert pushed(checkpoint, "me/mine") == 0
    assert ModelCard.load("me/mine", token=api.token).text.endswith("By hand, in the folder.\n")


def test_push_to_hub_of_a_model_brings_our_card_and_no_private_path(compose, api, bases):
    model, _ = compose()
    model.push_to_hub("me/stock", private=True)
    card = ModelCard.load("me/stock", token=api.token)
    assert card.data.base_model == ["tiny/whisper", "tiny/llama_tied"] and "**Not evaluated.**" in card.text
    assert "card/architecture.png" in api.list_repo_files("me/stock")
    config = Path(api.hf_hub_download("me/stock", "config.json")).read_text()
    assert str(bases) not in config and json.loads(config)["encoder_id"] == "tiny/whisper"
    # A second push knows no more than the first; what stands there by now may.
    api.upload_file(path_or_fileobj=WRITTEN_BY_HAND.encode(), path_in_repo="README.md", repo_id="me/stock")
    model.push_to_hub("me/stock")
    assert ModelCard.load("me/stock", token=api.token).content == WRITTEN_BY_HAND


def test_public_repository_wants_to_be_told(checkpoint, api, capsys):
    api.create_repo("me/open", private=False)
    assert pushed(checkpoint, "me/open") == 1
    assert "me/open is public: say --public" in said_in_one_line(capsys)
    assert pushed(checkpoint, "me/open", "--public") == 0
    assert pushed(checkpoint, "me/new", "--public") == 0
    assert api.model_info("me/new").private is False


def test_tag_that_is_there_is_refused_before_anything_is_uploaded(checkpoint, api, capsys):
    assert pushed(checkpoint, "me/mine", "--tag", "v1") == 0
    before = api.model_info("me/mine").sha
    assert pushed(checkpoint, "me/mine", "--tag", "v1") == 1
    assert "has a tag 'v1' already" in said_in_one_line(capsys)
    assert api.model_info("me/mine").sha == before


@pytest.mark.parametrize(
    "repo_id, reason",
    [
        ("openai/whisper-base", "openai/whisper-base is not yours: your token is of me"),
        ("mine", "'mine' has no owner: say OWNER/NAME"),
        ("me/a b", "'me/a b' is no name for a repository"),
    ],
)
def test_repository_that_cannot_be_is_one_line(checkpoint, hub, repo_id, reason, capsys):
    assert pushed(checkpoint, repo_id) == 1
    assert reason in said_in_one_line(capsys)
    assert not any(method != "GET" for method, _ in hub.requests)


def test_no_token_and_a_wrong_token_are_one_line(checkpoint, hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert pushed(checkpoint, "me/mine") == 1
    assert "does not accept your token" in said_in_one_line(capsys)
    monkeypatch.delenv("HF_TOKEN")
    assert pushed(checkpoint, "me/mine") == 1
    assert "there is no token: run `hf auth login`, or set HF_TOKEN" in said_in_one_line(capsys)


class ReadingOnly(HubStandIn):
    """A Hub that knows the token as one that may read."""

    def whoami(self, request):
        reply = super().whoami(request)
        reply.body = reply.body.replace(b'"role": "write"', b'"role": "read"')
        return reply


class WithoutRights(HubStandIn):
    """A Hub that tells only when asked to write that the token may not."""

    def commit(self, request):
        raise HubError(403, "Forbidden: you must use a write token")


@pytest.mark.parametrize(
    "kind, reason",
    [(ReadingOnly, "your token may only read"), (WithoutRights, "your token may not write to me/mine")],
)
def test_token_without_rights_is_one_line(kind, reason, checkpoint, tmp_path, monkeypatch, capsys):
    with kind(tmp_path / "strict") as standin:
        use_hub(standin, monkeypatch, tmp_path / "home")
        assert pushed(checkpoint, "me/mine") == 1
    assert reason in said_in_one_line(capsys)


def test_no_network_is_one_line(checkpoint, hub, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert pushed(checkpoint, "me/mine") == 1
    assert "http://127.0.0.1:9 can't be reached" in said_in_one_line(capsys)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert pushed(checkpoint, "me/mine") == 1
    assert "HF_HUB_OFFLINE is set" in said_in_one_line(capsys)
