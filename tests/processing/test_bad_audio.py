"""Every broken source gives one line that names it and says why."""

import io
import re
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
from sounds import RATE, cut, error_of, needs_ffmpeg, tone, without_xing
from speechllm.processing.audio_reading import open_audio, read_audio


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
