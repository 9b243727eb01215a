"""Whisper, whole: our encoder, and a decoder that knows padding and lets an adapter read the speech."""

from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions, Seq2SeqLMOutput
from transformers.models.whisper.modeling_whisper import (
    WhisperDecoder,
    WhisperDecoderLayer,
    WhisperForConditionalGeneration,
    WhisperModel,
    WhisperPositionalEmbedding,
    WhisperPreTrainedModel,
)
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ..encoders.encoder_whisper import SpeechWhisperEncoder
from ..greedy_rows import SpeechSteps
from ..plain_loading import load_plainly
from ..token_steps import attend, vocabulary_scores


class SpeechWhisperDecoderLayer(WhisperDecoderLayer):
    """The stock layer, whose cross-attention block is the adapter's business."""

    def forward(  # type: ignore[override]
        self, hidden_states, attention_mask, adapter, index, encoder_states, encoder_mask, cache, **kwargs
    ):
        """Residual stream `[B, L, H]` in and out; `adapter.attend` is the block between."""
        residual = hidden_states
        hidden_states = self.self_attn_layer_norm(hidden_states)
        hidden_states = attend(self.self_attn, hidden_states, cache=cache, mask=attention_mask, **kwargs)
        hidden_states = residual + self._dropped(hidden_states, self.dropout)
        hidden_states = adapter.attend(
            index, self, hidden_states, encoder_states, encoder_mask, cache, **kwargs
        )
        residual = hidden_states
        hidden_states = self.activation_fn(self.fc1(self.final_layer_norm(hidden_states)))
        hidden_states = self.fc2(self._dropped(hidden_states, self.activation_dropout))
        return residual + self._dropped(hidden_states, self.dropout)

    def _dropped(self, states: torch.Tensor, share: float) -> torch.Tensor:
        return nn.functional.dropout(states, p=share, training=self.training)


class SpeechWhisperDecoder(WhisperDecoder):
    """Stock weights; `forward` also takes the mask of the encoder's frames."""

    adapter: Any

    def __init__(self, config):
        # Not the stock constructor: it would make all layers of its own class first.
        WhisperPreTrainedModel.__init__(self, config)
        self.dropout, self.layerdrop = config.dropout, config.decoder_layerdrop
        self.padding_idx = config.pad_token_id
        self.max_target_positions = config.max_target_positions
        self.max_source_positions = config.max_source_positions
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model, self.padding_idx)
        self.embed_positions = WhisperPositionalEmbedding(config.max_target_positions, config.d_model)
        self.layers = nn.ModuleList(
            [SpeechWhisperDecoderLayer(config, index) for index in range(config.decoder_layers)]
        )
        self.layer_norm = nn.LayerNorm(config.d_model)
        self.gradient_checkpointing = False
        self.post_init()

    def read_with(self, adapter: nn.Module) -> None:
        """Let `adapter.attend` read the speech. It is the composite's child: here it is only known."""
        object.__setattr__(self, "adapter", adapter)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        past_key_values=None,
        inputs_embeds=None,
        position_ids=None,
        use_cache=None,
        **kwargs,
    ):
        """Ids `[B, L]`, encoder states `[B, T, D]` and their mask `[B, T]` -> hidden states `[B, L, H]`."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        cache = past_key_values
        if use_cache and cache is None:
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        past = cache.get_seq_length() if cache is not None else 0
        if position_ids is None:
            # A static cache's length is a tensor: as a bound of `arange` it would break a compiled graph.
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past
            position_ids = position_ids.unsqueeze(0).expand(len(inputs_embeds), -1)
        states = inputs_embeds + self.embed_positions.weight[position_ids]
        states = nn.functional.dropout(states, p=self.dropout, training=self.training)
        causal = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=cache,
            position_ids=position_ids,
        )
        encoder_mask = encoder_attention_mask
        if encoder_mask is not None:
            encoder_mask = create_bidirectional_mask(
                config=self.config,
                inputs_embeds=inputs_embeds,
                attention_mask=encoder_mask,
                encoder_hidden_states=encoder_hidden_states,
            )
        for index, layer in enumerate(self.layers):
            states = layer(
                states,
                causal,
                self.adapter,
                index,
                encoder_hidden_states,
                encoder_mask,
                cache if use_cache else None,
                **kwargs,
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.layer_norm(states), past_key_values=cache
        )


class SpeechWhisperModel(WhisperModel):
    """Both halves, as ours."""

    def __init__(self, config):
        WhisperPreTrainedModel.__init__(self, config)
        self.encoder = SpeechWhisperEncoder(config)
        self.decoder = SpeechWhisperDecoder(config)
        self.post_init()


class SpeechWhisper(WhisperForConditionalGeneration):
    """Stock Whisper with its generation, made of our halves; `encoder_attention_mask` hides padding."""

    def __init__(self, config):
        WhisperPreTrainedModel.__init__(self, config)
        self.model = SpeechWhisperModel(config)
        self.proj_out = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.max_target_positions = config.max_target_positions
        self.post_init()

    @classmethod
    def from_pretrained(cls, source, *args, **kwargs):  # type: ignore[override]
        """As the stock method, sooner where nothing has to be done to the weights."""
        plain = None if args else load_plainly(cls, source, kwargs)
        return super().from_pretrained(source, *args, **kwargs) if plain is None else plain

    def greedy_steps(self, input_ids, model_kwargs: dict) -> SpeechSteps:
        """How the row-dropping loop goes through a batch of this model."""
        return SpeechSteps(self, input_ids, model_kwargs)

    def forward(
        self,
        input_features=None,
        attention_mask=None,
        decoder_input_ids=None,
        decoder_attention_mask=None,
        encoder_outputs=None,
        encoder_attention_mask=None,
        past_key_values=None,
        decoder_inputs_embeds=None,
        decoder_position_ids=None,
        use_cache=None,
        logits_to_keep=0,
        token_steps=False,
        **kwargs,
    ) -> Seq2SeqLMOutput:
        """As the stock method without labels; logits `[B, L, V]`, or of the last `logits_to_keep`.

        `token_steps` allows kernels for single tokens, which round otherwise than the stock ones.
        """
        outputs = self.model(
            input_features,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=past_key_values,
            decoder_inputs_embeds=decoder_inputs_embeds,
            decoder_position_ids=decoder_position_ids,
            use_cache=use_cache,
            token_steps=token_steps,
            **kwargs,
        )
        states = outputs.last_hidden_state
        kept = states[:, -logits_to_keep:] if logits_to_keep else states
        # In two dimensions: in three torch multiplies row by row, with a copy of the whole head for each.
        scores = vocabulary_scores(self.proj_out, kept.flatten(0, 1), token_steps)
        logits = scores.view(*kept.shape[:2], -1)
        return Seq2SeqLMOutput(
            logits=logits,
            past_key_values=outputs.past_key_values,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
        )
