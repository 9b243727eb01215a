"""What a file's own headers promise, against what the file holds.

Detectable: wav and aiff that end before the samples their header announces; mp3 whose Xing, Info or VBRI
header counts more frames than there are; mp3 and ogg cut inside a frame or page. FLAC announces its length
too, and its decoder notices. Not detectable, and decoded as far as it goes: mp3 without such a header that
ends between two frames, ogg that ends between two pages (a live recording ends that way too), and wav whose
writer did not know the length (a pipe).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

# Writers that pipe announce 0xFFFFFFFF, 0x7FFFFFFF less a header, or 0x80000000 bytes: no promise at all.
LARGEST_HONEST_SIZE = 0x7FFF0000
# Some writers count header bytes among the samples. Nobody hears that few missing.
FORGIVEN_BYTES = 64
# Encoders disagree whether a Xing header counts itself and the encoder's delay.
FORGIVEN_FRAMES = 2
# An ogg page is at most 65,307 bytes: the last one begins in here.
OGG_TAIL = 1 << 16
MPEG_SEARCH = 1 << 16

MPEG1_KBPS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
MPEG2_KBPS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
MPEG_RATES = (44100, 48000, 32000)


def file_size(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)


def read_at(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)


def chunk_sizes(file: BinaryIO) -> tuple[int, int] | None:
    """Bytes of samples held and promised by a wav (RIFF, RIFX, RF64) or aiff file; None where unknown."""
    kind = read_at(file, 0, 4)
    if kind not in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
        return None
    order = "<" if kind in (b"RIFF", b"RF64") else ">"
    size, position, long_size = file_size(file), 12, None
    while position + 8 <= size:
        name, length = struct.unpack(order + "4sI", read_at(file, position, 8))
        position += 8
        if name == b"ds64":
            long_size = struct.unpack("<8xQ", read_at(file, position, 16).ljust(16, b"\0"))[0]
        if name in (b"data", b"SSND"):
            promised = long_size if long_size is not None and length == 0xFFFFFFFF else length
            unknown = promised == length and length >= LARGEST_HONEST_SIZE
            return None if unknown else (size - position, promised)
        position += length + length % 2
    return None


def samples_missing(file: BinaryIO) -> float:
    """Fraction of the promised samples that a wav or aiff file lacks; 0 when complete or unknown."""
    held, promised = chunk_sizes(file) or (0, 0)
    return 1 - held / promised if promised - held > FORGIVEN_BYTES else 0.0


def ogg_page_is_cut(file: BinaryIO) -> bool:
    """Whether the last page of an ogg stream is shorter than its own header says."""
    start = max(file_size(file) - OGG_TAIL, 0)
    tail = read_at(file, start, OGG_TAIL)
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    segments = page[26] if len(page) > 26 else 255
    return len(page) < 27 + segments + sum(page[27 : 27 + segments])


@dataclass
class MpegStream:
    """The frames of an mp3 file: where they begin, how many are whole, how many its header promises."""

    start: int
    header: bytes
    frame_seconds: float
    frame_samples: int
    whole_frames: int
    promised_frames: int | None
    last_frame_is_cut: bool

    @property
    def is_truncated(self) -> bool:
        if self.promised_frames is None:
            return self.last_frame_is_cut
        missing = self.promised_frames - self.whole_frames
        return missing > FORGIVEN_FRAMES or (self.last_frame_is_cut and missing > 0)

    def counting_header(self) -> bytes:
        """A Xing frame with the true count, for a decoder that would guess it from the bit rate."""
        # Copy protection and padding off, a bit rate that has room for the header whatever the sampling rate.
        word = int.from_bytes(self.header, "big") & 0xFFFF0DFF | 0x10000 | 8 << 12
        header = word.to_bytes(4, "big")
        length = _mpeg_frame(header)[0]
        body = b"Xing" + struct.pack(">II", 1, self.whole_frames)
        return (header + bytes(_side_information(header)) + body).ljust(length, b"\0")


def walk_mpeg(file: BinaryIO) -> MpegStream | None:
    """Follow the frame headers of an mp3 from first to last; None if that finds no layer III frames."""
    size, position = file_size(file), 0
    while (tag := read_at(file, position, 10))[:3] == b"ID3" and len(tag) == 10:
        position += 10 + sum(byte << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
    first = start = _find_frame(file, position)
    if first is None or start is None:
        return None
    header = read_at(file, first, 4)
    length, samples, rate = _mpeg_frame(header)
    is_header, promised = _promised_frames(read_at(file, first, length))
    position = first + length if is_header else first
    whole_frames = 0
    while (end := position + _mpeg_frame(read_at(file, position, 4))[0]) <= size:
        if end == position:  # no frame here: a tag at the end, or damage to step over
            found = _find_frame(file, position)
            if found is None:
                break
            position = found
            continue
        position, whole_frames = end, whole_frames + 1
    return MpegStream(
        first + length if is_header else first,
        header,
        samples / rate,
        samples,
        whole_frames,
        promised,
        last_frame_is_cut=end > size,
    )


def _mpeg_frame(header: bytes) -> tuple[int, int, int]:
    """Bytes, samples and sampling rate of a layer III frame; zeros where its header is none."""
    word = int.from_bytes(header, "big")
    version, bit_rate, rate = word >> 19 & 3, word >> 12 & 15, word >> 10 & 3
    if len(header) < 4 or word >> 21 != 0x7FF or word >> 17 & 3 != 1 or version == 1:
        return 0, 0, 0
    if bit_rate in (0, 15) or rate == 3:
        return 0, 0, 0
    is_mpeg1 = version == 3
    hertz = MPEG_RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]
    kbps = (MPEG1_KBPS if is_mpeg1 else MPEG2_KBPS)[bit_rate]
    return (144000 if is_mpeg1 else 72000) * kbps // hertz + (word >> 9 & 1), 1152 if is_mpeg1 else 576, hertz


def _find_frame(file: BinaryIO, position: int) -> int | None:
    """Position of the next frame header that another of the same kind follows."""
    window = read_at(file, position, MPEG_SEARCH)
    at = window.find(b"\xff")
    while at >= 0:
        header = window[at : at + 4]
        length, _, rate = _mpeg_frame(header)
        if length and _mpeg_frame(read_at(file, position + at + length, 4))[2] == rate:
            return position + at
        at = window.find(b"\xff", at + 1)
    return None


def _side_information(header: bytes) -> int:
    is_mpeg1, is_mono = header[1] >> 3 & 3 == 3, header[3] >> 6 == 3
    return (17 if is_mono else 32) if is_mpeg1 else (9 if is_mono else 17)


def _promised_frames(frame: bytes) -> tuple[bool, int | None]:
    """Whether a first frame is a header without sound, and the number of frames it announces."""
    at = 4 + _side_information(frame)
    if frame[at : at + 4] in (b"Xing", b"Info"):
        flags, count = struct.unpack(">II", frame[at + 4 : at + 12].ljust(8, b"\0"))
        return True, count if flags & 1 and count else None
    if frame[36:40] == b"VBRI":
        return True, int.from_bytes(frame[50:54], "big") or None
    return False, None
