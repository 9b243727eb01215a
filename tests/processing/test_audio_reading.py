"""Every source and every format gives the same samples."""

import io
import struct
import subprocess
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
import torch
from sounds import RATE, cut, error_of, needs_ffmpeg, tone, without_xing
from speechllm.processing import audio_decoding
from speechllm.processing.audio_reading import describe, open_audio, read_audio


def assert_same_sound(actual: np.ndarray, expected: np.ndarray, tolerance: float = 1e-3) -> None:
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    edge = len(expected) // 20
    assert np.abs(actual - expected)[edge : len(expected) - edge].max() < tolerance


# Sources


@pytest.mark.parametrize(
    "kind",
    ["str", "Path", "file URL", "bytes", "bytearray", "file", "BytesIO at its end", "pipe", "dict of path"]
    + ["dict of bytes", "dict of both"],
)
def test_every_encoded_source_gives_the_same_samples(wav, kind):
    data = wav.read_bytes()
    at_end = io.BytesIO(data)
    at_end.seek(0, io.SEEK_END)
    pipe = SimpleNamespace(read=io.BytesIO(data).read)
    with wav.open("rb") as file:
        sources = {
            "str": str(wav),
            "Path": wav,
            "file URL": wav.as_uri(),
            "bytes": data,
            "bytearray": bytearray(data),
            "file": file,
            "BytesIO at its end": at_end,
            "pipe": pipe,
            "dict of path": {"path": str(wav), "bytes": None},
            "dict of bytes": {"path": None, "bytes": data},
            "dict of both": {"path": "gone.wav", "bytes": data},
        }
        assert_same_sound(read_audio(sources[kind]), tone())
        assert not file.closed


def test_a_url_is_downloaded(wav, server):
    assert_same_sound(read_audio(f"{server}/talk.wav?token=secret"), tone())


ARRAYS = {
    "float32": tone(),
    "float64": tone().astype(np.float64),
    "float16": tone().astype(np.float16),
    "int16": np.round(tone() * 32767).astype(np.int16),
    "int32": np.round(tone().astype(np.float64) * (2**31 - 1)).astype(np.int32),
    "uint8": np.round(tone() * 127 + 128).astype(np.uint8),
    "n, channels": np.stack([tone(), tone()], axis=1),
    "channels, n": np.stack([tone(), tone()]),
    "1, n": tone()[None],
    "n, 1": tone()[:, None],
    "tensor": torch.from_numpy(tone()),
    "bfloat16 tensor": torch.from_numpy(tone()).bfloat16(),
    "tensor with gradient": torch.from_numpy(tone()).requires_grad_(),
    "list": tone().tolist(),
    "read-only": np.frombuffer(tone().tobytes(), np.float32),
    "dict of array": {"array": tone(), "sampling_rate": RATE, "path": None},
    "dict of raw": {"raw": tone(), "sampling_rate": RATE},
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_every_array_is_scaled_and_mixed(kind):
    tolerance = 1e-2 if kind in ("uint8", "bfloat16 tensor") else 1e-3
    assert_same_sound(read_audio(ARRAYS[kind]), tone(), tolerance)


def test_a_decoded_datasets_column_is_read():
    samples = SimpleNamespace(data=torch.from_numpy(np.stack([tone(1, 8000)] * 2)), sample_rate=8000)
    assert_same_sound(read_audio(SimpleNamespace(get_all_samples=lambda: samples)), tone())


def test_channels_are_averaged():
    assert_same_sound(read_audio(np.stack([tone(), np.zeros_like(tone())])), tone() / 2)


def test_arrays_have_the_rate_that_is_given():
    assert_same_sound(read_audio(tone(1, 44100), source_rate=44100), tone())
    assert_same_sound(read_audio({"array": tone(1, 8000), "sampling_rate": 8000}, source_rate=44100), tone())


def test_the_output_has_the_rate_that_is_asked_for(wav):
    assert_same_sound(read_audio(wav, sampling_rate=24000), tone(1, 24000))


def test_the_callers_array_is_not_changed():
    source = tone()
    read_audio(source)[:] = 0
    assert np.array_equal(source, tone())


# Formats


@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "mp3", "aiff", "au", "w64", "caf", "rf64"])
def test_every_soundfile_format_is_read(tmp_path, name):
    path = tmp_path / f"talk.{name}"
    sf.write(path, tone(1, 44100), 44100, format=name.upper())
    assert_same_sound(read_audio(path), tone(), tolerance=0.03)


def test_opus_is_read(tmp_path):
    path = tmp_path / "talk.opus"
    sf.write(path, tone(1, 48000), 48000, format="OGG", subtype="OPUS")
    assert_same_sound(read_audio(path), tone(), tolerance=0.03)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
@pytest.mark.parametrize("rate", [8000, 96000])
@pytest.mark.parametrize("channels", [1, 6])
def test_every_width_rate_and_channel_count_is_read(tmp_path, subtype, rate, channels):
    path = tmp_path / "talk.wav"
    sf.write(path, np.stack([tone(1, rate)] * channels, axis=1), rate, subtype=subtype)
    assert_same_sound(read_audio(path), tone(), tolerance=0.03)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32"])
def test_pcm_wav_is_read_without_soundfile(tmp_path, monkeypatch, subtype):
    path = tmp_path / "talk.wav"
    # Plain RIFF: six channels would be written as an extensible header, which `wave` of Python 3.10 refuses.
    sf.write(path, np.stack([tone(1, 8000)] * 2, axis=1), 8000, subtype=subtype, format="WAV")
    monkeypatch.setattr(audio_decoding, "soundfile", None)
    assert_same_sound(read_audio(path), tone(), tolerance=0.03)
    assert "truncated: 50% of its samples are missing" in error_of(cut(path, 0.5))


def test_without_soundfile_other_formats_say_to_install_it(mp3, tmp_path, monkeypatch):
    sf.write(tmp_path / "float.wav", tone(), RATE, subtype="FLOAT")
    monkeypatch.setattr(audio_decoding, "soundfile", None)
    assert error_of(mp3) == "talk.mp3: reading mp3 needs soundfile; install soundfile"
    assert error_of(tmp_path / "float.wav").endswith("install soundfile")


@needs_ffmpeg
@pytest.mark.parametrize("name", ["m4a", "webm", "aac"])
def test_ffmpeg_reads_what_soundfile_cannot(tmp_path, wav, name):
    path = tmp_path / f"talk.{name}"
    subprocess.run(["ffmpeg", "-v", "error", "-i", wav, "-b:a", "96k", path], check=True)
    for source in (path, path.read_bytes()):
        samples = read_audio(source)
        assert abs(len(samples) - RATE) < 0.15 * RATE  # codecs pad
        level = np.sqrt(np.mean(samples[2000:14000] ** 2))
        assert level == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


@needs_ffmpeg
def test_stopping_early_ends_ffmpeg(tmp_path):
    sf.write(tmp_path / "long.wav", tone(60), RATE)
    path = tmp_path / "long.m4a"
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "long.wav", path], check=True)
    blocks = open_audio(path)
    next(blocks)
    blocks.close()  # would wait for ever if ffmpeg were left blocked on its output


def test_without_ffmpeg_the_format_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "talk.m4a"
    path.write_bytes(struct.pack(">I", 24) + b"ftypM4A " + bytes(100))
    assert error_of(path) == "talk.m4a: reading mp4/m4a needs ffmpeg; install ffmpeg and put it on PATH"


# What libsndfile alone would lose


def test_mp3_of_variable_bit_rate_without_a_frame_count_is_read_to_its_end(tmp_path):
    path = tmp_path / "talk.mp3"
    loud = 0.3 * np.random.default_rng(0).standard_normal(10 * RATE)
    sf.write(path, np.concatenate([loud, np.zeros(40 * RATE)]), RATE, format="MP3", bitrate_mode="VARIABLE")
    assert len(read_audio(without_xing(path))) / RATE == pytest.approx(50, abs=0.3)


def test_joined_mp3_files_are_read_to_the_end(mp3):
    mp3.write_bytes(mp3.read_bytes() * 2)
    assert len(read_audio(mp3)) / RATE == pytest.approx(20, abs=0.3)


def test_mp3_behind_a_large_tag_is_read(mp3):
    size = 200_000
    tag = b"ID3\x04\0\0" + bytes((size >> shift) & 127 for shift in (21, 14, 7, 0)) + bytes(size)
    mp3.write_bytes(tag + mp3.read_bytes() + b"TAG" + bytes(125))
    assert_same_sound(read_audio(mp3), tone(10), tolerance=0.03)


def test_flac_whose_writer_did_not_know_the_length_is_read(tmp_path):
    path = tmp_path / "talk.flac"
    sf.write(path, tone(10), RATE)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the 36 bits of the sample count
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert_same_sound(read_audio(path), tone(10))
    assert "truncated or damaged: decoding stops after" in error_of(cut(path, 0.5))


def test_wav_whose_writer_did_not_know_the_length_is_read(wav):
    data = wav.read_bytes()
    at = data.index(b"data") + 4
    wav.write_bytes(data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :])
    assert_same_sound(read_audio(wav), tone())


def test_names_are_short_and_hold_no_secret():
    assert describe("folder/talk.wav") == describe(Path("folder") / "talk.wav") == "talk.wav"
    assert describe("https://me:pass@example.org/talk.wav?key=1#x") == "https://example.org/talk.wav"
    assert describe(b"abc") == "bytes"
    assert describe(tone()) == describe([0.0]) == describe(torch.zeros(3)) == "array"
    assert describe({"path": "a/b.wav", "bytes": b""}) == "b.wav"
    assert describe({"array": tone(), "sampling_rate": 1}) == "array"
    assert describe(io.BytesIO()) == "file object"
    assert len(describe("x" * 5000)) <= 120
    assert "\n" not in describe("talk\n.wav")


# Memory


def test_a_long_file_is_never_whole_in_memory(tmp_path):
    path = tmp_path / "long.wav"
    minute = np.stack([tone(60, 44100)] * 2, axis=1)
    with sf.SoundFile(path, "w", 44100, 2) as file:
        for _ in range(20):
            file.write(minute)
    decoded_bytes = 20 * 60 * 44100 * 2 * 4
    tracemalloc.start()
    samples = sum(len(block) for block in open_audio(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert samples == 20 * 60 * RATE
    assert peak < decoded_bytes / 50
