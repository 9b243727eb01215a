"""HuBERT, wav2vec2 and WavLM on padded batches, each clip as if it were alone."""

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.hubert.modeling_hubert import HubertModel
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2Model
from transformers.models.wavlm.modeling_wavlm import WavLMModel

from ...configuration.encoder_specs import encoder_spec
from ...configuration.speech_lengths import chain_length
from ..length_masks import length_mask, mask_if_padded


def convolve_waveform(
    conv_layers: nn.ModuleList, waveform: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """Waveform `[B, samples]` -> `[B, frames, C]` through a stock stack of convolution layers.

    None of the layers pads, so a clip's own frames never reach into its padding. The one leak is the group
    norm of the "base" checkpoints, whose statistics run over all of time: padded batches get them masked.
    """
    first: Any = conv_layers[0]
    hidden = waveform[:, None]
    start = 0
    if isinstance(getattr(first, "layer_norm", None), nn.GroupNorm) and bool(
        (lengths < waveform.shape[1]).any()
    ):
        conv = first.conv
        frames = chain_length(lengths, [["conv", conv.kernel_size[0], conv.stride[0], 0]])
        hidden = first.activation(masked_group_norm(first.layer_norm, conv(hidden), frames))
        start = 1
    for layer in conv_layers[start:]:
        hidden = layer(hidden)
    return hidden.transpose(1, 2)


def masked_group_norm(norm: nn.GroupNorm, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """`norm`, one channel a group, on `[B, C, T]` with statistics over each row's own length only."""
    mask = length_mask(lengths, hidden.shape[2])[:, None]
    values = hidden.float().masked_fill(~mask, 0.0)
    count = lengths[:, None, None].float()
    mean = values.sum(-1, keepdim=True) / count
    variance = ((values - mean) ** 2).masked_fill(~mask, 0.0).sum(-1, keepdim=True) / count
    normed = (values - mean) * torch.rsqrt(variance + norm.eps)
    return (normed * norm.weight[:, None] + norm.bias[:, None]).to(hidden.dtype)


class WaveformEncoder:
    """`forward` for the stock models of this family, without SpecAugment: nothing here trains them whole."""

    KEY_MAPPING = None
    QUANTIZABLE = True
    config: Any
    dtype: Any
    feature_extractor: Any
    feature_projection: Any
    encoder: Any

    def forward(self, input_features, lengths, **kwargs) -> BaseModelOutput:
        """Waveform `[B, samples]`, right-padded, with lengths `[B]` -> states `[B, frames, D]`."""
        waveform = input_features.to(self.dtype)
        hidden = convolve_waveform(self.feature_extractor.conv_layers, waveform, lengths)
        frames = chain_length(lengths, encoder_spec(self.config).frame_steps(self.config))
        hidden = self.feature_projection(hidden)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return self.encoder(hidden, attention_mask=mask_if_padded(frames, hidden.shape[1]))


class SpeechHubert(WaveformEncoder, HubertModel):
    """HuBERT, base (group norm) and large (layer norm)."""


class SpeechWav2Vec2(WaveformEncoder, Wav2Vec2Model):
    """wav2vec 2.0."""


class SpeechWavLM(WaveformEncoder, WavLMModel):
    """WavLM. Its attention hands raw weights to torch: no quantized ones, and LoRA would be passed by."""

    QUANTIZABLE = False
    RAW_WEIGHTS = ("q_proj", "k_proj", "v_proj", "out_proj")
