"""wav2vec2-BERT on its filter banks; the stock forward masks padding everywhere it matters."""

from transformers.modeling_outputs import BaseModelOutput
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertModel

from ..length_masks import mask_if_padded


class SpeechWav2Vec2Bert(Wav2Vec2BertModel):
    """Stock weights and maths behind this package's `forward(input_features, lengths)`."""

    KEY_MAPPING = None
    QUANTIZABLE = True

    def forward(self, input_features, lengths, **kwargs) -> BaseModelOutput:
        """Filter banks `[B, T, 160]`, right-padded, with lengths `[B]` -> states `[B, T, D]`."""
        input_features = input_features[:, : int(lengths.max())]
        mask = mask_if_padded(lengths, input_features.shape[1])
        return super().forward(input_features.to(self.dtype), attention_mask=mask)
