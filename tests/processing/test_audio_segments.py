"""Segments cover the audio exactly, keep to the limit, and are cut where it is quiet."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from speechllm.processing.audio_segments import Segment, split_audio

RATE = 16000


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def in_blocks(waveform: np.ndarray, size: int):
    return (waveform[start : start + size] for start in range(0, len(waveform), size))


def check_contiguous(segments: list[Segment], waveform: np.ndarray) -> None:
    assert np.array_equal(np.concatenate([segment.waveform for segment in segments]), waveform)
    assert segments[0].start == 0
    assert segments[-1].end == pytest.approx(len(waveform) / RATE)
    for before, after in itertools.pairwise(segments):
        assert before.end == after.start
    for segment in segments:
        assert segment.duration == pytest.approx(len(segment.waveform) / RATE)


@pytest.mark.parametrize("seconds", [0.05, 1, 9.99, 10])
def test_audio_within_the_limit_is_one_segment(seconds):
    waveform = noise(seconds)
    segments = list(split_audio([waveform], RATE, 10))
    assert len(segments) == 1
    check_contiguous(segments, waveform)


def test_no_audio_gives_no_segment():
    assert list(split_audio([], RATE, 10)) == []
    assert list(split_audio([np.zeros(0, np.float32)], RATE, 10)) == []


@pytest.mark.parametrize("seconds", [10.00007, 10.05, 10.1, 20.1, 47.3])
def test_no_sample_is_lost_and_no_segment_is_too_long_or_too_short(seconds):
    waveform = noise(seconds)
    segments = list(split_audio(in_blocks(waveform, 4096), RATE, 10))
    check_contiguous(segments, waveform)
    assert all(0.1 <= segment.duration <= 10 for segment in segments)


@pytest.mark.parametrize("pause", [7.8, 8.5, 9.6])
def test_the_cut_falls_into_the_pause(pause):
    waveform = noise(15)
    waveform[round(pause * RATE) : round((pause + 0.2) * RATE)] *= 0.01
    first = next(split_audio([waveform], RATE, 10))
    assert pause < first.end < pause + 0.2


def test_a_pause_before_the_search_range_is_left_alone():
    waveform = noise(15)
    waveform[3 * RATE : 4 * RATE] = 0
    assert next(split_audio([waveform], RATE, 10, search_seconds=2)).end >= 8


def test_a_short_gap_loses_against_a_true_pause():
    waveform = noise(15)
    waveform[8 * RATE : 8 * RATE + 320] = 0
    waveform[9 * RATE : 9 * RATE + 3200] = 0
    assert 9 < next(split_audio([waveform], RATE, 10)).end < 9.2


@pytest.mark.parametrize("block_size", [1, 333, 16000, 160001, 10**6])
def test_block_sizes_change_nothing(block_size):
    waveform = noise(3.17 if block_size == 1 else 33.3, seed=3)
    limit = 1 if block_size == 1 else 10
    expected = list(split_audio([waveform], RATE, limit))
    segments = list(split_audio(in_blocks(waveform, block_size), RATE, limit))
    assert [(s.start, s.end) for s in segments] == [(s.start, s.end) for s in expected]
    check_contiguous(segments, waveform)


def test_silence_is_cut_at_the_limit_not_before():
    segments = list(split_audio([np.zeros(25 * RATE, np.float32)], RATE, 10))
    assert all(segment.duration > 9.9 for segment in segments[:-1])


@pytest.mark.parametrize(("limit", "search"), [(0.05, None), (0.3, 5), (1, 0), (2, 100)])
def test_odd_limits_and_searches_still_cover_everything(limit, search):
    waveform = noise(3.01)
    segments = list(split_audio(in_blocks(waveform, 1000), RATE, limit, search))
    check_contiguous(segments, waveform)
    assert all(0 < len(segment.waveform) <= limit * RATE for segment in segments)


def test_segments_come_before_the_audio_ends():
    def endless():
        while True:
            yield noise(1)

    assert len(list(itertools.islice(split_audio(endless(), RATE, 10), 3))) == 3


def test_memory_holds_about_two_limits():
    limit_bytes = 10 * RATE * 4
    tracemalloc.start()
    for _ in split_audio((noise(0.5) for _ in range(240)), RATE, 10):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * limit_bytes  # two, while parts are joined or cut, the segment in use, and small change


def test_level_is_rms_below_full_scale():
    sine = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE).astype(np.float32)
    assert Segment(sine, 0, 1).level_db == pytest.approx(-3.01, abs=0.01)
    assert Segment(sine * 0.1, 0, 1).level_db == pytest.approx(-23.01, abs=0.01)
    assert Segment(np.zeros(RATE, np.float32), 0, 1).level_db == -math.inf


@pytest.mark.parametrize(("limit", "search"), [(0, None), (-1, None), (10, -1)])
def test_impossible_limits_are_refused(limit, search):
    with pytest.raises(ValueError, match="give"):
        list(split_audio([noise(1)], RATE, limit, search))
