"""Resampling keeps what it should, removes what it should, and does not care how the signal is cut."""

import time

import numpy as np
import pytest
from speechllm.processing.audio_resampling import StreamResampler, resample

RATE_PAIRS = [(44100, 16000), (48000, 16000), (8000, 16000), (96000, 16000), (22050, 16000), (11127, 16000)]


def tone(frequency: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def middle_level_db(waveform: np.ndarray) -> float:
    """RMS level of the middle half, away from the edges."""
    middle = waveform[len(waveform) // 4 : -len(waveform) // 4].astype(np.float64)
    return 10 * np.log10(np.mean(middle**2) + 1e-30)


@pytest.mark.parametrize(("from_rate", "to_rate"), RATE_PAIRS)
def test_output_length_is_the_rounded_up_ratio(from_rate, to_rate):
    for length in (0, 1, 2, 441, 1000, 12345):
        expected = -(-length * to_rate // from_rate)
        assert len(resample(np.ones(length, np.float32), from_rate, to_rate)) == expected


@pytest.mark.parametrize(("from_rate", "to_rate"), RATE_PAIRS)
def test_a_tone_keeps_level_and_phase(from_rate, to_rate):
    output = resample(tone(1000, from_rate), from_rate, to_rate)
    expected = tone(1000, to_rate)[: len(output)]
    assert abs(middle_level_db(output) - middle_level_db(expected)) < 0.1
    middle = slice(len(output) // 4, -len(output) // 4)
    assert np.abs(output - expected)[middle].max() < 1e-3


@pytest.mark.parametrize("frequency", [8100, 9000, 12000, 15000, 19000])
@pytest.mark.parametrize("from_rate", [44100, 48000])
def test_a_tone_above_the_new_nyquist_is_removed(from_rate, frequency):
    source = tone(frequency, from_rate)
    assert middle_level_db(resample(source, from_rate, 16000)) < middle_level_db(source) - 50


def test_upsampling_makes_no_mirror_image():
    spectrum = np.abs(np.fft.rfft(resample(tone(1000, 8000), 8000, 16000) * np.hanning(16000)))
    assert 20 * np.log10(spectrum[4500:].max() / spectrum.max()) < -70


def test_a_constant_stays_constant():
    output = resample(np.full(44100, 0.5, np.float32), 44100, 16000)
    assert np.abs(output[1000:-1000] - 0.5).max() < 1e-5


@pytest.mark.parametrize(("from_rate", "to_rate"), RATE_PAIRS)
@pytest.mark.parametrize("block_size", [1, 7, 160, 4096, 100000])
def test_a_stream_equals_the_whole(from_rate, to_rate, block_size):
    waveform = np.random.default_rng(0).standard_normal(3000 if block_size < 10 else 30000).astype(np.float32)
    stream = StreamResampler(from_rate, to_rate)
    blocks = [
        stream.push(waveform[start : start + block_size]) for start in range(0, len(waveform), block_size)
    ]
    joined = np.concatenate([*blocks, stream.finish()])
    whole = resample(waveform, from_rate, to_rate)
    assert joined.shape == whole.shape
    np.testing.assert_allclose(joined, whole, atol=1e-6)


def test_a_block_may_be_overwritten_after_it_was_pushed():
    waveform = np.random.default_rng(1).standard_normal(9000).astype(np.float32)
    stream, block, outputs = StreamResampler(44100, 16000), np.empty(1000, np.float32), []
    for start in range(0, 9000, 1000):
        block[:] = waveform[start : start + 1000]
        outputs.append(stream.push(block))
    block[:] = 7
    outputs.append(stream.finish())
    np.testing.assert_allclose(np.concatenate(outputs), resample(waveform, 44100, 16000), atol=1e-6)


def test_equal_rates_change_nothing():
    waveform = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    assert np.array_equal(resample(waveform, 16000, 16000), waveform)


def test_five_minutes_take_less_than_two_seconds():
    waveform = np.zeros(300 * 44100, np.float32)
    started = time.process_time()
    resample(waveform, 44100, 16000)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("rate", [0, -16000, 16000.5])
def test_an_impossible_rate_is_refused(rate):
    with pytest.raises(ValueError, match="rates are whole numbers"):
        resample(np.zeros(10, np.float32), rate, 16000)
