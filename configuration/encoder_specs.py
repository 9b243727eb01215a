"""What the package knows about each speech encoder before any weight is read: inputs, lengths, width."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .speech_lengths import LengthSteps


@dataclass(frozen=True)
class EncoderSpec:
    """One family of encoders.

    `feature_steps(feature_extractor)`: samples -> model inputs; `frame_steps(config)`: inputs -> frames.
    `time_axis` is the axis of time in a batch of model inputs, of which a second has `inputs_per_second`.
    `stock_prefix` is where this encoder stands in the model that `AutoModel` makes of its checkpoint;
    `layers(config)` how many layers it has, where they can be run one by one.
    """

    feature_steps: Callable[[Any], LengthSteps]
    frame_steps: Callable[[Any], LengthSteps]
    width: Callable[[Any], int]
    time_axis: int
    inputs_per_second: int
    max_inputs: Callable[[Any], int | None] = lambda config: None
    stock_prefix: str = ""
    layers: Callable[[Any], int | None] = lambda config: None


def _waveform_steps(config) -> LengthSteps:
    return [
        ["conv", kernel, stride, 0]
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True)
    ]


# log-mel: one input a hop, counted as Whisper's extractor counts (its last, half-empty frame is dropped).
# Kaldi filter banks (wav2vec2-BERT): windows of 25 ms every 10 ms, then joined in pairs.
_WAVEFORM = EncoderSpec(
    feature_steps=lambda extractor: [],
    frame_steps=_waveform_steps,
    width=lambda config: config.hidden_size,
    time_axis=1,
    inputs_per_second=16000,
)
ENCODER_SPECS: dict[str, EncoderSpec] = {
    "whisper": EncoderSpec(
        feature_steps=lambda extractor: [["conv", extractor.hop_length, extractor.hop_length, 0]],
        frame_steps=lambda config: [["conv", 3, 1, 1], ["conv", 3, 2, 1]],
        width=lambda config: config.d_model,
        time_axis=2,
        inputs_per_second=100,
        max_inputs=lambda config: 2 * config.max_source_positions,
        stock_prefix="encoder.",
        layers=lambda config: config.encoder_layers,
    ),
    "hubert": _WAVEFORM,
    "wav2vec2": _WAVEFORM,
    "wavlm": _WAVEFORM,
    "speecht5": replace(_WAVEFORM, stock_prefix="encoder."),
    "wav2vec2-bert": EncoderSpec(
        feature_steps=lambda extractor: [
            ["conv", 400, 160, 0],
            ["conv", extractor.stride, extractor.stride, 0],
        ],
        frame_steps=lambda config: [],
        width=lambda config: config.hidden_size,
        time_axis=1,
        inputs_per_second=50,
    ),
}


def encoder_spec(audio_config) -> EncoderSpec:
    """The family of an encoder's config; `ValueError` for one that is not known or not supported."""
    kind = audio_config.model_type
    if kind not in ENCODER_SPECS:
        raise ValueError(f"no encoder of type {kind!r}; there are {', '.join(sorted(ENCODER_SPECS))}")
    if getattr(audio_config, "add_adapter", False):
        raise ValueError(
            f"this {kind} has a down-sampling adapter of its own (add_adapter): use a base without it"
        )
    return ENCODER_SPECS[kind]
