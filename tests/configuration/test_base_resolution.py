"""Where a base comes from: in which order, at which revision, and what is said where it is missing."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from speechllm import SpeechLLMForConditionalGeneration
from speechllm.bases.install import bases_folder
from speechllm.configuration import base_resolution
from speechllm.configuration.base_resolution import (
    MANIFEST,
    base_config,
    bases_folders,
    default_bases_folder,
    folder_name,
    local_base,
    resolve_base,
)

ID = "tiny/whisper"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SPEECHLLM_BASES", raising=False)


@pytest.fixture()
def place(bases):
    """`place(root, revision)` puts the base below `root`, with a manifest if it has a revision."""

    def put(root: Path, revision: str | None = None) -> Path:
        folder = shutil.copytree(bases / "tiny--whisper", root / "tiny--whisper")
        if revision:
            (folder / MANIFEST).write_text(json.dumps({"id": ID, "revision": revision}))
        return folder

    return put


def test_places_are_asked_in_order(place, tmp_path, monkeypatch):
    assert local_base(ID) is None
    monkeypatch.chdir(tmp_path)
    here = shutil.copytree(place(tmp_path / "other"), tmp_path / "tiny" / "whisper")
    assert local_base(ID) == Path(ID)
    assert local_base(str(here)) == here
    default = place(default_bases_folder())
    assert local_base(ID) == default
    monkeypatch.setenv("SPEECHLLM_BASES", str(tmp_path / "environment"))
    assert local_base(ID) == default, "a folder of bases that lacks this one hides no other"
    named = place(tmp_path / "environment")
    assert local_base(ID) == named
    given = place(tmp_path / "given")
    assert local_base(ID, tmp_path / "given") == given


def test_installer_and_resolver_mean_the_same_folder(tmp_path, monkeypatch):
    assert bases_folder() == default_bases_folder() == bases_folders()[0]
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert bases_folder() == default_bases_folder() == Path.home() / ".cache" / "speechllm" / "bases"
    for named in (str(tmp_path / "named"), "~/bases"):
        monkeypatch.setenv("SPEECHLLM_BASES", named)
        assert bases_folder() == bases_folders()[0]


@pytest.mark.parametrize(
    ("base_id", "name"),
    [
        ("openai/whisper-base", "openai--whisper-base"),
        ("gpt2", "gpt2"),
        ("/data/models/whisper-base", "whisper-base"),
        ("./whisper-base", "whisper-base"),
        ("../up/whisper-base", "whisper-base"),
        ("~/whisper-base", "whisper-base"),
    ],
)
def test_folder_of_an_id(base_id, name):
    assert folder_name(base_id) == name


def test_revision_of_a_folder_is_recorded(place, tmp_path):
    place(tmp_path, "abc")
    assert base_config(ID, None, tmp_path)[1] == "abc"
    assert base_config(ID, "abc", tmp_path)[1] == "abc"


def test_folder_without_a_manifest_records_what_was_asked_for(place, tmp_path):
    place(tmp_path)
    assert base_config(ID, None, tmp_path)[1] is None
    assert base_config(ID, "abc", tmp_path)[1] == "abc"


def test_other_revision_than_pinned_is_refused(place, tmp_path):
    place(tmp_path, "abc")
    with pytest.raises(ValueError, match="pinned to revision def, but .* holds abc") as refusal:
        resolve_base(ID, "def", tmp_path)
    assert "\n" not in str(refusal.value)


def test_damaged_manifest_is_refused(place, tmp_path):
    (place(tmp_path) / MANIFEST).write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        resolve_base(ID, "def", tmp_path)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture()
def hub_cache(bases, tmp_path):
    """A Hub cache as a download leaves it: the branch `main` points to one commit."""
    root = tmp_path / "hub" / "models--tiny--whisper"
    shutil.copytree(bases / "tiny--whisper", root / "snapshots" / COMMIT)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    return tmp_path / "hub"


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_commit_of_a_base_from_the_hub_is_pinned(hub_cache, revision):
    config, recorded = base_config(ID, revision, cache_dir=hub_cache)
    assert config.model_type == "whisper"
    assert recorded == COMMIT


def test_revision_the_cache_lacks_is_told_in_one_line(hub_cache):
    with pytest.raises(OSError, match="tiny/whisper at revision v9 cannot be read") as refusal:
        base_config(ID, "v9", cache_dir=hub_cache)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("base_id", "message"),
    [
        ("no/such-base", "speechllm bases install no/such-base"),
        ("/no/such/folder", "there is no such folder"),
        ("./no-such-folder", "there is no such folder"),
    ],
)
def test_missing_base_is_told_in_one_line(base_id, message):
    with pytest.raises(OSError, match=message) as refusal:
        base_config(base_id)
    assert "\n" not in str(refusal.value)
    assert "SPEECHLLM_BASES" in str(refusal.value)


def test_config_without_bases_loads_none():
    with pytest.raises(ValueError, match="names no base"):
        base_resolution.load_base(None, None)


def test_base_of_pickled_weights_is_not_read(bases, tmp_path):
    for name in ("tiny--whisper", "tiny--llama"):
        shutil.copytree(bases / name, tmp_path / name)
    (tmp_path / "tiny--llama" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "tiny--llama" / "pytorch_model.bin")
    with pytest.raises(OSError, match="tiny/llama cannot be read") as refusal:
        SpeechLLMForConditionalGeneration.from_bases(ID, "tiny/llama", bases=tmp_path)
    assert "\n" not in str(refusal.value)
