"""Bad data stops no run and hides nothing: counted, named in the log, or told before the first step."""

import json

import numpy as np
import pytest
import soundfile
from training_runs import tiny_run, write_corpus

MINUTES = 40


def spoiled_corpus(folder) -> None:
    """The corpus of a tiny run with four lines more that cannot be used."""
    train, _ = write_corpus(folder)
    sounds = folder / "train"
    (sounds / "broken.wav").write_bytes(b"RIFF, it says")
    soundfile.write(sounds / "endless.flac", np.zeros(MINUTES * 60 * 8000, dtype=np.float32), 8000)
    nan = np.full(8000, np.nan, dtype=np.float32)
    soundfile.write(sounds / "nan.wav", nan, 16000, subtype="FLOAT")
    lines = [("broken.wav", "ab"), ("endless.flac", "ab " * 4000), ("nan.wav", "abc"), ("0.wav", "  ")]
    with open(train, "a", encoding="utf-8") as manifest:
        for sound, text in lines:
            manifest.write("\n" + json.dumps({"audio": sound, "text": text, "language": "en"}))


def test_a_run_over_bad_clips_ends_well_and_says_what_it_left_out(bases, tmp_path):
    folder = tmp_path / "run"
    # The corpus of tiny runs is written where it is asked for; the bad lines come behind it.
    spoiled_corpus(tmp_path / "spoiled")
    data = f"data.train={tmp_path}/spoiled/train/manifest.jsonl"
    model = tiny_run(folder, bases, data, "data.filters.min_characters_per_second=0.1", steps=5)
    told = json.loads((model / "results.json").read_text())["data"]
    (line,) = (line for line in told["filters"] if line.startswith("train"))
    assert "9 clips" in line and all(f"1 {why}" in line for why in ("unreadable", "too long", "empty text"))
    # Its header is sound, so it is found out in the first epoch and replaced.
    assert [name.rpartition("/")[2] for name in told["unreadable"]["train"]] == ["nan.wav"]
    log = (folder / "train.log").read_text()
    for name in ("broken.wav", "endless.flac", "nan.wav"):
        assert name in log, name


@pytest.mark.parametrize(
    "train, told",
    [
        ("{path: FOLDER/m.csv}", r"no column for text; there are \['audio', 'words'\]"),
        ("{path: FOLDER/m.csv, columns: {text: sentence}}", "no column 'sentence' for text"),
        ("{path: FOLDER, split: dev}", "no split 'dev'"),
        ("{path: FOLDER/empty.jsonl}", "no clip with a transcript found"),
    ],
)
def test_data_that_does_not_fit_is_told_before_the_first_step(bases, tmp_path, train, told):
    (tmp_path / "m.csv").write_text("audio,words\na.wav,x\n")
    (tmp_path / "empty.jsonl").write_text("")
    given = train.replace("FOLDER", str(tmp_path))
    with pytest.raises(ValueError, match=told) as error:
        tiny_run(tmp_path / "run", bases, f"data.train=[{given}]")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "run").glob("phase-*"))
