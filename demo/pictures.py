"""Sound and attention as small pictures that a page can hold in itself."""

import base64
import io

import numpy as np
from PIL import Image

COLUMNS = 900
BANDS = 72
FRAME_SECONDS = 0.032
# Below the loudest point of a recording; what is quieter is not drawn.
DRAWN_DB = 60.0
# From faint to strong; faint is transparent, so that one picture suits a light and a dark page.
FAINT, STRONG = np.array([38, 166, 154.0]), np.array([234, 88, 12.0])


def envelope(waveform: np.ndarray, columns: int = COLUMNS) -> np.ndarray:
    """Greatest magnitude of each column, `[at most columns]`, 1 where the recording is loudest."""
    magnitudes = np.abs(waveform)
    starts = np.unique(np.linspace(0, len(magnitudes), columns, endpoint=False).astype(int))
    peaks = np.maximum.reduceat(magnitudes, starts)
    return peaks / max(float(peaks.max()), 1e-6)


def waveform_path(peaks: np.ndarray) -> str:
    """The outline of an envelope as an SVG path in a box of `len(peaks)` by 2."""
    heights = np.maximum(peaks, 0.012)
    upper = [f"{x} {1 - height:.3f}" for x, height in enumerate(heights)]
    lower = [f"{x} {1 + height:.3f}" for x, height in enumerate(heights)]
    return "M" + "L".join([*upper, *reversed(lower)]) + "Z"


def spectrogram(waveform: np.ndarray, sampling_rate: int, columns: int = COLUMNS) -> np.ndarray:
    """Strength from 0 to 1, `[BANDS, at most columns]`, low tones in the last row."""
    size = int(FRAME_SECONDS * sampling_rate)
    hop = max(size // 2, len(waveform) // columns, 1)
    padded = np.pad(waveform, (0, max(size - len(waveform), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2  # frames, bins
    edges = band_edges(power.shape[1], sampling_rate)
    bands = np.add.reduceat(power, edges[:-1], axis=1) / np.diff(edges)
    decibels = 10 * np.log10(bands + 1e-12)
    return np.clip((decibels - decibels.max()) / DRAWN_DB + 1, 0, 1).T[::-1]


def band_edges(bins: int, sampling_rate: int) -> np.ndarray:
    """First bin of each band and the end of the last: even on the mel scale, no band empty."""
    top = 2595 * np.log10(1 + sampling_rate / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, BANDS + 1) / 2595) - 1)
    edges = (hertz / (sampling_rate / 2) * (bins - 1)).astype(int)
    for place in range(1, len(edges)):
        edges[place] = max(edges[place], edges[place - 1] + 1)
    return edges


def heat(strength: np.ndarray) -> str:
    """Values from 0 to 1, `[rows, columns]`, as the address of a picture of so many pixels."""
    strength = np.clip(np.nan_to_num(strength), 0, 1)[..., None]
    colours = FAINT + (STRONG - FAINT) * strength**2
    pixels = np.concatenate([colours, 255 * strength], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(file, "PNG")
    return data_address(file.getvalue(), "image/png")


def data_address(content: bytes, kind: str) -> str:
    """Content as an address of its own: nothing is written to the server's disk, or asked of it again."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
