"""The picture of a model, drawn from its config: what speech passes, at which rate, and what was trained."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

try:
    import matplotlib
except ImportError as error:
    raise ImportError("a card's pictures need matplotlib: install speechllm[train]") from error

matplotlib.use("Agg")  # a server has no screen
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from speechllm.configuration.encoder_specs import encoder_spec

from .parts import Part, decoder_width, encoder_width, in_words, parts
from .run_facts import RunFacts, public_path

INK, QUIET = "#1f2937", "#6b7280"
# State of a part -> (fill, edge).
FROZEN, TRAINED, PLAIN = ("#dce8f5", "#5b84b1"), ("#fde2c4", "#d97a1d"), ("#f3f4f6", "#9ca3af")
BOTTOM, HEIGHT = 1.55, 1.6
MIDDLE = BOTTOM + HEIGHT / 2
LORA_TOP = BOTTOM - 0.3
GAP = 1.25
SECONDS = 10


@dataclass(frozen=True)
class Box:
    """One part of the drawing: its lower left corner, width, and what stands in it."""

    left: float
    width: float
    title: str
    lines: tuple[str, ...]
    colours: tuple[str, str]

    @property
    def right(self) -> float:
        return self.left + self.width


def architecture_picture(run: RunFacts) -> bytes:
    """The model as a PNG."""
    found = {part.name: part for part in parts(run)}
    boxes = boxes_of(run, found)
    legend = 0.15 if "LoRA" in found else BOTTOM - 0.6
    width, bottom = boxes["decoder"].right + 1.25, legend - 0.1
    # Above the decoder there is the prompt, or the adapter that is inside it, or nothing.
    top = BOTTOM + HEIGHT + (0.9 if "adapter" in found or not run.config.family.one_base else 0.15)
    figure = pyplot.figure(figsize=(width, top - bottom))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(bottom, top))
    axes.set_axis_off()
    draw_chain(axes, run, boxes, found)
    if "LoRA" in found:
        draw_lora(axes, run, found["LoRA"], boxes)
    if "router" in found:
        draw_router(axes, found["router"], boxes_with_lora(run, boxes), boxes["encoder"])
    draw_legend(axes, found, legend)
    picture = io.BytesIO()
    # No version of the library: the same model gives the same file.
    figure.savefig(picture, format="png", dpi=130, metadata={"Software": None})
    pyplot.close(figure)
    return picture.getvalue()


def boxes_of(run: RunFacts, found: dict[str, Part]) -> dict[str, Box]:
    """The parts in a row; an adapter inside the decoder is no part of the row."""
    encoder, decoder, adapter = found["encoder"], found["decoder"], found.get("adapter")
    boxes = {"encoder": Box(1.95, 2.6, "Encoder", base_lines(encoder), colours(encoder))}
    left = boxes["encoder"].right + GAP
    if adapter and not run.config.family.one_base:
        boxes["adapter"] = Box(left, 2.1, "Adapter", adapter_lines(run, adapter), colours(adapter))
        left = boxes["adapter"].right + GAP
    boxes["decoder"] = Box(left, 2.7, "Decoder", base_lines(decoder), colours(decoder))
    return boxes


def draw_chain(axes: Axes, run: RunFacts, boxes: dict[str, Box], found: dict[str, Part]) -> None:
    """Waveform, encoder, adapter, decoder, text, and the rates between them."""
    row = list(boxes.values())
    for box in row:
        draw_box(axes, box)
    draw_wave(axes, 0.1, 0.95)
    arrow(axes, 1.1, row[0].left, input_rate(run))
    for one, other, label in zip(row, row[1:], rates(run), strict=False):
        arrow(axes, one.right, other.left, label)
    arrow(axes, row[-1].right, row[-1].right + 0.55)
    axes.text(row[-1].right + 0.65, MIDDLE, "text", va="center", fontsize=13, color=INK)
    if not run.config.family.one_base:
        draw_prompt(axes, row[-1], run)
    elif "adapter" in found:
        draw_inner(axes, row[-1], found["adapter"])


def draw_lora(axes: Axes, run: RunFacts, lora: Part, boxes: dict[str, Box]) -> None:
    """LoRA below the bases that it is in."""
    bank, changed = run.config.lora_bank or {}, boxes_with_lora(run, boxes)
    left, right = changed[0].left, changed[-1].right
    rectangle(axes, left, LORA_TOP - 0.62, right - left, 0.62, colours(lora))
    label = f"LoRA {bank_words(run) if bank else lora.what} · {in_words(lora.total)}"
    axes.text((left + right) / 2, LORA_TOP - 0.31, label, ha="center", va="center", fontsize=10, color=INK)
    for box in changed:
        pointer(axes, box.left + box.width / 2, LORA_TOP, BOTTOM)


def boxes_with_lora(run: RunFacts, boxes: dict[str, Box]) -> list[Box]:
    """The bases that LoRA is in, from left to right."""
    slots = set(run.config.lora_config or {})
    for one in (run.config.lora_bank or {}).values():
        slots |= {slot for slot in ("encoder", "decoder") if getattr(one, slot)}
    return [box for slot, box in boxes.items() if slot in slots]


def draw_router(axes: Axes, router: Part, boxes_above_lora: list[Box], encoder: Box) -> None:
    """The router beside the encoder that it listens to, above the bank that it chooses from."""
    left, width, bottom = encoder.right + 0.13, GAP - 0.26, BOTTOM - 0.02
    x = left + width / 2
    rectangle(axes, left, bottom, width, 0.6, colours(router))
    axes.text(
        x, bottom + 0.3, f"Router\n{in_words(router.total)}", ha="center", va="center", fontsize=9, color=INK
    )
    pointer(axes, x, MIDDLE, bottom + 0.6)
    if boxes_above_lora[0].left < x:
        pointer(axes, x, bottom, LORA_TOP)
    else:
        corner = "angle,angleA=-90,angleB=0"
        style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 12, "color": INK, "linewidth": 1.2}
        place = ((x, bottom), (boxes_above_lora[0].left, LORA_TOP - 0.31))
        axes.add_patch(FancyArrowPatch(*place, connectionstyle=corner, **style))


def bank_words(run: RunFacts) -> str:
    names = sorted(run.config.lora_bank or {})
    return "for " + (", ".join(names) if len(names) < 12 else f"{len(names)} languages")


def colours(part: Part) -> tuple[str, str]:
    return TRAINED if part.trained else FROZEN


def base_lines(part: Part) -> tuple[str, ...]:
    """Id without its owner, size, count."""
    name, _, size = part.what.partition(", ")
    state = "frozen" if not part.trained else "trained"
    return (public_path(name).rpartition("/")[2], size, f"{in_words(part.total)}, {state}")


def adapter_lines(run: RunFacts, part: Part) -> tuple[str, ...]:
    config = run.config.adapter_config
    shown = [(word, getattr(config, field, None)) for field, word in ADAPTER_FIELDS.items()]
    told = next((word.format(value) for word, value in shown if value), "")
    return tuple(
        filter(None, (part.what, told, f"{in_words(part.total)}, {'trained' if part.trained else 'frozen'}"))
    )


# Field of an adapter's config -> how the picture says it; the first that there is.
ADAPTER_FIELDS = {
    "stack_factor": "{} frames a token",
    "num_prefix_tokens": "{} queries",
    "window_size": "windows of {} frames",
    "num_hidden_layers": "{} layers",
}


def input_rate(run: RunFacts) -> str:
    second = encoder_spec(run.config.audio_config).inputs_per_second
    return "16 kHz" if second == 16000 else f"{second}\nfeatures/s"


def rates(run: RunFacts) -> list[str]:
    """What goes from the encoder on, and from the adapter on."""
    config = run.config
    second = encoder_spec(config.audio_config).inputs_per_second
    frames = config.encoder_frames(SECONDS * second) / SECONDS
    once, twice = config.speech_tokens(SECONDS * second), config.speech_tokens(2 * SECONDS * second)
    tokens = f"{once} tokens\na clip" if once == twice else f"{once / SECONDS:.3g}\ntokens/s"
    first = f"{frames:.3g}\nframes/s\n× {encoder_width(run)}"
    return [first] if config.family.one_base else [first, f"{tokens}\n× {decoder_width(run)}"]


def draw_box(axes: Axes, box: Box) -> None:
    rectangle(axes, box.left, BOTTOM, box.width, HEIGHT, box.colours)
    x, top = box.left + box.width / 2, BOTTOM + HEIGHT
    axes.text(x, top - 0.27, box.title, ha="center", va="center", fontsize=13, weight="bold", color=INK)
    for number, line in enumerate(box.lines):
        size = 10 if len(line) < 3.6 + 9 * box.width / 1.2 else 8.5
        axes.text(x, top - 0.65 - 0.34 * number, line, ha="center", va="center", fontsize=size, color=INK)


def draw_inner(axes: Axes, decoder: Box, adapter: Part) -> None:
    """An adapter that lives in the decoder: a cap on it."""
    left, width, bottom = decoder.left + 0.25, decoder.width - 0.5, BOTTOM + HEIGHT + 0.03
    rectangle(axes, left, bottom, width, 0.55, colours(adapter))
    label = f"{adapter.what} · {in_words(adapter.total)}"
    axes.text(left + width / 2, bottom + 0.275, label, ha="center", va="center", fontsize=10, color=INK)


def draw_prompt(axes: Axes, decoder: Box, run: RunFacts) -> None:
    """What the decoder is asked, from above."""
    x, top = decoder.left + decoder.width / 2, BOTTOM + HEIGHT
    task = run.config.prompt_config.tasks.get("transcribe", "").format(language="", context="")
    axes.text(x, top + 0.62, f"prompt: “{task}”" if task else "prompt", ha="center", fontsize=10, color=QUIET)
    axes.add_patch(
        FancyArrowPatch((x, top + 0.52), (x, top + 0.03), arrowstyle="-|>", mutation_scale=13, color=QUIET)
    )


def draw_wave(axes: Axes, left: float, width: float) -> None:
    """A small wave: the sound."""
    bars = (0.1, 0.22, 0.4, 0.3, 0.55, 0.42, 0.6, 0.34, 0.5, 0.24, 0.32, 0.14, 0.08)
    for number, height in enumerate(bars):
        x = left + width * number / (len(bars) - 1)
        axes.plot(
            [x, x],
            [MIDDLE - height / 2, MIDDLE + height / 2],
            color=QUIET,
            linewidth=3,
            solid_capstyle="round",
        )
    axes.text(left + width / 2, MIDDLE - 0.55, "speech", ha="center", va="center", fontsize=13, color=INK)


def draw_legend(axes: Axes, found: dict[str, Part], bottom: float) -> None:
    """Colours, and the counts that they stand for."""
    total, trained = sum(one.total for one in found.values()), sum(one.trained for one in found.values())
    for left, state, label in (
        (0.2, FROZEN, f"frozen: {in_words(total - trained)}"),
        (2.4, TRAINED, f"trained: {in_words(trained)} ({100 * trained / total:.2g} %)"),
    ):
        rectangle(axes, left, bottom, 0.3, 0.22, state)
        axes.text(left + 0.4, bottom + 0.11, label, va="center", fontsize=10.5, color=INK)


def rectangle(
    axes: Axes, left: float, bottom: float, width: float, height: float, state: tuple[str, str]
) -> None:
    fill, edge = state
    style = "round,pad=0,rounding_size=0.1"
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom), width, height, boxstyle=style, facecolor=fill, edgecolor=edge, linewidth=1.6
        )
    )


def arrow(axes: Axes, start: float, end: float, label: str = "") -> None:
    """From left to right, its rate above it."""
    place = ((start + 0.06, MIDDLE), (end - 0.04, MIDDLE))
    axes.add_patch(FancyArrowPatch(*place, arrowstyle="-|>", mutation_scale=15, color=INK, linewidth=1.4))
    axes.text((start + end) / 2, MIDDLE + 0.12, label, ha="center", va="bottom", fontsize=8.5, color=QUIET)


def pointer(axes: Axes, x: float, start: float, end: float) -> None:
    """Upwards or downwards."""
    style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 12, "color": INK, "linewidth": 1.2}
    axes.add_patch(FancyArrowPatch((x, start), (x, end), **style))
