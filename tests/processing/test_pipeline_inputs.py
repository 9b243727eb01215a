"""Whatever holds sound goes into the pipeline, and the same text comes out, in order; the rest is refused."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sounds import RATE
from speechllm.processing import pipeline_windows
from speechllm.processing.audio_reading import read_audio
from speechllm.processing.pipeline_speechllm import is_single
from transformers.pipelines.pt_utils import KeyDataset


def wav_bytes(waveform: np.ndarray, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


@pytest.fixture()
def fourth(clips, tmp_path) -> Path:
    """The fourth clip as a file of 32-bit floats: nothing is lost in it."""
    path = tmp_path / "four th.wav"
    path.write_bytes(wav_bytes(clips[3]))
    return path


class Decoded:
    """Like a decoder of `datasets`: samples `[channels, n]` on demand."""

    def __init__(self, waveform: np.ndarray, rate: int = RATE):
        self.data, self.sample_rate = torch.tensor(waveform)[None], rate

    def get_all_samples(self):
        return self

    def __getitem__(self, key):
        raise AssertionError("a decoder is one source, not a collection")


# --- what goes in ---------------------------------------------------------------------------------------


def test_clips_say_different_things(texts):
    assert all(texts)
    assert len(set(texts)) >= 4


FORMS = {
    "path": lambda clip, wav: wav,
    "path as text": lambda clip, wav: str(wav),
    "file address": lambda clip, wav: wav.as_uri(),
    "bytes": lambda clip, wav: wav.read_bytes(),
    "bytearray": lambda clip, wav: bytearray(wav.read_bytes()),
    "memoryview": lambda clip, wav: memoryview(wav.read_bytes()),
    "binary file": lambda clip, wav: io.BytesIO(wav.read_bytes()),
    "array": lambda clip, wav: clip,
    "float64": lambda clip, wav: clip.astype(np.float64),
    "(n, 2)": lambda clip, wav: np.stack([clip, clip], axis=1),
    "(2, n)": lambda clip, wav: np.stack([clip, clip]),
    "tensor": lambda clip, wav: torch.tensor(clip),
    "list of samples": lambda clip, wav: clip.tolist(),
    "list of numpy's samples": lambda clip, wav: list(clip),
    "array in a dict": lambda clip, wav: {"array": clip, "sampling_rate": RATE},
    "raw in a dict": lambda clip, wav: {"raw": clip, "sampling_rate": RATE},
    "undecoded, in memory": lambda clip, wav: {"path": None, "bytes": wav.read_bytes()},
    "undecoded, on disk": lambda clip, wav: {"path": str(wav), "bytes": None},
    "decoder": lambda clip, wav: Decoded(clip),
}


@pytest.mark.parametrize("form", FORMS)
def test_text_does_not_depend_on_the_form_of_the_source(asr, clips, texts, fourth, form):
    assert asr(FORMS[form](clips[3], fourth)) == {"text": texts[3]}


def test_addresses_are_fetched(asr, texts, fourth, server):
    assert asr(f"{server}/{fourth.name.replace(' ', '%20')}")["text"] == texts[3]
    with pytest.raises(ValueError, match="404"):
        asr(f"{server}/fifth.wav")


def test_integers_are_scaled(asr, clips):
    integers = (clips[3] * 2**15).round().astype(np.int16)
    assert asr(integers) == asr((integers / 2**15).astype(np.float32))


@pytest.mark.parametrize("key", ["array", "raw"])
def test_other_sampling_rates_are_converted(asr, clips, tmp_path, key):
    narrow = clips[3][::2].copy()
    expected = asr(read_audio({"array": narrow, "sampling_rate": 8000}, RATE))
    assert asr({key: narrow, "sampling_rate": 8000}) == expected
    assert asr(narrow, sampling_rate=8000) == expected
    (tmp_path / "narrow.wav").write_bytes(wav_bytes(narrow, 8000))
    assert asr(tmp_path / "narrow.wav") == expected


def test_dataset_columns_are_transcribed_one_by_one(asr, clips, texts):
    datasets = pytest.importorskip("datasets", reason="it comes with speechllm[train]")
    rows = {"audio": [{"path": None, "bytes": wav_bytes(clip)} for clip in clips]}
    dataset = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))
    for column in (KeyDataset(dataset, "audio"), dataset["audio"]):
        results = asr(column, batch_size=2)
        assert iter(results) is results
        assert [result["text"] for result in results] == texts


def test_lists_and_tuples_give_lists(asr, clips, texts):
    assert [result["text"] for result in asr(list(clips))] == texts
    assert [result["text"] for result in asr(tuple(clips[:2]))] == texts[:2]
    assert asr([]) == []
    assert asr(clips[:1]) == [{"text": texts[0]}]


@pytest.mark.parametrize(("batch_size", "taken_first"), [(1, 1), (2, 4)])
def test_generators_are_read_as_their_results_are_taken(
    asr, clips, texts, monkeypatch, batch_size, taken_first
):
    monkeypatch.setattr(pipeline_windows, "WINDOW_BATCHES", 2)
    taken = []

    def sources():
        for number in itertools.count():
            taken.append(number)
            yield clips[number % len(clips)]

    results = asr(sources(), batch_size=batch_size)
    assert taken == []
    assert next(results)["text"] == texts[0]
    assert len(taken) == taken_first
    assert [next(results)["text"] for _ in range(7)] == (texts * 2)[1:8]
    assert len(taken) <= 8 + taken_first
    results.close()


def test_what_is_one_source_and_what_are_many(tmp_path):
    for source in (
        "a.wav",
        tmp_path,
        b"",
        {},
        np.zeros((2, 9)),
        torch.zeros(3),
        [0.1, 0.2],
        io.BytesIO(),
        5,
        None,
    ):
        assert is_single(source), source
    for source in ([], ["a"], [np.zeros(2)], (b"",), iter([]), [[0.1], [0.2]], range(2)):
        assert not is_single(source), source


# --- bad input ------------------------------------------------------------------------------------------


@pytest.fixture()
def bad(tmp_path):
    """Sources that cannot be read, by what is wrong, and what must be said."""
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "letter.wav").write_text("Dear Sir or Madam,\n" * 20)
    (tmp_path / "silent.wav").write_bytes(wav_bytes(np.zeros(0, np.float32)))
    (tmp_path / "nan.wav").write_bytes(wav_bytes(np.full(RATE, np.nan, np.float32)))
    return {
        "empty file": (tmp_path / "empty.wav", r"empty\.wav: empty file"),
        "no samples": (tmp_path / "silent.wav", r"silent\.wav: holds no samples"),
        "empty array": (np.zeros(0, np.float32), "array: holds no samples"),
        "nan file": (tmp_path / "nan.wav", r"nan\.wav: its samples are not a number"),
        "nan array": ({"array": np.full(9, np.nan), "sampling_rate": RATE}, "not a number"),
        "text": (tmp_path / "letter.wav", r"letter\.wav: text, not audio"),
        "missing": (tmp_path / "nowhere.wav", r"nowhere\.wav: no such file"),
        "folder": (tmp_path, "is a directory"),
        "number": (5, "int: is no audio"),
        "nothing": (None, "NoneType: is no audio"),
        "other keys": ({"sound": 1}, r"has keys \['sound'\]"),
    }


BAD = ["empty file", "no samples", "empty array", "nan file", "nan array", "text", "missing", "folder"]
BAD += ["number", "nothing", "other keys"]


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_named_in_one_line(asr, bad, clips, kind):
    source, message = bad[kind]
    with pytest.raises(ValueError, match=message) as caught:
        asr(source)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=message):
        asr([clips[0], source])


def test_all_bad_inputs_are_tried(bad):
    assert set(bad) == set(BAD)


def test_errors_may_be_returned_among_the_results(asr, bad, clips, texts):
    sources = [clips[0], *(source for source, _ in bad.values()), clips[3]]
    results = asr(sources, on_error="return", batch_size=2)
    assert results[0] == {"text": texts[0]}
    assert results[-1] == {"text": texts[3]}
    assert all(set(result) == {"error"} for result in results[1:-1])


def test_one_sample_is_little_but_not_an_error(asr, texts, clips):
    results = asr([{"array": np.full(1, 0.5, np.float32), "sampling_rate": 48000}, clips[0]])
    assert [set(result) for result in results] == [{"text"}, {"text"}]
    assert results[1]["text"] == texts[0]
