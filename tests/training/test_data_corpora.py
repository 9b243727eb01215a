"""Corpora of every layout become utterances; presets say what they know of named ones."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
from speechllm.training.data.corpora import KINDS, read_corpus
from speechllm.training.data.hub import RowUtterance, dataset_utterances, open_dataset
from speechllm.training.data.normalisers import normaliser
from speechllm.training.data.presets import preset, preset_names
from speechllm.training.data.sounds import read_sound, sound_seconds
from speechllm.training.data.sources import load_source, source_from
from speechllm.training.data.utterances import Utterance


def write_sound(path, seconds=0.5, rate=16000, level=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(int(seconds * rate), level, dtype=np.float32), rate)
    return path


def test_a_folder_of_sounds_with_texts_beside_them(tmp_path):
    write_sound(tmp_path / "sub" / "a.wav")
    (tmp_path / "sub" / "a.txt").write_text("one\n two\n")
    write_sound(tmp_path / "no_text.flac")
    found = read_corpus("folder", tmp_path)
    assert found == [Utterance(str(tmp_path / "sub" / "a.wav"), "one two", id="sub/a")]


@pytest.mark.parametrize("form", ["transcripts.json", "metadata.csv", "transcripts.txt"])
def test_a_folder_of_sounds_with_one_transcript_file_looks_up_path_name_and_stem(tmp_path, form):
    for name in ("clips/a.wav", "clips/b.wav", "c.wav"):
        write_sound(tmp_path / name)
    texts = {"clips/a.wav": "one", "b.wav": "two", "c": "three", "lost.wav": "four"}
    written = {
        "transcripts.json": json.dumps(texts),
        "metadata.csv": "file_name,text\n" + "".join(f"{name},{text}\n" for name, text in texts.items()),
        "transcripts.txt": "".join(f"{name} {text}\n" for name, text in texts.items()),
    }
    (tmp_path / form).write_text(written[form])
    found = {item.text: item.audio for item in read_corpus("folder", tmp_path)}
    assert found["one"] == str(tmp_path / "clips" / "a.wav")
    assert found["two"] == str(tmp_path / "clips" / "b.wav")
    assert found["three"] == str(tmp_path / "c.wav")
    # Kept, so that it is counted as unreadable rather than lost.
    assert found["four"].endswith("lost.wav")


def test_aishell_joins_words_and_skips_sounds_without_a_line(tmp_path):
    root = tmp_path / "data_aishell"
    for split, name in (
        ("train", "BAC009S0002W0122"),
        ("train", "BAC009S0002W0123"),
        ("test", "BAC009S0764W0121"),
    ):
        write_sound(root / "wav" / split / name[6:11] / f"{name}.wav")
    (root / "transcript").mkdir()
    (root / "transcript" / "aishell_transcript_v0.8.txt").write_text(
        "BAC009S0002W0122 而 对 楼市\nBAC009S0764W0121 甚至 出现\n", encoding="utf-8"
    )
    (found,) = read_corpus("aishell", tmp_path, "train")
    assert (found.text, found.language, found.speaker) == ("而对楼市", "zh", "S0002")
    assert [item.text for item in read_corpus("aishell", root, "test")] == ["甚至出现"]
    with pytest.raises(ValueError, match=r"no split 'dev'; its folders are \['test', 'train'\]"):
        read_corpus("aishell", root, "validation")


def test_aishell_that_is_not_extracted_says_so(tmp_path):
    (tmp_path / "wav" / "train").mkdir(parents=True)
    (tmp_path / "wav" / "S0002.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="no transcript/"):
        read_corpus("aishell", tmp_path)
    (tmp_path / "transcript").mkdir()
    (tmp_path / "transcript" / "aishell_transcript_v0.8.txt").write_text("A b\n")
    with pytest.raises(ValueError, match="not extracted yet"):
        read_corpus("aishell", tmp_path)


def kaldi_folder(tmp_path):
    time = np.arange(3 * 8000) / 8000
    steps = np.where(time < 1, 0.1, np.where(time < 2, 0.2, 0.3)).astype(np.float32)
    soundfile.write(tmp_path / "rec.wav", steps, 8000)
    (tmp_path / "wav.scp").write_text("rec1 rec.wav\n")
    (tmp_path / "text").write_text("u1 first words\nu2 second\nu3\n")
    (tmp_path / "utt2spk").write_text("u1 s1\nu2 s2\nu3 s1\n")
    (tmp_path / "segments").write_text("u1 rec1 0.0 1.0\nu2 rec1 1.0 2.0\nu3 rec1 2.0 3.0\n")
    return tmp_path


def test_kaldi_segments_read_only_their_piece(tmp_path):
    found = read_corpus("kaldi", kaldi_folder(tmp_path))
    assert [(item.text, item.speaker, item.seconds) for item in found] == [
        ("first words", "s1", 1.0),
        ("second", "s2", 1.0),
        ("", "s1", 1.0),
    ]
    for item, level in zip(found, (0.1, 0.2, 0.3), strict=True):
        sound = read_sound(item)
        assert len(sound) == 16000
        assert np.allclose(sound[4000:12000], level, atol=0.01)


def test_a_piece_of_a_file_that_cannot_be_searched_is_the_same_piece(tmp_path):
    item = read_corpus("kaldi", kaldi_folder(tmp_path))[1]
    encoded = Utterance("rec.wav", "", seconds=1.0, extra=item.extra)
    rows = [{"audio": {"bytes": (tmp_path / "rec.wav").read_bytes(), "path": None}}]
    held = RowUtterance(**vars(encoded), rows=rows, row=0, column="audio")
    assert np.abs(read_sound(held) - read_sound(item)).max() < 0.02
    with pytest.raises(ValueError, match="ends before its piece begins, at 9.00 s"):
        read_sound(Utterance(item.audio, "", seconds=1.0, extra={"offset": 9.0}))


def test_kaldi_commands_are_not_run(tmp_path):
    kaldi_folder(tmp_path)
    (tmp_path / "wav.scp").write_text("rec1 sox x.wav -t wav - |\n")
    with pytest.raises(ValueError, match="rec1 is a command"):
        read_corpus("kaldi", tmp_path)


def test_mtedx_talks_are_segments_with_lines_of_text(tmp_path):
    folder = tmp_path / "es-es" / "data" / "valid"
    write_sound(folder / "wav" / "talk.flac", 4.0)
    (folder / "txt").mkdir()
    (folder / "txt" / "segments").write_text("talk_0000 talk 0.50 1.50\ntalk_0001 talk 2.00 3.75\n")
    (folder / "txt" / "valid.es").write_text("hola\nadiós\n")
    found = read_corpus("mtedx", tmp_path / "es-es", "validation")
    assert [(item.text, item.seconds, item.language) for item in found] == [
        ("hola", 1.0, "es"),
        ("adiós", 1.75, "es"),
    ]
    assert len(read_sound(found[1])) == 28000
    (folder / "txt" / "valid.es").write_text("hola\n")
    with pytest.raises(ValueError, match="2 segments but 1 lines"):
        read_corpus("mtedx", tmp_path / "es-es", "validation")


def test_wrong_places_and_kinds_are_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"kind of corpus 'voxforge'; there are \['aishell', 'folder'"):
        read_corpus("voxforge", tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        read_corpus("kaldi", tmp_path / "none")
    with pytest.raises(ValueError, match="no wav.scp"):
        read_corpus("kaldi", tmp_path)
    with pytest.raises(ValueError, match="no clip with a transcript found"):
        read_corpus("folder", tmp_path)
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"no split 'test'; its manifests are \['train.jsonl'\]"):
        read_corpus("manifest", tmp_path, "test")


def hub_rows(tmp_path, count=6):
    sounds = [write_sound(tmp_path / "sounds" / f"{index}.wav", 0.2 + 0.1 * index) for index in range(count)]
    table = {
        "audio": [str(sound) for sound in sounds],
        "sentence": [f"number {index}" for index in range(count)],
        "client_id": [index // 2 for index in range(count)],
        "language": ["Italian"] * count,
    }
    rows = datasets.Dataset.from_dict(table)
    return rows.cast_column("audio", datasets.Audio(sampling_rate=48000))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", ["saved", "parquet"])
def test_datasets_on_disk_are_read_without_their_decoder(tmp_path, form, streaming, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows, folder = hub_rows(tmp_path), tmp_path / "set"
    if form == "saved":
        datasets.DatasetDict({"train": rows}).save_to_disk(folder)
    else:
        (folder / "data").mkdir(parents=True)
        embedded = rows.cast_column("audio", datasets.Audio(decode=False)).map(
            lambda row: {"audio": {"bytes": Path(row["audio"]["path"]).read_bytes(), "path": "x.wav"}}
        )
        embedded.cast_column("audio", datasets.Audio(decode=False)).to_parquet(
            folder / "data" / "train.parquet"
        )
    source = source_from(
        {"id": str(folder), "split": "train", "language": "it", "streaming": streaming, "limit": 5}
    )
    found = load_source(source)
    assert [item.text for item in found] == [f"number {index}" for index in range(5)]
    # The source's own word counts more than a column that holds names of languages.
    assert {item.language for item in found} == {"it"} and found[3].speaker == "1"
    assert [round(sound_seconds(item), 3) for item in found] == [0.2, 0.3, 0.4, 0.5, 0.6]
    assert len(read_sound(found[2])) == 6400


def test_rows_are_not_read_before_they_are_asked_for(tmp_path):
    rows = datasets.Dataset.from_dict({"audio": [{"bytes": b"junk", "path": None}], "text": ["x"]})
    (item,) = dataset_utterances(rows, {}, "junk")
    assert item.name == "junk[0]"
    with pytest.raises(ValueError, match="bytes: text, not audio"):
        read_sound(item)


def test_wrong_splits_and_columns_of_datasets_name_those_there_are(tmp_path):
    datasets.DatasetDict({"train": hub_rows(tmp_path)}).save_to_disk(tmp_path / "set")
    with pytest.raises(ValueError, match=r"split test\): no such split; there are \['train'\]"):
        open_dataset(tmp_path / "set", "test")
    source = source_from({"id": str(tmp_path / "set"), "columns": {"text": "transcript"}})
    with pytest.raises(ValueError, match=r"no column 'transcript' for text; there are \['audio',"):
        load_source(source)
    with pytest.raises(ValueError, match="needs a limit"):
        load_source(source_from({"id": str(tmp_path / "set"), "streaming": True}))


def test_every_corpus_of_the_five_systems_has_a_preset():
    assert set(preset_names()) == {
        "common_voice", "qasr", "mtedx", "covost2", "librispeech", "gigaspeech", "loquacious", "aishell1",
        "kathbath", "indicvoices", "mls", "fleurs", "azerbaijani_asr",
    }  # fmt: skip


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_a_complete_source_in_each_of_its_languages(name):
    found = preset(name)
    assert found.title and found.languages and normaliser(found.normaliser)
    assert found.kind in KINDS or found.id
    for language in found.languages:
        for split in found.splits or ("train",):
            source = source_from(
                {"preset": name, "language": language, "split": split, "path": None if found.id else "x"}
            )
            assert source.language == language and source.kind == found.kind
            assert source.split == found.split(split)


def test_presets_map_languages_to_configs():
    assert source_from({"preset": "common_voice", "language": "pa"}, "train").config == "pa-IN"
    assert source_from({"preset": "fleurs", "language": "te"}, "train").config == "te_in"
    assert source_from({"preset": "mls", "language": "it"}, "validation").split == "dev"
    assert source_from({"preset": "loquacious"}, "train").columns["audio"] == "wav"
    with pytest.raises(ValueError, match="language 'it'; the preset has"):
        source_from({"preset": "kathbath", "language": "it"})
    with pytest.raises(ValueError, match="has no split 'test'; there are"):
        source_from({"preset": "azerbaijani_asr", "split": "test"})
    with pytest.raises(ValueError, match="unknown preset 'timit'; there are"):
        source_from({"preset": "timit"})


def test_impossible_sources_are_refused():
    with pytest.raises(ValueError, match=r"keys \['weigth'\] of a data source; there are \['columns'"):
        source_from({"path": "x.jsonl", "weigth": 1})
    with pytest.raises(ValueError, match="aishell needs a path"):
        source_from({"preset": "aishell1"})
    with pytest.raises(ValueError, match="only datasets .* are streamed, not folder"):
        source_from({"kind": "folder", "path": "x", "streaming": True})
