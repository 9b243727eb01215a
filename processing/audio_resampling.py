"""Change of sampling rate: a windowed-sinc filter in polyphase form, for whole signals and for streams."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

# Half width in zero crossings, place of the cutoff, and Kaiser's beta (about 80 dB): together they put the
# stop band's edge on the new Nyquist frequency and keep the pass band flat to nine tenths of it.
ZERO_CROSSINGS = 48
ROLLOFF = 0.95
KAISER_BETA = 7.86

# Output phases that share one matrix: more phases waste products on zeros, fewer make the matrices thin.
PHASES_PER_GROUP = 32
# One row of a product covers at least so many input samples; simple ratios (1:3) are repeated until it does.
SMALLEST_STRIDE = 512
SLICE_SAMPLES = 1 << 18


def resample(waveform: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Float32 `[n]` at `from_rate` -> float32 `[ceil(n * to_rate / from_rate)]` at `to_rate`."""
    stream = StreamResampler(from_rate, to_rate)
    # In slices, so that what the products need besides input and output stays small.
    slices = [
        stream.push(waveform[start : start + SLICE_SAMPLES])
        for start in range(0, len(waveform), SLICE_SAMPLES)
    ]
    return np.concatenate([*slices, stream.finish()])


class StreamResampler:
    """Resamples a signal that comes in blocks; the results, joined, are `resample` of the joined blocks."""

    def __init__(self, from_rate: int, to_rate: int):
        if min(from_rate, to_rate) < 1 or int(from_rate) != from_rate or int(to_rate) != to_rate:
            raise ValueError(f"cannot resample from {from_rate} to {to_rate}; rates are whole numbers of Hz")
        divisor = math.gcd(int(from_rate), int(to_rate))
        self.up, self.down = int(to_rate) // divisor, int(from_rate) // divisor
        if self.up == self.down:
            return
        repeats = -(-SMALLEST_STRIDE // self.down)
        self.row_outputs, self.row_inputs = self.up * repeats, self.down * repeats
        self.half_width, self.group_starts, self.kernels = _kernels(
            self.up, self.down, self.row_outputs, PHASES_PER_GROUP
        )
        # The filter looks half a width back from the first sample: silence.
        self.pending = torch.zeros(self.half_width, dtype=torch.float64)
        self.samples_in = self.samples_out = 0

    def push(self, block: np.ndarray) -> np.ndarray:
        """Float32 `[n]` -> what can be computed by now, float32 `[any length]`."""
        samples = np.ascontiguousarray(block, dtype=np.float32)
        if self.up == self.down:
            return samples
        self.samples_in += len(samples)
        self._append(samples)
        row_reach = self.group_starts[-1] + self.kernels.shape[1]
        rows = (len(self.pending) - row_reach) // self.row_inputs + 1
        return self._rows(max(rows, 0))

    def finish(self) -> np.ndarray:
        """What the last samples give once silence follows them; call it once, at the end."""
        if self.up == self.down:
            return np.zeros(0, np.float32)
        missing = -(-self.samples_in * self.up // self.down) - self.samples_out
        rows = -(-missing // self.row_outputs)
        row_reach = self.group_starts[-1] + self.kernels.shape[1]
        self._append(np.zeros(max(rows * self.row_inputs + row_reach - len(self.pending), 0), np.float32))
        return self._rows(rows)[:missing]

    def _append(self, samples: np.ndarray) -> None:
        # A copy, even of nothing: the caller may overwrite its block later. Read-only arrays are welcome too.
        self.pending = torch.cat([self.pending, torch.tensor(samples, dtype=torch.float64)])

    def _rows(self, rows: int) -> np.ndarray:
        if rows == 0:
            return np.zeros(0, np.float32)
        width = self.kernels.shape[1]
        # In double precision, or the number of rows in a product would show in the sums.
        outputs = torch.empty(rows, len(self.group_starts) * PHASES_PER_GROUP, dtype=torch.float64)
        for group, start in enumerate(self.group_starts):
            # rows, width: every row starts `row_inputs` samples after the one before; no sample is copied.
            windows = self.pending.as_strided((rows, width), (self.row_inputs, 1), start)
            columns = slice(group * PHASES_PER_GROUP, (group + 1) * PHASES_PER_GROUP)
            torch.mm(windows, self.kernels[group], out=outputs[:, columns])
        # A clone, or the view would keep the whole pushed block alive.
        self.pending = self.pending[rows * self.row_inputs :].clone()
        self.samples_out += rows * self.row_outputs
        return outputs[:, : self.row_outputs].reshape(-1).float().numpy()


@lru_cache(maxsize=16)
def _kernels(up: int, down: int, phases: int, group_size: int) -> tuple[int, list[int], torch.Tensor]:
    """Half width in input samples, first input sample of each group, `[groups, width, group_size]`."""
    # Below the lower of the two Nyquist frequencies, as a fraction of the input's.
    cutoff = ROLLOFF * min(1.0, up / down)
    half_width = math.ceil(ZERO_CROSSINGS / cutoff)
    # Rounded up to whole groups; the surplus phases are computed and thrown away.
    phase_groups = np.arange(-(-phases // group_size) * group_size).reshape(-1, group_size)
    group_starts = phase_groups[:, 0] * down // up
    width = 2 * half_width + 2 + (group_size * down) // up

    weights = np.empty((len(phase_groups), width, group_size))
    for group, (start, members) in enumerate(zip(group_starts, phase_groups, strict=True)):
        centres = members * (down / up) - start  # group_size
        # width, group_size: distance of every input sample from every output sample, in input samples
        distance = np.arange(-half_width, width - half_width)[:, None] - centres[None, :]
        inside = np.clip(1 - (distance / half_width) ** 2, 0, None)
        window = np.where(inside > 0, np.i0(KAISER_BETA * np.sqrt(inside)), 0)
        response = np.sinc(cutoff * distance) * window
        # Every phase passes a constant unchanged; otherwise silence with an offset would hum.
        weights[group] = response / response.sum(axis=0, keepdims=True)
    return half_width, group_starts.tolist(), torch.from_numpy(weights)
