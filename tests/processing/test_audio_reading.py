"""Every source gives the same samples; every broken one gives one line that names it and says why."""

import http.server
import io
import re
import shutil
import struct
import subprocess
import threading
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
import torch
from speechllm.processing import audio_decoding
from speechllm.processing.audio_reading import describe, open_audio, read_audio

RATE = 16000
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not on PATH")


def tone(seconds: float = 1.0, rate: int = RATE, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def assert_same_sound(actual: np.ndarray, expected: np.ndarray, tolerance: float = 1e-3) -> None:
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    edge = len(expected) // 20
    assert np.abs(actual - expected)[edge : len(expected) - edge].max() < tolerance


def error_of(source, **options) -> str:
    with pytest.raises(ValueError) as caught:
        read_audio(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def cut(path: Path, fraction: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path


def without_xing(path: Path) -> Path:
    """Take the first frame, which holds the frame count and no sound, off an mp3 file."""
    data = path.read_bytes()
    assert b"Xing" in data[:200] or b"Info" in data[:200]
    path.write_bytes(data[data.index(data[:2], 4) :])
    return path


@pytest.fixture
def wav(tmp_path) -> Path:
    path = tmp_path / "talk.wav"
    sf.write(path, tone(), RATE)
    return path


@pytest.fixture
def mp3(tmp_path) -> Path:
    path = tmp_path / "talk.mp3"
    sf.write(path, tone(10, 44100), 44100, format="MP3")
    return path


@pytest.fixture
def server(tmp_path):
    """A web server on the loopback interface that serves `tmp_path`; `/short` breaks its promise."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def do_GET(self):
            if self.path != "/short":
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"RIFF")

        def log_message(self, *_):
            """Keep the test's output clean."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


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


# Bad input


def test_a_missing_file_is_named():
    assert error_of("folder/talk.wav") == "talk.wav: no such file"
    assert error_of({"path": "folder/talk.wav", "bytes": None}) == "talk.wav: no such file"


def test_a_directory_is_refused(tmp_path):
    assert error_of(tmp_path) == f"{tmp_path.name}: is a directory"


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "talk.wav").touch()
    assert error_of(tmp_path / "talk.wav") == "talk.wav: empty file (0 bytes)"
    assert error_of(b"") == "bytes: empty file (0 bytes)"


def test_zero_samples_are_refused(tmp_path):
    sf.write(tmp_path / "talk.wav", np.zeros(0), RATE)
    assert error_of(tmp_path / "talk.wav") == "talk.wav: holds no samples"
    for empty in ([], np.zeros(0), np.zeros((0, 2)), np.zeros((2, 0))):
        assert error_of(empty) == "array: holds no samples"


def test_nan_is_refused_with_its_time():
    samples = tone(10)
    samples[round(7.5 * RATE)] = np.nan
    assert error_of(samples) == "array: its samples are not a number (NaN) from 7.500 s on"
    assert error_of(np.full(100, np.nan)) == "array: its samples are not a number (NaN) from 0.000 s on"


def test_infinity_is_refused_with_its_time(tmp_path):
    samples = tone(10, 44100)
    samples[44100 * 3] = -np.inf
    sf.write(tmp_path / "talk.wav", samples, 44100, subtype="FLOAT")
    assert error_of(tmp_path / "talk.wav") == "talk.wav: its samples are infinite from 3.000 s on"


def test_nan_does_not_hold_back_the_blocks_before_it():
    samples = tone(60)
    samples[-1] = np.nan
    assert len(next(open_audio(samples))) > 0


@pytest.mark.parametrize("name", ["talk.wav", "talk.mp3", "talk.txt"])
def test_text_is_refused(tmp_path, name):
    (tmp_path / name).write_text("This is no sound, whatever its name. È così.\n" * 200, encoding="utf-8")
    assert error_of(tmp_path / name) == f"{name}: text, not audio"


@pytest.mark.parametrize("name", ["talk.wav", "talk.mp3", "talk.raw", "talk.m4a"])
def test_bytes_that_are_no_audio_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80" + np.random.default_rng(0).bytes(50000))
    assert error_of(tmp_path / name) == f"{name}: not in a known audio format"


def test_a_wav_that_is_only_a_header_is_refused(wav):
    wav.write_bytes(wav.read_bytes()[:20])
    assert error_of(wav).startswith("talk.wav: ")


@pytest.mark.parametrize("name", ["wav", "aiff"])
def test_a_truncated_pcm_file_is_refused(tmp_path, name):
    path = tmp_path / f"talk.{name}"
    sf.write(path, tone(10, 44100), 44100)
    assert error_of(cut(path, 0.31)) == f"talk.{name}: truncated: holds 3.1 s of 10.0 s"


def test_a_truncated_flac_is_refused(tmp_path):
    path = tmp_path / "talk.flac"
    sf.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 441000), 44100)
    message = error_of(cut(path, 0.31))
    assert message.startswith("talk.flac: truncated or damaged: holds 3.1 s of 10.0 s")


def test_a_truncated_ogg_is_refused(tmp_path):
    path = tmp_path / "talk.ogg"
    sf.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 441000), 44100)
    message = error_of(cut(path, 0.5))
    assert message.startswith("talk.ogg: truncated: holds ")
    assert message.endswith(" s, and its last page is cut")


def test_a_truncated_mp3_is_refused(mp3):
    # By bytes; the encoder spends them unevenly.
    assert re.fullmatch(r"talk\.mp3: truncated: holds (2\.9|3\.\d) s of 10\.0 s", error_of(cut(mp3, 0.31)))


def test_an_mp3_that_lacks_its_last_second_is_refused(mp3):
    assert "truncated: holds 9.0 s of 10.0 s" in error_of(cut(mp3, 0.9))


def test_an_mp3_without_frame_count_cut_inside_a_frame_is_refused(mp3):
    message = error_of(cut(without_xing(mp3), 0.505))
    assert message.startswith("talk.mp3: truncated: holds 5.0 s")
    assert message.endswith("its last frame is cut")


def test_an_mp3_without_frame_count_cut_between_frames_is_read_as_far_as_it_goes(mp3):
    whole = without_xing(mp3).read_bytes()
    starts = [at for at in range(len(whole)) if whole.startswith(whole[:2], at)]
    mp3.write_bytes(whole[: starts[len(starts) // 2]])
    assert len(read_audio(mp3)) / RATE == pytest.approx(5, abs=0.5)


def test_a_damaged_mp3_is_refused(mp3):
    data = bytearray(mp3.read_bytes())
    data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 4)
    mp3.write_bytes(data)
    assert error_of(mp3).startswith("talk.mp3: truncated")


@needs_ffmpeg
def test_a_truncated_m4a_is_refused(tmp_path, wav):
    path = tmp_path / "talk.m4a"
    for flags in ([], ["-movflags", "+faststart"]):  # the index at the end, and at the beginning
        subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", wav, *flags, path], check=True)
        message = error_of(cut(path, 0.6))
        assert message.startswith("talk.m4a: truncated: holds ")
        assert message.endswith("and its mp4/m4a data is cut")


@needs_ffmpeg
def test_a_video_without_sound_is_refused(tmp_path):
    path = tmp_path / "film.mp4"
    picture = ["-f", "lavfi", "-i", "color=d=1:s=64x64"]
    subprocess.run(["ffmpeg", "-v", "error", *picture, path], check=True)
    assert error_of(path) == "film.mp4: mp4/m4a without an audio track"


def test_odd_shapes_and_types_are_refused():
    assert error_of(np.zeros((1, 2, 3))).startswith("array: has shape (1, 2, 3); give (n,)")
    assert error_of(np.float32(1.0)).startswith("float32: ")
    assert error_of(np.zeros((80, 3000))).startswith(
        "array: has shape (80, 3000), which would be 80 channels"
    )
    assert error_of(np.zeros(9, np.complex64)).startswith("array: dtype complex64 is not audio; give float")
    assert error_of(np.zeros(9, np.int64)).startswith("array: dtype int64 is not audio")
    assert error_of(["a.wav"]).startswith("array: dtype <U5 is not audio")
    assert error_of([[0.0, 1.0], [0.0]]) == "array: its rows differ in length"
    assert error_of(tone(), source_rate=0).startswith("array: cannot resample from 0 to 16000")


def test_other_objects_are_refused():
    assert error_of(None).startswith("NoneType: is no audio; give a path")
    assert error_of({"text": "a"}).startswith("dict: has keys ['text']; give array and sampling_rate")
    assert error_of(io.StringIO("text")).startswith("file object: is open as text")


def test_a_failed_decoder_is_reported():
    def broken():
        raise RuntimeError("no such\nstream")

    message = error_of(SimpleNamespace(get_all_samples=broken))
    assert message == "decoded audio: its decoder failed: no such stream"


def test_a_failed_download_is_reported(server):
    assert error_of(f"{server}/gone.wav?token=secret") == (
        f"{server}/gone.wav: the server answers 404 File not found"
    )
    assert error_of(f"{server}/short") == f"{server}/short: download failed: 4 of 1000 bytes arrived"
    assert "download failed" in error_of("http://127.0.0.1:1/talk.wav")
    assert "download failed" in error_of("http://[/talk.wav")


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
