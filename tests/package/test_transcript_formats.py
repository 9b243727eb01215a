"""Transcripts as text, JSON and subtitles that other programs read."""

import json
import re

import pytest
from speechllm.cli.audio_inputs import AudioInput
from speechllm.cli.transcript_formats import FORMATS, Transcript, clock, format_of_path, text_columns
from speechllm.cli.transcript_output import is_folder, open_output, output_names

RESULT = {
    "text": "Hello\nthere 1 --> 2 <b>&",
    "chunks": [
        {"text": "Hello\nthere", "timestamp": (0.0, 29.9996), "confidence": 0.5},
        {"text": "", "timestamp": (29.9996, 31.0), "confidence": None},
        {"text": "1 --> 2 <b>&", "timestamp": (31.0, 3661.5), "confidence": 0.25},
    ],
    "language": "it",
    "confidence": 0.375,
    "guarded": [{"timestamp": (29.9996, 31.0), "reason": "silence"}],
}
TRANSCRIPT = Transcript.from_result("talks/größe.wav", RESULT)


def test_text_is_one_line_whatever_the_model_wrote():
    assert FORMATS["text"].render(TRANSCRIPT) == "Hello there 1 --> 2 <b>&\n"


def test_text_columns_tell_files_and_confidence():
    assert text_columns(TRANSCRIPT, "a.wav", True) == "a.wav\t0.375\tHello there 1 --> 2 <b>&\n"
    assert text_columns(TRANSCRIPT) == FORMATS["text"].render(TRANSCRIPT)
    silent = Transcript("a.wav", "", [])
    assert text_columns(silent, "a.wav", confidence=True) == "a.wav\t\t\n" and silent.duration == 0.0


def test_json_holds_everything_on_one_line():
    line = FORMATS["json"].render(TRANSCRIPT)
    assert line.count("\n") == 1 and "größe" in line
    assert json.loads(line) == {
        "path": "talks/größe.wav",
        "text": RESULT["text"],
        "language": "it",
        "duration": 3661.5,
        "confidence": 0.375,
        "chunks": [{**chunk, "timestamp": list(chunk["timestamp"])} for chunk in RESULT["chunks"]],
        "guarded": [{"timestamp": [29.9996, 31.0], "reason": "silence"}],
    }


def test_srt_numbers_what_was_said_and_leaves_silence_out():
    assert FORMATS["srt"].render(TRANSCRIPT) == (
        "1\n00:00:00,000 --> 00:00:30,000\nHello there\n\n2\n00:00:31,000 --> 01:01:01,500\n1 -> 2 <b>&\n"
    )


def test_vtt_escapes_what_would_be_markup():
    assert FORMATS["vtt"].render(TRANSCRIPT) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:30.000\nHello there\n\n"
        "00:00:31.000 --> 01:01:01.500\n1 --&gt; 2 &lt;b&gt;&amp;\n"
    )


def test_subtitles_of_silence_are_valid_and_empty():
    silent = Transcript("a.wav", "", [{"text": "", "timestamp": (0.0, 2.0), "confidence": None}])
    assert FORMATS["srt"].render(silent) == "" and FORMATS["vtt"].render(silent) == "WEBVTT\n"


def test_words_are_cues_and_their_duration_is_not_that_of_the_source():
    chunks = [
        {"text": " One", "timestamp": (0.52, 0.8), "confidence": 0.5},
        {"text": " two.", "timestamp": (0.8, 1.1), "confidence": 0.6},
    ]
    words = Transcript.from_result("a.wav", {**RESULT, "text": "One two.", "chunks": chunks}, words=True)
    assert FORMATS["srt"].render(words).startswith("1\n00:00:00,520 --> 00:00:00,800\nOne\n\n2\n")
    assert json.loads(FORMATS["json"].render(words))["duration"] is None


@pytest.mark.parametrize(
    "seconds, shown",
    [(0, "00:00:00,000"), (59.9999, "00:01:00,000"), (75.5, "00:01:15,500"), (360000, "100:00:00,000")],
)
def test_clock_carries_over(seconds, shown):
    assert clock(seconds, ",") == shown


def test_the_output_suffix_chooses_the_format():
    assert {name: format_of_path(f"Talk{form.suffix.upper()}") for name, form in FORMATS.items()} == {
        name: name for name in FORMATS
    }
    assert format_of_path("talk.jsonl") == "json"
    assert format_of_path("talk.docx") is None and format_of_path("") is None


def names(*paths):
    return output_names([AudioInput(path, path) for path in paths], ".txt")


def test_output_names_are_the_stems():
    assert names("a/x.wav", "b/y.z.mp3", "-") == ["x.txt", "y.z.txt", "stdin.txt"]
    assert names("http://host/talks/one%20two.mp3?key=secret") == ["one two.txt"]


def test_inputs_with_one_stem_get_names_that_tell_them_apart():
    assert names("x.wav", "x.mp3", "y.wav") == ["x.wav.txt", "x.mp3.txt", "y.txt"]
    assert names("a/x.wav", "b/x.wav") == ["a-x.wav.txt", "b-x.wav.txt"]
    assert names("1/c/x.wav", "2/c/x.wav") == ["1-c-x.wav.txt", "2-c-x.wav.txt"]


@pytest.mark.parametrize(
    "paths",
    [
        ("x.wav", "x.wav", "x.wav"),
        ("X.wav", "x.wav"),
        ("x.wav", "x.mp3", "x.wav.ogg"),
        ("a/b.wav", "a-b.wav", "b.wav"),
        ("/", "http://host", "http://host/"),
        ("../x.wav", "./x.wav", "x.wav"),
    ],
)
def test_no_two_inputs_share_an_output(paths):
    assert len({name.casefold() for name in names(*paths)}) == len(paths)
    assert all(re.fullmatch(r"[^/\\]+\.txt", name) for name in names(*paths))


def test_a_folder_is_one_or_looks_like_one(tmp_path):
    (tmp_path / "v1.0").mkdir()
    (tmp_path / "notes").write_text("")
    for name, folder in {
        "new": True,
        "new.txt": False,
        "new.txt/": True,
        "v1.0": True,
        "notes": False,
    }.items():
        assert is_folder(f"{tmp_path}/{name}") is folder, name


def test_a_file_that_fails_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "all.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), open_output(str(path), [], ".txt") as output:
        output.write(0, "half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    path = tmp_path / "null"
    path.symlink_to("/dev/null")
    with open_output(str(path), [], ".txt") as output:
        output.write(0, "text")
    assert path.is_symlink() and path.is_char_device()


def test_an_undecodable_path_is_still_valid_json(tmp_path):
    transcript = Transcript("a\udcff.wav", "x", [])
    with open_output(str(tmp_path / "all.json"), [], ".json") as output:
        output.write(0, FORMATS["json"].render(transcript))
    assert json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))["path"] == "a\udcff.wav"
    assert AudioInput("a\udcff\t\n.wav", None).label == "a\\udcff\\t\\n.wav"
