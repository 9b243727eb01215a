"""One batch on its way through the encoder, in parts that keep memory bounded; it may rest at a layer."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

# Encoder frames that one pass may hold, four clips of 30 s of Whisper: an encoder's activations are the peak
# of memory, and a pass over eight such clips was no faster than two over four (2 CPU cores).
FRAMES_AT_ONCE = 6000


class EncoderPass:
    """Features `[B, mel, T]` (or as the encoder wants them) with lengths `[B]`, through `model`'s encoder.

    `pad_to_maximum` runs the stock 30 s; `cut` drops what lies behind the longest clip again. `rest_at` runs
    up to a layer and keeps what was computed; `finish` goes on from there, under the bank's adapters.
    """

    def __init__(self, model, input_features, lengths: torch.Tensor, pad_to_maximum: bool, cut: bool = True):
        self.model, self.tower, self.features, self.lengths = (
            model,
            model.audio_tower,
            input_features,
            lengths,
        )
        self.how = {"pad_to_maximum": pad_to_maximum, "cut": cut}
        self.frames = model.config.encoder_frames(lengths)
        self.longest = int(self.frames.max())
        self._rested: list[Any] = []
        self._layer = 0
        self._ended: torch.Tensor | None = None

    def parts(self) -> Iterator[slice]:
        """Rows that go through together; on a CPU no more than keep within the bound."""
        heard = self.longest
        if self.how["pad_to_maximum"]:
            heard = self.model.config.encoder_frames(self.model.config.max_inputs)
        count = len(self.lengths)
        # In training memory is the batch's business, and an accelerator wants large passes.
        whole = self.model.training or self.lengths.device.type != "cpu"
        rows = count if whole else max(1, FRAMES_AT_ONCE // max(heard, 1))
        for start in range(0, count, rows):
            yield slice(start, min(start + rows, count))

    @classmethod
    def of_base(cls, model, input_features, lengths: torch.Tensor) -> "EncoderPass":
        """A pass under no adapter of the bank, padded as this checkpoint's adapters were trained."""
        model.bank.use(None)
        padded = model.config.encoder_padding == "max_length"
        return cls(model, input_features, lengths, pad_to_maximum=padded, cut=not padded)

    @classmethod
    def ended(cls, model, states: torch.Tensor, lengths: torch.Tensor) -> "EncoderPass":
        """A pass that was made before: its `finish` gives these states `[B, T', D]`."""
        run = cls(model, None, lengths, pad_to_maximum=model.config.encoder_padding == "max_length")
        run._ended = states.to(model.language_model.dtype)
        return run

    def rest_at(self, layer: int | None) -> Iterator[tuple[slice, torch.Tensor]]:
        """Rows and their states `[b, T, D]` as they enter `layer`; nothing of the bank is in use so far.

        `None` is the encoder's output, of which `finish` has nothing left to do.
        """
        if layer is None:
            self._ended = self.finish()
            yield slice(0, len(self.lengths)), self._ended
            return
        self._rested, self._layer = [], layer
        for rows in self.parts():
            inputs = self.tower.embed(self.features[rows], self.lengths[rows], self.how["pad_to_maximum"])
            inputs = self.tower.run_layers(inputs, 0, layer)
            self._rested.append(inputs)
            yield rows, inputs.states

    def finish(self) -> torch.Tensor:
        """Encoder states `[B, T', D]`, under the adapters that the bank has in use."""
        if self._ended is not None:
            return self._ended
        parts = []
        for place, rows in enumerate(self.parts()):
            with self.model.bank.only(rows):
                states = self._finish_rested(place) if self._rested else self._run(rows)
            parts.append(F.pad(states, (0, 0, 0, max(self.longest - states.shape[1], 0))))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _run(self, rows: slice) -> torch.Tensor:
        return self.tower(self.features[rows], self.lengths[rows], **self.how).last_hidden_state

    def _finish_rested(self, place: int) -> torch.Tensor:
        inputs = self.tower.run_layers(self._rested[place], self._layer, len(self.tower.layers))
        states = self.tower.finish(inputs)
        return states[:, : int(inputs.frames.max())] if self.how["cut"] else states
