"""Encoded audio -> blocks of samples: through soundfile, the standard library's `wave`, or ffmpeg.

Every decoder yields `(sampling rate, float32 mono block)` and raises `UnreadableAudio` with the bare reason.
"""

from __future__ import annotations

import codecs
import io
import os
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np

from .audio_truncation import FORGIVEN_FRAMES, file_size, ogg_page_is_cut, read_at, samples_missing, walk_mpeg

try:
    import soundfile
except (ImportError, OSError):  # OSError: the package is there, the library it wraps is not
    soundfile = None

Blocks = Iterator[tuple[int, np.ndarray]]

BLOCK_FRAMES = 1 << 16
# What libsndfile says for "the header gives no length" is the largest 64-bit number.
UNKNOWN_FRAMES = 1 << 62
# Decoders of mp3 drop the first frame or two, which need the frames before them.
MP3_FORGIVEN_SAMPLES = 3 * 1152

# Name of a format by how its file begins: offset, bytes. ffmpeg is asked only for these, because it tries
# to make sound of anything at all.
MAGIC = (
    (0, b"RIFF", "wav"),
    (0, b"RIFX", "wav"),
    (0, b"RF64", "wav"),
    (0, b"fLaC", "flac"),
    (0, b"OggS", "ogg"),
    (0, b"ID3", "mp3"),
    (0, b"FORM", "aiff"),
    (0, b".snd", "au"),
    (0, b"riff", "w64"),
    (0, b"caff", "caf"),
    (4, b"ftyp", "mp4/m4a"),
    (0, b"\x1a\x45\xdf\xa3", "webm/matroska"),
    (0, b"ADIF", "aac"),
    (0, b"#!AMR", "amr"),
    (0, b"\x30\x26\xb2\x75", "wma/asf"),
    (0, b"FLV", "flv"),
    (0, b"\x0b\x77", "ac3"),
    (0, b"wvpk", "wavpack"),
    (0, b"MAC ", "ape"),
)
SOUNDFILE_FORMATS = ("wav", "flac", "ogg", "mp2", "mp3", "aiff", "au", "w64", "caf")
# What ffmpeg logs when its input ends early, mostly with exit code 0.
FFMPEG_TRUNCATION_SIGNS = (
    "partial file",
    "moov atom not found",
    "File ended prematurely",
    "Input buffer exhausted",
)


class UnreadableAudio(ValueError):  # noqa: N818 - a reason, which becomes an error once the source is named
    """Why a source cannot be read, without the source's name."""


def decode_file(file: BinaryIO, path: str | None, sampling_rate: int) -> Blocks:
    """Decode a seekable binary file; `path` is where it lies on disk, `sampling_rate` only a wish."""
    head = read_at(file, 0, 4096)
    if not head:
        raise UnreadableAudio("empty file (0 bytes)")
    if _is_text(head):
        raise UnreadableAudio("text, not audio")
    # libsndfile knows more formats than the table; whatever it opens is audio.
    form = _format_name(head) or _soundfile_format(file)
    if form is None:
        raise UnreadableAudio("not in a known audio format")
    _refuse_truncated(file, form)
    if soundfile is None and form in SOUNDFILE_FORMATS:
        if form != "wav":
            raise UnreadableAudio(f"reading {form} needs soundfile; install soundfile")
        yield from _wave_blocks(file)
        return
    opened = _open_soundfile(file, form)
    if opened is not None:
        yield from _soundfile_blocks(opened, form)
    elif shutil.which("ffmpeg") is None:
        hint = f"broken, or of a kind of {form} that needs ffmpeg" if form in SOUNDFILE_FORMATS else ""
        raise UnreadableAudio(f"{hint or f'reading {form} needs ffmpeg'}; install ffmpeg and put it on PATH")
    else:
        with _on_disk(file, path) as where:
            yield from _ffmpeg_blocks(where, form, sampling_rate)


def _format_name(head: bytes) -> str | None:
    for offset, magic, name in MAGIC:
        if head.startswith(magic, offset):
            return name
    # MPEG sync word and its two layer bits. Layer I, which nobody uses, looks like a UTF-16 byte order mark.
    if head[0] == 0xFF and len(head) > 1 and head[1] >> 5 == 0x7:
        return {0: "aac", 1: "mp3", 2: "mp2"}.get(head[1] >> 1 & 3)
    if head[0] == 0x47 and head[188:189] == b"\x47":
        return "mpeg-ts"
    return None


def _is_text(head: bytes) -> bool:
    try:
        # Incremental, because the head may end inside a character.
        return "\0" not in codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False


def _refuse_truncated(file: BinaryIO, form: str) -> None:
    if form == "mp3":
        stream = walk_mpeg(file)
        if stream is None or not stream.is_truncated:
            return
        reason = f"truncated: holds {stream.whole_frames * stream.frame_seconds:.1f} s"
        if stream.promised_frames is None:
            raise UnreadableAudio(f"{reason}, and its last frame is cut")
        raise UnreadableAudio(f"{reason} of {stream.promised_frames * stream.frame_seconds:.1f} s")
    if form == "ogg" and ogg_page_is_cut(file):
        raise UnreadableAudio(f"truncated: holds {_seconds(file):.1f} s, and its last page is cut")
    if form in ("wav", "aiff") and (missing := samples_missing(file)):
        held = _seconds(file)
        if not held:
            raise UnreadableAudio(f"truncated: {missing:.0%} of its samples are missing")
        raise UnreadableAudio(f"truncated: holds {held:.1f} s of {held / (1 - missing):.1f} s")


def _soundfile_format(file: BinaryIO) -> str | None:
    opened = _open_soundfile(file, form="")
    if opened is None:
        return None
    with opened:
        return opened.format.lower()


def _seconds(file: BinaryIO) -> float:
    """How much libsndfile finds; 0 where it finds nothing or is not installed."""
    opened = _open_soundfile(file, form="")
    if opened is None:
        return 0.0
    with opened:
        return opened.frames / opened.samplerate


class _Sequential(soundfile.SoundFile if soundfile is not None else object):  # type: ignore[misc]
    """Read from front to end: soundfile seeks after every block, which FLAC of unknown length can't."""

    def seekable(self) -> bool:
        return False


class _Spliced(io.RawIOBase):
    """`prefix`, then `file` from `start` on, as one file."""

    def __init__(self, prefix: bytes, file: BinaryIO, start: int):
        self.prefix, self.file, self.start, self.position = prefix, file, start, 0
        self.size = len(prefix) + file_size(file) - start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer) -> int:
        data = self.prefix[self.position : self.position + len(buffer)]
        if len(data) < len(buffer):
            after = self.position + len(data) - len(self.prefix) + self.start
            data += read_at(self.file, after, len(buffer) - len(data))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def _open_soundfile(file: BinaryIO, form: str):
    """The opened file, or None where libsndfile does not know it."""
    if soundfile is None:
        return None
    stream = walk_mpeg(file) if form == "mp3" else None
    promised = stream.promised_frames if stream is not None else None
    if stream is not None and (promised is None or promised + FORGIVEN_FRAMES < stream.whole_frames):
        # libsndfile stops where it guesses the end: less than half way in an mp3 of variable bit rate without
        # a Xing header, and after the first of several joined files.
        file = _Spliced(stream.counting_header(), file, stream.start)  # type: ignore[assignment]
    file.seek(0)
    try:
        return _Sequential(_Nameless(file))
    except soundfile.LibsndfileError:
        return None


class _Nameless:
    """A file without its name, from whose ending soundfile would infer things (`.raw`)."""

    def __init__(self, file: BinaryIO):
        self.seek, self.tell, self.read = file.seek, file.tell, file.read
        if hasattr(file, "readinto"):
            self.readinto = file.readinto


def _soundfile_blocks(opened, form: str) -> Blocks:
    with opened:
        rate, promised, held, failed = opened.samplerate, opened.frames, 0, False
        buffer = np.empty((BLOCK_FRAMES, opened.channels), np.float32)
        while True:
            # Where the decoder gives up in mid-block, what it left untouched tells how far it came.
            buffer.fill(np.nan)
            try:
                block = opened.read(out=buffer)
            except soundfile.LibsndfileError:
                held += int(np.isfinite(buffer[:, 0]).sum())
                failed = True
                break
            if not len(block):
                break
            held += len(block)
            yield rate, mixed_to_mono(block)
    if promised >= UNKNOWN_FRAMES:
        if failed:
            raise UnreadableAudio(f"truncated or damaged: decoding stops after {held / rate:.1f} s")
    elif held < promised - (MP3_FORGIVEN_SAMPLES if form == "mp3" else 0):
        raise UnreadableAudio(f"truncated or damaged: holds {held / rate:.1f} s of {promised / rate:.1f} s")


def _wave_blocks(file: BinaryIO) -> Blocks:
    file.seek(0)
    try:
        reader = wave.open(file, "rb")  # noqa: SIM115 - closing it would close a file that may be the caller's
        rate, channels, width = reader.getframerate(), reader.getnchannels(), reader.getsampwidth()
        while data := reader.readframes(BLOCK_FRAMES):
            whole = len(data) // (width * channels) * width * channels
            yield rate, mixed_to_mono(_pcm(data[:whole], width).reshape(-1, channels))
    except (wave.Error, EOFError) as error:
        raise UnreadableAudio(
            f"not PCM wav ({str(error) or 'it ends in its header'}); install soundfile"
        ) from None


def _pcm(data: bytes, width: int) -> np.ndarray:
    """Little-endian PCM -> float32 `[samples]` in [-1, 1]; 8 bits are unsigned, the others signed."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    # Each sample into the top bytes of 32 bits: 16 and 24 bits need no arithmetic of their own.
    wide = np.zeros((len(data) // width, 4), np.uint8)
    wide[:, 4 - width :] = np.frombuffer(data, np.uint8).reshape(-1, width)
    return wide.view("<i4")[:, 0].astype(np.float32) / 2**31


def mixed_to_mono(block: np.ndarray) -> np.ndarray:
    """Float32 `[n, channels]` -> float32 `[n]`, never a view of `block`."""
    return block[:, 0].copy() if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)


@contextmanager
def _on_disk(file: BinaryIO, path: str | None):
    """A path for programs that need one; what has none is copied to a file that goes afterwards."""
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "audio")
        file.seek(0)
        with open(copy, "wb") as target:
            shutil.copyfileobj(file, target, 1 << 20)
        yield copy


def _ffmpeg_blocks(path: str, form: str, sampling_rate: int) -> Blocks:
    # Only local files: a playlist dressed up as audio must not make ffmpeg fetch addresses.
    command = ["ffmpeg", "-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe", "-i", f"file:{path}"]
    command += ["-map", "0:a:0", "-f", "f32le", "-ac", "1", "-ar", str(sampling_rate), "-"]
    samples = 0
    # The log goes to a file: a pipe that nobody empties would stop ffmpeg.
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        assert process.stdout is not None
        try:
            while data := process.stdout.read(4 * BLOCK_FRAMES):
                block = np.frombuffer(data[: len(data) // 4 * 4], "<f4").astype(np.float32)
                samples += len(block)
                yield sampling_rate, block
        except BaseException:
            # Also when the caller stops early: ffmpeg would wait for ever to be read.
            process.kill()
            raise
        process.wait()
        log.seek(0)
        message = log.read().decode("utf-8", "replace").replace(f"file:{path}: ", "").strip()
    if any(sign in message for sign in FFMPEG_TRUNCATION_SIGNS):
        raise UnreadableAudio(f"truncated: holds {samples / sampling_rate:.1f} s, and its {form} data is cut")
    if "matches no streams" in message:
        raise UnreadableAudio(f"{form} without an audio track")
    if process.returncode:
        raise UnreadableAudio(
            f"ffmpeg can't read it as {form}: {(message or 'no reason given').splitlines()[-1]}"
        )
