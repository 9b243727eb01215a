"""Every shape of manifest is read; what is wrong with one is said in a line."""

import json

import pytest
from speechllm.training.data.utterances import Utterance, read_manifest, write_manifest

ROW = {"audio_path": "a.wav", "text": "one", "language": "az", "duration": 1.5}
FORMS = {
    "list.json": json.dumps([ROW]),
    "lines.jsonl": json.dumps({"audio_path": "a.wav", "transcript": "one", "lang": "az", "duration": "1.5"})
    + "\n",
    "lines_named.json": json.dumps(ROW) + "\n" + json.dumps({**ROW, "text": "two"}) + "\n",
    "nemo.jsonl": json.dumps({"audio_filepath": "a.wav", "text": "one", "locale": "az", "duration": 1.5}),
    "commas.csv": "\ufeffwav,sentence,language,seconds\na.wav,one,az,1.5\n",
    "tabs.tsv": "path\ttranscription\tlocale\tduration\na.wav\tone\taz\t1.5\n",
    "normalised.csv": "audio,normalized,lang,seconds\na.wav,one,az,1.5\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_and_spelling_gives_the_same_utterance(tmp_path, name):
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8")
    first = read_manifest(tmp_path / name)[0]
    assert first == Utterance(str(tmp_path / "a.wav"), "one", language="az", seconds=1.5)


def test_a_mapping_of_files_and_texts_is_a_manifest(tmp_path):
    (tmp_path / "transcripts.json").write_text('{"a.wav": "one", "sub/b.wav": ""}')
    found = read_manifest(tmp_path / "transcripts.json")
    assert [(item.audio, item.text) for item in found] == [
        (str(tmp_path / "a.wav"), "one"),
        (str(tmp_path / "sub" / "b.wav"), ""),
    ]


def test_written_manifests_come_back_equal_and_move_with_their_folder(tmp_path):
    here = tmp_path / "here"
    utterances = [
        Utterance(
            str(here / "audio" / "a.wav"), "ün", "de", 1.25, "s1", "u1", "transcribe", "names: X", {"k": [1]}
        ),
        Utterance("https://host/b.wav", ""),
        Utterance("/elsewhere/c.wav", "c", extra={"offset": 2.0}),
    ]
    write_manifest(here / "train.jsonl", utterances)
    assert read_manifest(here / "train.jsonl") == utterances
    here.rename(tmp_path / "there")
    moved = read_manifest(tmp_path / "there" / "train.jsonl")
    assert moved[0].audio == str(tmp_path / "there" / "audio" / "a.wav")
    assert moved[1:] == utterances[1:]


@pytest.mark.parametrize("named, manifest", [("link", "link"), ("real", "link"), ("link", "real")])
def test_a_manifest_behind_a_link_finds_its_audio(tmp_path, monkeypatch, named, manifest):
    (tmp_path / "real" / "audio").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    write_manifest(f"{manifest}/train.jsonl", [Utterance(f"{named}/audio/a.wav", "one")])
    (row,) = map(json.loads, (tmp_path / "real" / "train.jsonl").read_text().splitlines())
    assert row["audio"] == "audio/a.wav"


def test_a_folder_of_audio_that_is_a_link_is_below_its_manifest(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "audio").symlink_to(tmp_path / "elsewhere")
    write_manifest(tmp_path / "train.jsonl", [Utterance(str(tmp_path / "audio" / "a.wav"), "one")])
    assert json.loads((tmp_path / "train.jsonl").read_text())["audio"] == "audio/a.wav"


def test_audio_beside_a_manifests_folder_is_found_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_manifest("lists/train.jsonl", [Utterance("audio/a.wav", "one")])
    monkeypatch.chdir(tmp_path)
    assert read_manifest("here/lists/train.jsonl")[0].audio == str(tmp_path / "here" / "audio" / "a.wav")


def test_an_interrupted_write_leaves_the_earlier_manifest(tmp_path):
    write_manifest(tmp_path / "m.jsonl", [Utterance("https://host/a.wav", "kept")])

    def failing():
        yield Utterance("https://host/b.wav", "new")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_manifest(tmp_path / "m.jsonl", failing())
    assert [item.text for item in read_manifest(tmp_path / "m.jsonl")] == ["kept"]
    assert [path.name for path in tmp_path.iterdir()] == ["m.jsonl"]


def test_quotation_marks_in_tab_separated_sentences_are_letters(tmp_path):
    (tmp_path / "cv.tsv").write_text('path\tsentence\na.mp3\t"Go", he said\nb.mp3\tsay "hi\nc.mp3\tbye\n')
    texts = [item.text for item in read_manifest(tmp_path / "cv.tsv")]
    assert texts == ['"Go", he said', 'say "hi', "bye"]


def test_commas_and_line_breaks_in_quoted_cells_are_text(tmp_path):
    (tmp_path / "m.csv").write_text('audio,text\na.wav,"one, two\nthree"\n')
    assert read_manifest(tmp_path / "m.csv")[0].text == "one, two\nthree"


def test_unknown_columns_are_kept_as_extra(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"audio": "a.wav", "text": "x", "gender": "f", "offset": 2.5}')
    assert read_manifest(tmp_path / "m.jsonl")[0].extra == {"gender": "f", "offset": 2.5}


def test_columns_can_be_named(tmp_path):
    (tmp_path / "m.csv").write_text("audio,text,verbatim\na.wav,tidy,as said\n")
    assert read_manifest(tmp_path / "m.csv", {"text": "verbatim"})[0].text == "as said"


def test_a_row_without_text_or_sound_is_kept_for_the_filters_to_count(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"audio": "a.wav", "text": "x"}\n{"audio": null, "text": null}\n')
    assert [(item.audio != "", item.text) for item in read_manifest(tmp_path / "m.jsonl")] == [
        (True, "x"),
        (False, ""),
    ]


BROKEN = {
    "wrong.csv": (
        "sound,words\na.wav,x\n",
        r"no column for audio; there are \['sound', 'words'\]",
    ),
    "no_text.jsonl": ('{"audio": "a.wav"}', r"no_text.jsonl: no column for text; there are \['audio'\]"),
    "broken.jsonl": ('{"audio": "a", "text": "b"}\n{"audio"', "broken.jsonl: line 2 is not JSON"),
    "broken.json": ('[{"audio": ', "broken.json: not JSON at line 1"),
    "number.json": ("3", "number.json: holds int"),
    "strings.json": ('["a.wav"]', "strings.json, entry 1: is str, not an object"),
    "cells.csv": ("audio,text\na.wav,x,y\n", "cells.csv: line 2 has more cells"),
    "length.csv": ("audio,text,duration\na.wav,x,long\n", "length.csv, entry 1: a duration of 'long'"),
    "m.xml": ("<a/>", r"m.xml: a manifest is one of \['.csv'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_with_a_manifest_is_one_line(tmp_path, name):
    text, message = BROKEN[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_manifest(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_named_column_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    (tmp_path / "m.csv").write_text("audio,text\na.wav,x\n")
    with pytest.raises(ValueError, match=r"no column 'sentence' for text; there are \['audio', 'text'\]"):
        read_manifest(tmp_path / "m.csv", {"text": "sentence"})


def test_a_manifest_that_is_not_there_or_not_utf8_says_so(tmp_path):
    with pytest.raises(ValueError, match="no such manifest"):
        read_manifest(tmp_path / "none.jsonl")
    (tmp_path / "latin.csv").write_bytes("audio,text\na.wav,caf\xe9\n".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8 at byte"):
        read_manifest(tmp_path / "latin.csv")
