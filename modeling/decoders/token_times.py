"""When each token of a transcript was said: one more pass over the text shows where its decoder looked."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..length_masks import length_mask
from .time_warping import first_frames, standing_out

SECONDS_A_FRAME = 0.02
# The stride of the encoder's second convolution.
INPUTS_A_FRAME = 2
# Features are log10 of energy, divided by four: 60 dB below a clip's loudest nobody speaks.
SILENCE_DEPTH = 1.5


def token_times(whisper, prompt, prompt_mask, ids, states, mask, heard) -> Tensor:
    """Start and end in seconds of new ids `[B, N]`, `[B, N, 2]`, as stock Whisper finds them.

    `prompt` `[B, P]` and its mask came before the ids. `states` `[C, T, D]` and their mask are what was
    decoded, of as many clips or of fewer, each with several texts side by side; `heard` `[C, T]` are the
    frames in which a token may be. Tokens before the first of text and behind the last take no time.
    """
    each = len(ids) // len(states)
    if each > 1:
        prompt, prompt_mask, states, mask, heard = (
            None if one is None else one.repeat_interleave(each, dim=0)
            for one in (prompt, prompt_mask, states, mask, heard)
        )
    spans = text_spans(ids, whisper.config.eos_token_id, whisper.generation_config.pad_token_id)
    times = torch.zeros(*ids.shape, 2)
    rows = [row for row, (first, end) in enumerate(spans) if first < end]
    if not rows:
        return times
    shown = states.shape[1] if mask is None else mask.sum(dim=1).tolist()
    watch = DecoderWatch(whisper)
    for row in rows:
        first, end = (prompt.shape[1] + place for place in spans[row])
        # What foretells a token stands one place before it; the last one foretells the end.
        visible = shown if isinstance(shown, int) else shown[row]
        watch.views[row] = View(slice(first - 1, end), visible, heard[row].nonzero()[:, 0])
    longest = max(end for _, end in spans)
    with watch.watching():
        _read(whisper, prompt, prompt_mask, ids[:, :longest], states, mask)
    firsts = first_frames([watch.matrices[row].cpu().numpy() for row in rows])
    for row, entries in zip(rows, firsts, strict=True):
        first, end = spans[row]
        spoken = torch.from_numpy(stretches(entries, watch.views[row].frames.cpu().numpy()))
        times[row, first:end] = spoken
        times[row, :first], times[row, end:] = spoken[0, 0], spoken[-1, 1]
    return times


def text_spans(ids: Tensor, special: int, pad: int | None) -> list[tuple[int, int]]:
    """Of each row `[B, N]` where its first token of text (an id below `special`) is, and where the row ends.

    The two are equal where there is no text.
    """
    places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    ends = ((ids != (special if pad is None else pad)) * places).amax(dim=1)
    text = ids < special
    firsts = torch.where(text.any(dim=1), text.int().argmax(dim=1), ends)
    return list(zip(firsts.tolist(), ends.tolist(), strict=True))


def stretches(entries: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Start and end of each token in seconds, `[N, 2]`.

    `entries` `[N + 1]`: where each token, and at last the end, begins among the frames that are heard,
    `frames`. What is not heard lies between tokens.
    """
    starts = frames[entries[:-1]]
    lasts = frames[np.maximum(entries[1:] - 1, 0)] + 1
    ends = np.where(entries[1:] > entries[:-1], lasts, starts)
    return np.stack([starts, ends], axis=1) * SECONDS_A_FRAME


def heard_frames(features: Tensor | None, lengths: Tensor, frames: int) -> Tensor:
    """Encoder frames `[B, frames]` in which there is sound, of features `[B, mel, T]`; all real ones without.

    Neither padding nor silence (a pause, or what fills 30 s) can be where something was said.
    """
    inputs = INPUTS_A_FRAME * frames
    sound = length_mask(lengths, inputs)
    if features is not None:
        levels = F.pad(features.float().amax(dim=1), (0, max(inputs - features.shape[2], 0)))[:, :inputs]
        loudest = levels.masked_fill(~sound, -torch.inf).amax(dim=1, keepdim=True)
        sound = sound & (levels > loudest - SILENCE_DEPTH)
    return sound.unflatten(1, (frames, INPUTS_A_FRAME)).any(dim=2)


@dataclass
class View:
    """What of a row counts: its places in the decoder's input, frames it sees, and those it may be in."""

    places: slice
    visible: int
    frames: Tensor


class DecoderWatch:
    """Notes, while a decoder runs, at which frames its alignment heads look; `matrices`: `[N, T]` by row."""

    def __init__(self, whisper):
        self.layers, self.filter_width = whisper.model.decoder.layers, whisper.config.median_filter_width
        self.heads = alignment_heads(whisper)
        self.views: dict[int, View] = {}
        self.matrices: dict[int, Tensor] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Within the block, note what passes."""
        taps = [
            self.layers[index].encoder_attn.register_forward_pre_hook(
                partial(self._note, heads), with_kwargs=True
            )
            for index, heads in self.heads.items()
        ]
        try:
            yield
        finally:
            for tap in taps:
                tap.remove()

    def _note(self, heads: list[int], attention: Any, inputs: tuple, named: dict) -> None:
        """Fast kernels do not give their weights: those of these heads are computed once more."""
        shape = (attention.num_heads, attention.head_dim)
        queries = (attention.q_proj(inputs[0]) * attention.scaling).unflatten(-1, shape)  # B, L, heads, D
        keys = attention.k_proj(named["key_value_states"]).unflatten(-1, shape)  # B, T, heads, D
        for row, view in self.views.items():
            asked = queries[row, view.places][:, heads].float()
            there = keys[row, : view.visible][:, heads].float()
            weights = torch.einsum("nhd,thd->hnt", asked, there).softmax(dim=-1)[..., view.frames]
            noted = standing_out(weights, self.filter_width)
            self.matrices[row] = self.matrices[row] + noted if row in self.matrices else noted


def alignment_heads(whisper) -> dict[int, list[int]]:
    """Heads that look at what they write, by layer: as its settings name them, or those of the upper half."""
    named = getattr(whisper.generation_config, "alignment_heads", None)
    layers, heads = whisper.config.decoder_layers, whisper.config.decoder_attention_heads
    if not named:
        return {index: list(range(heads)) for index in range(layers // 2, layers)}
    found: dict[int, list[int]] = {}
    for index, head in named:
        found.setdefault(index, []).append(head)
    return found


def _read(whisper, prompt, prompt_mask, ids, states, mask) -> None:
    """Let the decoder read a text that is known, without its head."""
    positions = None
    if prompt_mask is not None:
        prompt_mask = torch.cat([prompt_mask, torch.ones_like(ids)], dim=1)
        positions = (prompt_mask.cumsum(dim=-1) - 1).clamp(min=0)
    whisper.model.decoder(
        input_ids=torch.cat([prompt, ids], dim=1),
        attention_mask=prompt_mask,
        position_ids=positions,
        encoder_hidden_states=states,
        encoder_attention_mask=mask,
        use_cache=False,
    )
