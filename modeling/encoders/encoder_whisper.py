"""Whisper's encoder on the clip's real length, with a mask, instead of on 30 s."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ...configuration.encoder_specs import encoder_spec
from ...configuration.speech_lengths import chain_length
from ..length_masks import mask_if_padded


class LayerInputs(NamedTuple):
    """What goes through the layers: states `[B, T, D]`, their mask, and each clip's frames `[B]`."""

    states: torch.Tensor
    mask: Any
    frames: torch.Tensor


class SpeechWhisperEncoder(WhisperEncoder):
    """Stock weights; `forward` takes any length up to the positions that Whisper has."""

    KEY_MAPPING = {r"^(model\.)?encoder\.": ""}
    QUANTIZABLE = True

    def forward(
        self, input_features, lengths=None, pad_to_maximum: bool = False, cut: bool = True, **kwargs
    ) -> BaseModelOutput:
        """Log-mel `[B, mel, T]`, right-padded, with lengths `[B]` -> states `[B, frames, D]`.

        Without lengths every clip is as long as the batch. `pad_to_maximum` runs the stock 30 s, silence
        attended, as Whisper was trained; `cut` drops the frames past the longest clip again.
        """
        if lengths is None:
            size = input_features.shape[2]
            lengths = torch.full((len(input_features),), size, device=input_features.device)
        inputs = self.embed(input_features, lengths, pad_to_maximum)
        states = self.finish(self.run_layers(inputs, 0, len(self.layers)))
        if cut:
            states = states[:, : int(inputs.frames.max())]
        return BaseModelOutput(last_hidden_state=states)

    def embed(self, input_features, lengths, pad_to_maximum: bool = False) -> LayerInputs:
        """What enters the first layer."""
        frames = chain_length(lengths, encoder_spec(self.config).frame_steps(self.config))
        if pad_to_maximum:
            input_features, lengths = self._pad_with_silence(input_features)
        else:
            input_features = input_features[:, :, : int(lengths.max())]
        states = self._convolve(input_features.to(self.conv1.weight.dtype), lengths)
        size = states.shape[1]
        states = states + self.embed_positions.weight[:size]
        mask: Any = mask_if_padded(frames, size) if not pad_to_maximum else None
        if mask is not None:
            mask = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=mask)
        return LayerInputs(states, mask, frames)

    def run_layers(self, inputs: LayerInputs, start: int, stop: int) -> LayerInputs:
        """The layers from `start` up to, without, `stop`."""
        states = inputs.states
        for layer in self.layers[start:stop]:
            states = layer(states, inputs.mask)
        return inputs._replace(states=states)

    def finish(self, inputs: LayerInputs) -> torch.Tensor:
        """States `[B, T, D]` after the last layer as a decoder reads them."""
        return self.layer_norm(inputs.states)

    def _convolve(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """`[B, mel, T]` -> `[B, ceil(T / 2), D]`; each clip ends in zeros, as it does alone."""
        mask = mask_if_padded(lengths, features.shape[2])
        if mask is not None:
            features = features * mask[:, None].to(features.dtype)
        hidden = F.gelu(self.conv1(features))
        if mask is not None:
            # The first convolution's bias makes padding non-zero, which the second would see.
            hidden = hidden * mask[:, None].to(hidden.dtype)
        return F.gelu(self.conv2(hidden)).transpose(1, 2)

    def _pad_with_silence(self, features: torch.Tensor):
        """What the stock extractor gives for clips with silence up to 30 s: `[B, mel, 3000]`, lengths."""
        size = 2 * self.config.max_source_positions
        # The extractor clamps to 8 decades (2.0 after its scaling) below each clip's maximum.
        floor = features.amax(dim=(1, 2), keepdim=True) - 2.0
        padded = floor.expand(-1, features.shape[1], size).clone()
        padded[:, :, : features.shape[2]] = features[:, :, :size]
        return padded, torch.full((len(features),), size, device=features.device)
