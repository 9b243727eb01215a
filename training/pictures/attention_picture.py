"""Where the two attentions of a clip looked, token by token, and how the gate weighed them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMProcessor
from speechllm.configuration.encoder_specs import encoder_spec
from speechllm.processing.audio_reading import describe

try:
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("pictures need matplotlib: install speechllm[train]") from error

BRANCHES = ("primary", "secondary")
# How many layers are drawn where nobody chooses: first, middle, last.
DRAWN_LAYERS = 3
# Attention of trained models stands in few frames: a root makes the rest visible.
CONTRAST = 0.5
# Shortest side of a row of text, in inches.
ROW = 0.17


@dataclass(frozen=True)
class AttentionNotes:
    """Of a clip of `seconds`: what was written, token by token, where each branch looked, what the gate said.

    `maps`: by branch `[layers, tokens, frames]`, a mean over heads, over the clip's own frames; what lies
    beyond them is padding. `gate` `[layers, tokens]`: the primary's weight, a mean over heads or channels.
    `samples` `[N]`: the sound.
    """

    tokens: list[str]
    maps: dict[str, np.ndarray]
    gate: np.ndarray
    seconds: float
    samples: np.ndarray


def picture_of_checkpoint(
    clip: str, model: str, path: str, language: str | None = None, layers=None, bases=None, report=print
) -> Path:
    """The picture of a clip and a checkpoint by their names; its path."""
    loaded = SpeechLLMForConditionalGeneration.from_pretrained(model, bases=bases)
    processor = SpeechLLMProcessor.from_pretrained(model)
    return attention_picture(loaded, processor, clip, path, language=language, layers=layers)


def attention_picture(
    model,
    processor,
    clip,
    path: str | os.PathLike,
    language: str | None = None,
    layers: Sequence[int] | None = None,
    sampling_rate: int | None = None,
) -> Path:
    """Write a PNG of what a dual-attention model does on a clip (a file, or samples); its path.

    A row for each of `layers`: what primary and secondary looked at while each token was written, then the
    gate of all layers.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: the picture is a .png file")
    notes = attention_notes(model, processor, clip, language, sampling_rate)
    count = len(notes.gate)
    chosen = spread(count, DRAWN_LAYERS) if layers is None else list(layers)
    wrong = [layer for layer in chosen if not 0 <= layer < count]
    if wrong:
        raise ValueError(f"there is no decoder layer {wrong[0]}; there are 0 to {count - 1}")
    title = describe(clip) if isinstance(clip, (str, os.PathLike)) else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(notes, chosen, title).savefig(path)
    return path


def spread(count: int, wanted: int) -> list[int]:
    """`wanted` numbers below `count`, first and last among them, evenly apart."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(wanted, count))})


@torch.no_grad()
def attention_notes(
    model, processor, clip, language: str | None = None, sampling_rate: int | None = None
) -> AttentionNotes:
    """What a model does while it writes down one clip, greedily."""
    adapter = model.model.adapter
    if model.config.adapter_config.model_type != "dual_attention":
        raise ValueError(
            f"attention pictures are of dual_attention, not of {model.config.adapter_config.model_type!r}"
        )
    rate, inputs_per_second = (
        processor.sampling_rate,
        encoder_spec(model.config.audio_config).inputs_per_second,
    )
    samples = processor.read_clips(clip, sampling_rate)[0]
    seconds, most = len(samples) / rate, model.config.max_inputs / inputs_per_second
    if seconds > most:
        raise ValueError(f"the clip lasts {seconds:.1f} s, a picture shows at most {most:g} s: cut it")
    request = processor.apply_transcription_request(samples, language=language, sampling_rate=rate)
    if language is None:
        # Not below: what is noted should be of the writing alone.
        found = model.generate(**request, max_new_tokens=1, return_dict_in_generate=True)
        request = processor.apply_transcription_request(
            samples, language=found.language[0], sampling_rate=rate
        )
    with adapter.noting(maps=True) as notes:
        ids = model.generate(**request)[0].tolist()
    end = model.config.end_token_id
    ids = ids[: ids.index(end) + 1] if end in ids else ids
    # The place at which a token is written is that of the token before it.
    gate = notes.gates()[:, 0, -len(ids) :].float().mean(-1)
    frames = int(model.config.encoder_frames(int(seconds * inputs_per_second)))
    maps = {
        name: notes.maps(name)[:, 0, :, -len(ids) :, :frames].float().mean(1).numpy() for name in BRANCHES
    }
    tokens = [shown(processor.tokenizer.decode([token])) for token in ids]
    return AttentionNotes(tokens, maps, gate.numpy(), seconds, samples)


def shown(token: str) -> str:
    """A token as a label: the space before a word would not be seen."""
    return token.replace("\n", "\\n").replace("$", r"\$") if token.strip() else repr(token)


def draw(notes: AttentionNotes, layers: Sequence[int], title: str = "") -> Figure:
    """The picture: the sound, a row of two maps for each layer, the gate."""
    tokens = len(notes.tokens)
    map_height, gate_height = max(1.6, ROW * tokens), max(1.1, ROW * len(notes.gate)) + 0.7
    heights = [0.7, *[map_height] * len(layers), gate_height]
    figure = Figure(figsize=(15, 1.0 + 1.12 * sum(heights)), dpi=100, layout="constrained")
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
    figure.suptitle(title, x=0.01, ha="left")
    for column, branch in enumerate(BRANCHES):
        _draw_sound(figure.add_subplot(grid[0, column]), notes, branch)
    for row, layer in enumerate(layers, 1):
        # One scale for both, so that they can be compared.
        highest = max(float(notes.maps[branch][layer].max()) for branch in BRANCHES)
        panels = [figure.add_subplot(grid[row, column]) for column in range(len(BRANCHES))]
        for panel, branch in zip(panels, BRANCHES, strict=True):
            image = _draw_map(panel, notes, branch, layer, highest)
        figure.colorbar(image, ax=panels, pad=0.01, aspect=30, label="share of attention, mean of heads")
        panels[0].set_ylabel(f"layer {layer}")
        if row == len(layers):
            for panel in panels:
                panel.set_xlabel("seconds")
    _draw_gate(figure, figure.add_subplot(grid[len(heights) - 1, :]), notes)
    return figure


def _draw_sound(panel, notes: AttentionNotes, branch: str) -> None:
    """The range of the samples in each of a thousand columns."""
    columns = np.array_split(notes.samples, min(1000, len(notes.samples)))
    times = np.linspace(0, notes.seconds, len(columns))
    lows, highs = [part.min() for part in columns], [part.max() for part in columns]
    panel.fill_between(times, lows, highs, color="0.45", linewidth=0)
    panel.set(xlim=(0, notes.seconds), yticks=[], xticks=[], title=branch)
    panel.spines[["top", "right", "left", "bottom"]].set_visible(False)


def _draw_map(panel, notes: AttentionNotes, branch: str, layer: int, highest: float):
    image = panel.imshow(
        notes.maps[branch][layer],
        aspect="auto",
        extent=(0, notes.seconds, len(notes.tokens) - 0.5, -0.5),
        norm=PowerNorm(CONTRAST, vmin=0, vmax=highest),
        cmap="magma",
        interpolation="nearest",
    )
    panel.set_yticks(range(len(notes.tokens)), notes.tokens, fontsize=8)
    panel.tick_params(axis="y", length=0)
    return image


def _draw_gate(figure: Figure, panel, notes: AttentionNotes) -> None:
    """All layers, with the numbers where they fit."""
    image = panel.imshow(notes.gate, aspect="auto", vmin=0, vmax=1, cmap="RdBu", interpolation="nearest")
    panel.set_yticks(
        range(len(notes.gate)), [f"layer {layer}" for layer in range(len(notes.gate))], fontsize=8
    )
    panel.set_xticks(range(len(notes.tokens)), notes.tokens, rotation=60, ha="right", fontsize=8)
    panel.set_title("gate: the primary's weight")
    if len(notes.tokens) <= 40:
        for (layer, token), weight in np.ndenumerate(notes.gate):
            color = "black" if 0.25 < weight < 0.75 else "white"
            panel.text(
                token, layer, f"{weight:.2f}".lstrip("0"), ha="center", va="center", fontsize=7, color=color
            )
    figure.colorbar(image, ax=panel, pad=0.01, aspect=10)
