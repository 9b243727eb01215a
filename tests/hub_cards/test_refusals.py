"""What must not be published is found, whatever it is called."""

import os
import pickle
import re

import pytest
import torch
from speechllm.cli.main import main
from speechllm.hub_cards.contents import folder_contents, listing, model_contents
from speechllm.hub_cards.refusals import problems
from speechllm.hub_cards.run_facts import read_run

TOKEN = "hf_" + "AbCdEfGhIj" * 3
HOME = "/home/" + "somebody"


def put(folder, name, content):
    (folder / name).parent.mkdir(exist_ok=True)
    if callable(content):
        content(folder / name)
    else:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("training_args.bin", b"anything", "pickle"),
        ("weights.dat", lambda path: torch.save({"a": torch.ones(1)}, path), "pickle"),
        ("notes", pickle.dumps([1]), "pickle"),
        ("extra/model.pt", b"", "pickle"),
        ("notes.md", f"my token is {TOKEN}", "a token of the Hub"),
        ("notes.txt", "AKIA" + "ABCDEFGHIJKLMNOP", "an AWS key"),
        ("key.txt", "-----BEGIN RSA PRIVATE KEY-----", "a private key"),
        (".env", "A=1", "a file of secrets"),
        ("id_rsa", "x", "a file of secrets"),
        ("notes.json", f'{{"data": ["{HOME}/corpus/train.jsonl"]}}', f"data is {HOME}/corpus/train.jsonl"),
        ("notes.yaml", f"path: {HOME}/x", f"names a path of this machine: {HOME}"),
        ("train.sh", "cd C:\\Users\\somebody", "names a path of this machine"),
        ("cut.json", '{"a": ', "is no JSON"),
        ("link", lambda path: path.symlink_to("/etc/hostname"), "is a link"),
    ],
)
def test_what_must_not_go_up_is_refused_in_one_line(checkpoint, name, content, reason):
    assert problems(folder_contents(checkpoint)) == []
    put(checkpoint, name, content)
    found = problems(folder_contents(checkpoint))
    assert len(found) == 1 and name in found[0] and reason in found[0]
    assert TOKEN not in found[0] and "\n" not in found[0]


def test_refused_push_asks_nobody_and_a_dry_run_tells_every_reason(checkpoint, hub, capsys):
    put(checkpoint, "notes.md", f"my token is {TOKEN}")
    put(checkpoint, "weights.bin", b"")
    assert main(["push", str(checkpoint), "me/mine", "--dry-run"]) == 1
    refused = [line for line in capsys.readouterr().err.splitlines() if line.startswith("refused: ")]
    assert [line.split()[1] for line in refused] == ["notes.md", "weights.bin"]
    assert main(["push", str(checkpoint), "me/mine"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("speechllm push: nothing was pushed: notes.md holds a token of the Hub")
    assert last.endswith("(and 1 more: --dry-run lists them)") and hub.requests == []


def test_own_token_is_found_in_any_text(checkpoint, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "not-like-other-tokens")
    put(checkpoint, "notes.md", "with not-like-other-tokens one may write")
    assert "your token" in problems(folder_contents(checkpoint))[0]


def test_file_over_the_hubs_limit_is_refused_unread(checkpoint, capsys):
    with open(checkpoint / "huge.safetensors", "wb") as file:
        os.truncate(file.fileno(), 50 * 10**9 + 1)
    assert main(["push", str(checkpoint), "me/mine"]) == 1
    said = "huge.safetensors has 50.0 GB; the Hub takes 50.0 GB a file: save it in shards (max_shard_size)"
    assert said in capsys.readouterr().err


def test_base_that_is_a_folder_of_this_machine_is_refused(bases, tmp_path, capsys):
    from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMProcessor

    names = (str(bases / "tiny--whisper"), str(bases / "tiny--llama"), "mlp")
    for cls in (SpeechLLMForConditionalGeneration, SpeechLLMProcessor):
        cls.from_bases(*names, hidden_size=16).save_pretrained(tmp_path / "mine")
    assert main(["push", str(tmp_path / "mine"), "me/mine"]) == 1
    error = capsys.readouterr().err
    assert "config.json names a path of this machine" in error and "named by its id on the Hub" in error


def test_dry_run_lists_every_file_with_its_size_and_asks_nobody(run_folder, hub, capsys):
    assert main(["push", str(run_folder), "me/first", "--dry-run"]) == 0
    *lines, total = capsys.readouterr().out.splitlines()
    contents = model_contents(read_run(run_folder), "me/first")
    assert [line.split()[-1] for line in lines] == list(contents)
    assert [*lines, total] == listing(contents) and re.search(r" in \d+ files$", total)
    weights = (run_folder / "model" / "model.safetensors").stat().st_size
    assert any(
        line.split()[-1] == "model.safetensors" and f"{weights / 1000:.1f} kB" in line for line in lines
    )
    assert {"README.md", "handler.py", "requirements.txt", "card/architecture.png"} <= set(contents)
    assert hub.requests == []


def test_results_and_config_go_up_without_private_paths(run_folder):
    contents = model_contents(read_run(run_folder), "me/first")
    assert str(run_folder.parent) in (run_folder / "model" / "results.json").read_text()
    config = (run_folder / "model" / "config.json").read_bytes()
    for content in (contents["results.json"], config):
        assert str(run_folder.parents[1]).encode() not in content
    assert b'"train": "train/manifest.jsonl"' in contents["results.json"]
