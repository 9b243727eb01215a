"""SpeechT5's speech encoder (the layout of ArTST): convolutional prenet and encoder, no decoder."""

from transformers.modeling_outputs import BaseModelOutput
from transformers.models.speecht5.modeling_speecht5 import SpeechT5EncoderWithSpeechPrenet

from ...configuration.encoder_specs import encoder_spec
from ...configuration.speech_lengths import chain_length
from ..length_masks import length_mask, mask_if_padded
from .encoder_waveform import convolve_waveform


class SpeechSpeechT5(SpeechT5EncoderWithSpeechPrenet):
    """`AutoModel` of such a checkpoint has no speech prenet; this is what its recognizer listens with."""

    KEY_MAPPING = {r"^speecht5\.encoder\.": "", r"^encoder\.": ""}
    QUANTIZABLE = True

    def forward(  # type: ignore[override]
        self, input_features, lengths, **kwargs
    ) -> BaseModelOutput:
        """Waveform `[B, samples]`, right-padded, with lengths `[B]` -> states `[B, frames, D]`."""
        prenet = self.prenet
        hidden = convolve_waveform(prenet.feature_encoder.conv_layers, input_features.to(self.dtype), lengths)
        frames = chain_length(lengths, encoder_spec(self.config).frame_steps(self.config))
        hidden, _ = prenet.feature_projection(hidden)
        real = length_mask(frames, hidden.shape[1])
        # The positional convolution is wide: unlike the stock prenet, let it see no padding.
        hidden = hidden.masked_fill(~real[..., None], 0.0)
        hidden = hidden + prenet.pos_conv_embed(hidden)
        hidden = hidden + prenet.pos_sinusoidal_embed((~real).long())
        return self.wrapped_encoder(hidden, attention_mask=mask_if_padded(frames, hidden.shape[1]))
