"""Batches, windows and parts of long audio change no text, and bound the memory."""

import itertools
import weakref

import numpy as np
import pytest
from sounds import RATE
from speechllm.processing import pipeline_speechllm, pipeline_windows
from speechllm.processing.pipeline_speechllm import joined


@pytest.fixture(scope="module")
def long_clip(clips) -> np.ndarray:
    """All six clips, one after the other: 12.2 s."""
    return np.concatenate(clips)


@pytest.mark.parametrize("window_batches", [1, 2, 8])
def test_results_do_not_depend_on_batches_and_windows(
    asr, clips, long_clip, texts, monkeypatch, window_batches
):
    sources = [long_clip, clips[0], clips[5], long_clip[::-1].copy(), clips[2], clips[1]]
    options = {"chunk_length_s": 2.5, "return_timestamps": True, "return_confidence": True}
    one_by_one = [asr(source, batch_size=1, **options) for source in sources]
    assert one_by_one[1]["text"] == texts[0]
    assert len(one_by_one[0]["chunks"]) > 4
    monkeypatch.setattr(pipeline_windows, "WINDOW_BATCHES", window_batches)
    for batch_size in (1, 2, 3, 8):
        results = asr(sources, batch_size=batch_size, **options)
        for result, expected in zip(results, one_by_one, strict=True):
            assert result["text"] == expected["text"]
            assert [c["timestamp"] for c in result["chunks"]] == [c["timestamp"] for c in expected["chunks"]]
            assert result["confidence"] == pytest.approx(expected["confidence"], rel=1e-3)


def test_long_audio_is_the_text_of_its_parts_with_their_true_times(asr, long_clip):
    result = asr(long_clip, chunk_length_s=2.5, return_timestamps=True)
    chunks = result["chunks"]
    times = [chunk["timestamp"] for chunk in chunks]
    assert times[0][0] == 0
    assert times[-1][1] == pytest.approx(len(long_clip) / RATE, abs=1e-3)
    for before, after in itertools.pairwise(times):
        assert before[1] == after[0]
    assert all(0 < end - start <= 2.5 for start, end in times)
    assert result["text"] == " ".join(chunk["text"] for chunk in chunks)
    for (start, end), chunk in zip(times, chunks, strict=True):
        # Times are rounded to milliseconds, of 16 samples each.
        part = long_clip[round(start * RATE) : round(end * RATE)]
        assert abs(len(part) / RATE - (end - start)) < 1e-3
        assert isinstance(chunk["text"], str)


def test_parts_of_long_audio_are_heard_as_if_they_were_alone(asr, long_clip):
    segments = list(asr.preprocess(long_clip, pipeline_speechllm.TranscriptionOptions(chunk_length_s=2.5)))
    alone = [asr(segment.waveform)["text"] for segment in segments]
    assert asr(long_clip, chunk_length_s=2.5)["text"] == " ".join(alone)


@pytest.mark.parametrize(
    ("texts", "whole"),
    [
        ([], ""),
        (["one"], "one"),
        (["one", "two", "three"], "one two three"),
        (["\u4f60\u597d\u3002", "\u5929\u6c14"], "\u4f60\u597d\u3002\u5929\u6c14"),
        (["\u4f60\u597d", "hello", "\u5929"], "\u4f60\u597d hello \u5929"),
        (["\uc548\ub155", "\uc138\uacc4"], "\uc548\ub155 \uc138\uacc4"),
    ],
)
def test_parts_are_joined_as_their_script_is_written(texts, whole):
    assert joined(texts) == whole


@pytest.fixture()
def alive(monkeypatch):
    """Counts segments whose sound is in memory: `{"now": ..., "most": ...}`."""
    count = {"now": 0, "most": 0, "all": 0}
    split = pipeline_speechllm.split_audio

    def gone():
        count["now"] -= 1

    def counted(*args):
        for segment in split(*args):
            weakref.finalize(segment.waveform, gone)
            count["now"] += 1
            count["all"] += 1
            count["most"] = max(count["most"], count["now"])
            yield segment

    monkeypatch.setattr(pipeline_speechllm, "split_audio", counted)
    return count


def test_long_audio_is_never_whole_in_memory(asr, alive, monkeypatch):
    monkeypatch.setattr(pipeline_windows, "WINDOW_BATCHES", 2)
    noise = 0.1 * np.random.default_rng(0).standard_normal(20 * RATE).astype(np.float32)
    result = asr(noise, batch_size=4, chunk_length_s=0.5, max_new_tokens=2, return_timestamps=True)
    assert alive["all"] == len(result["chunks"]) >= 40
    # A window of 8, and the one that was read when it was full.
    assert 8 <= alive["most"] <= 9
    assert alive["now"] == 0


def test_windows_are_bounded_in_seconds_but_hold_whole_batches(asr, alive, monkeypatch):
    monkeypatch.setattr(pipeline_windows, "WINDOW_SECONDS", 1.0)
    noise = 0.1 * np.random.default_rng(0).standard_normal(10 * RATE).astype(np.float32)
    sizes = []
    forward = asr._forward
    monkeypatch.setattr(
        asr, "_forward", lambda batch, options: sizes.append(len(batch)) or forward(batch, options)
    )
    asr(noise, batch_size=4, chunk_length_s=0.5, max_new_tokens=2)
    assert set(sizes[:-1]) == {4}
    assert alive["most"] <= 5


def test_what_shares_a_batch_is_of_about_one_length(asr, clips, monkeypatch):
    seconds = []
    forward = asr._forward

    def watched(batch, options):
        seconds.append([piece.segment.duration for piece in batch])
        forward(batch, options)

    monkeypatch.setattr(asr, "_forward", watched)
    asr([clips[number] for number in (0, 5, 2, 4, 1, 3)], batch_size=2)
    assert seconds == [pytest.approx([4.0, 3.1]), pytest.approx([2.2, 1.7]), pytest.approx([0.9, 0.3])]


def test_an_hour_of_silence_is_not_kept(asr, alive):
    result = asr(np.zeros(3600 * 100, np.float32), sampling_rate=100, chunk_length_s=30)
    assert result["text"] == ""
    assert alive["all"] >= 120
    assert alive["most"] <= 2


def test_results_of_silent_and_empty_sources_do_not_wait_for_others(asr, clips):
    taken = []

    def sources():
        for source in (np.zeros(RATE, np.float32), np.zeros(RATE, np.float32), clips[0]):
            taken.append(0)
            yield source

    results = asr(sources())
    assert next(results)["text"] == ""
    assert len(taken) == 1
