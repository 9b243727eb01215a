"""Anything that holds sound -> mono float32 at one sampling rate, in blocks.

Whatever is wrong with a source is a `ValueError` of one line: its name and the reason.
"""

from __future__ import annotations

import http.client
import io
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import numpy as np
import torch

from .audio_decoding import BLOCK_FRAMES, Blocks, UnreadableAudio, decode_file, mixed_to_mono
from .audio_resampling import StreamResampler

INTEGER_SCALES = {"int16": (0.0, 2.0**15), "int32": (0.0, 2.0**31), "uint8": (128.0, 128.0)}
# More "channels" than any microphone array has: a spectrogram handed over as a waveform.
MOST_CHANNELS = 64
LONGEST_NAME = 120

DOWNLOAD_TIMEOUT_SECONDS = 30
LARGEST_DOWNLOAD = 4 << 30


def read_audio(source: Any, sampling_rate: int = 16000, source_rate: int | None = None) -> np.ndarray:
    """The whole of `source`, float32 `[n]` at `sampling_rate`; see `open_audio`."""
    return np.concatenate(list(open_audio(source, sampling_rate, source_rate)))


def open_audio(
    source: Any, sampling_rate: int = 16000, source_rate: int | None = None
) -> Iterator[np.ndarray]:
    """Read `source` in bounded memory: float32 blocks `[n]`, mono, at `sampling_rate`.

    `source`: a path, an http(s) or file URL, encoded bytes, a binary file, samples (array, tensor or list,
    `[n]`, `[n, channels]` or `[channels, n]`, at `source_rate`, by default `sampling_rate`), a dict of
    `array` or `raw` with `sampling_rate`, a dict of `bytes` and `path`, or a decoder with
    `get_all_samples()`.
    """
    try:
        yield from _resampled(_blocks(source, sampling_rate, source_rate), sampling_rate)
    except UnreadableAudio as reason:
        raise ValueError(_one_line(f"{describe(source)}: {reason}")) from None
    except OSError as error:
        raise ValueError(_one_line(f"{describe(source)}: {error.strerror or error}")) from error


def describe(source: Any) -> str:
    """A short name of `source` for messages: never its contents, nor a URL's query or password."""
    if isinstance(source, dict):
        inner = [source[key] for key in ("path", "array", "raw", "bytes") if source.get(key) is not None]
        return describe(inner[0]) if inner else "dict"
    if isinstance(source, (str, os.PathLike)):
        return _one_line(_path_name(os.fspath(source)))[:LONGEST_NAME]
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "bytes"
    if isinstance(source, (list, tuple, np.ndarray, torch.Tensor)):
        return "array"
    if hasattr(source, "get_all_samples"):
        return "decoded audio"
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        return describe(name) if isinstance(name, str) and name else "file object"
    return type(source).__name__


def _path_name(path: str | bytes) -> str:
    text = os.fsdecode(path)
    if _is_url(text):
        parts = _split_url(text)
        host = parts.netloc.rpartition("@")[2]
        return Path(parts.path).name if parts.scheme == "file" else f"{parts.scheme}://{host}{parts.path}"
    return Path(text).name or text or "empty path"


def _is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://", "file://"))


def _split_url(url: str):
    try:
        return urlsplit(url)
    except ValueError:  # an address such as http://[
        return urlsplit(url.translate({ord("["): None, ord("]"): None}))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _resampled(blocks: Blocks, sampling_rate: int) -> Iterator[np.ndarray]:
    resampler, samples = None, 0
    for rate, block in blocks:
        if resampler is None:
            resampler = _resampler(rate, sampling_rate)
        finite = np.isfinite(block)
        if not finite.all():
            first = int(finite.argmin())
            kind = "not a number (NaN)" if np.isnan(block[first]) else "infinite"
            raise UnreadableAudio(f"its samples are {kind} from {(samples + first) / rate:.3f} s on")
        samples += len(block)
        output = resampler.push(block)
        if len(output):
            yield output
    if resampler is None or not samples:
        raise UnreadableAudio("holds no samples")
    yield resampler.finish()


def _resampler(rate: int, sampling_rate: int) -> StreamResampler:
    try:
        return StreamResampler(rate, sampling_rate)
    except (TypeError, ValueError) as error:
        raise UnreadableAudio(str(error)) from None


def _blocks(source: Any, sampling_rate: int, source_rate: int | None) -> Blocks:
    """`source`, of whatever kind, as `(rate, mono block)`."""
    if isinstance(source, dict):
        yield from _dict_blocks(source, sampling_rate, source_rate)
    elif isinstance(source, (str, os.PathLike)):
        yield from _path_blocks(os.fsdecode(source), sampling_rate)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        yield from decode_file(io.BytesIO(source), None, sampling_rate)
    elif hasattr(source, "get_all_samples"):
        yield from _decoder_blocks(source)
    elif hasattr(source, "read"):
        with _rewound(source) as file:
            yield from decode_file(file, None, sampling_rate)
    elif isinstance(source, (list, tuple, np.ndarray, torch.Tensor)):
        yield from _array_blocks(_as_array(source), sampling_rate if source_rate is None else source_rate)
    else:
        raise UnreadableAudio("is no audio; give a path, a URL, bytes, a binary file, an array or a dict")


def _dict_blocks(source: dict, sampling_rate: int, source_rate: int | None) -> Blocks:
    rate = source.get("sampling_rate")
    for key in ("array", "raw", "bytes", "path"):
        if source.get(key) is not None:
            yield from _blocks(source[key], sampling_rate, source_rate if rate is None else rate)
            return
    raise UnreadableAudio(
        f"has keys {sorted(map(str, source))}; give array and sampling_rate, bytes, or path"
    )


def _path_blocks(path: str, sampling_rate: int) -> Blocks:
    if path.lower().startswith("file://"):
        path = urllib.request.url2pathname(_split_url(path).path)
    if _is_url(path):
        with tempfile.TemporaryDirectory() as folder:
            path = _downloaded(path, os.path.join(folder, "download"))
            with open(path, "rb") as file:
                yield from decode_file(file, path, sampling_rate)
        return
    if os.path.isdir(path):
        raise UnreadableAudio("is a directory")
    if not os.path.exists(path):
        raise UnreadableAudio("no such file")
    with open(path, "rb") as file:
        yield from decode_file(file, path, sampling_rate)


def _downloaded(url: str, target: str) -> str:
    """Fetch `url` into the file `target`, whose path is returned."""
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "speechllm"})
        with urllib.request.urlopen(request, timeout=DOWNLOAD_TIMEOUT_SECONDS) as answer:
            promised = int(answer.headers.get("Content-Length") or -1)
            with open(target, "wb") as file:
                held = 0
                while chunk := answer.read(1 << 20):
                    held += len(chunk)
                    if max(held, promised) > LARGEST_DOWNLOAD:
                        raise UnreadableAudio(
                            f"larger than {LARGEST_DOWNLOAD >> 30} GiB; download it yourself"
                        )
                    file.write(chunk)
    except UnreadableAudio:
        raise
    except urllib.error.HTTPError as error:
        raise UnreadableAudio(f"the server answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UnreadableAudio(f"download failed: {getattr(error, 'reason', error)}") from None
    if held < promised:
        raise UnreadableAudio(f"download failed: {held} of {promised} bytes arrived")
    return target


@contextmanager
def _rewound(source: Any) -> Iterator[BinaryIO]:
    """A file object from its beginning; one that cannot go back is copied first, and none is closed."""
    try:
        source.seek(0)
        first, seekable = source.read(1), True
    except (AttributeError, OSError):
        first, seekable = source.read(1), False
    if not isinstance(first, bytes):
        raise UnreadableAudio("is open as text; open it in binary mode")
    if seekable:
        yield source
        return
    with tempfile.TemporaryFile() as copy:
        copy.write(first)
        shutil.copyfileobj(source, copy, 1 << 20)
        yield cast(BinaryIO, copy)


def _decoder_blocks(decoder: Any) -> Blocks:
    try:
        samples = decoder.get_all_samples()
    except (RuntimeError, OSError, ValueError) as error:
        raise UnreadableAudio(f"its decoder failed: {error}") from None
    # `[channels, n]`, however short: the decoder says so, the shape alone would not.
    yield from _array_blocks(_as_array(samples.data).T, samples.sample_rate)


def _as_array(samples: Any) -> np.ndarray:
    if isinstance(samples, torch.Tensor):
        samples = samples.detach().cpu()
        # numpy has no bfloat16
        samples = samples.float() if samples.is_floating_point() else samples
    try:
        return np.asarray(samples)
    except (TypeError, ValueError):
        raise UnreadableAudio("its rows differ in length") from None


def _array_blocks(array: np.ndarray, rate: int) -> Blocks:
    if array.dtype.kind != "f" and array.dtype.name not in INTEGER_SCALES:
        raise UnreadableAudio(f"dtype {array.dtype} is not audio; give float, {', '.join(INTEGER_SCALES)}")
    if array.ndim not in (1, 2):
        raise UnreadableAudio(f"has shape {array.shape}; give (n,), (n, channels) or (channels, n)")
    columns = array[:, None] if array.ndim == 1 else array
    columns = columns.T if columns.shape[0] < columns.shape[1] else columns  # n, channels
    if columns.size and columns.shape[1] > MOST_CHANNELS:
        raise UnreadableAudio(f"has shape {array.shape}, which would be {columns.shape[1]} channels")
    offset, scale = INTEGER_SCALES.get(array.dtype.name, (0.0, 1.0))
    for start in range(0, len(columns) if columns.size else 0, BLOCK_FRAMES):
        block = columns[start : start + BLOCK_FRAMES].astype(np.float32)
        yield rate, mixed_to_mono((block - offset) / np.float32(scale) if scale != 1 else block)
