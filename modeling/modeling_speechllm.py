"""The model: frozen speech encoder -> trained adapter -> frozen decoder.

`SpeechLLMModel` ends at hidden states, `SpeechLLMForConditionalGeneration` at text. What differs between a
bridge into a language model and an adapter inside an encoder-decoder is in `decoders/`, in two families.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.masking_utils import create_masks_for_generate
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..configuration.configuration_router import check_router
from ..configuration.configuration_speechllm import SpeechLLMConfig
from ..configuration.encoder_specs import encoder_spec
from .checkpoint_speechllm import CheckpointedModel
from .decoders.family_table import decoder_family
from .embedding_scale import EmbeddingScale
from .encoder_pass import EncoderPass
from .generation_speechllm import SpeechGenerationMixin
from .length_masks import input_lengths
from .lora_bank import LoraBank
from .lora_layers import LoraLinear, add_lora, is_lora_key
from .lora_model import LoraModelMixin
from .router.language_router import LanguageRouter
from .router.segment_routing import SpokenSegment, spoken_segments

# Parts of SpeechLLMModel that are bases, frozen unless a user thaws them.
BASE_PARTS = ("audio_tower", "language_model")


@dataclass
class SpeechFeatures(BaseModelOutputWithPooling):
    """`BaseModelOutputWithPooling` with the rows' token counts and the adapter's own loss."""

    pooler_output: Any = None
    lengths: Any = None
    auxiliary_loss: torch.Tensor | None = None


class SpeechLLMPreTrainedModel(LoraModelMixin, CheckpointedModel):
    """What both classes share: which parts are frozen, and how a checkpoint is written and read."""

    config_class = SpeechLLMConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ["audio", "text"]
    causal_lm: Any
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_attention_backend = True
    _skip_keys_device_placement = ["past_key_values"]

    def _init_weights(self, module):
        """Nothing: adapters initialize themselves when built, bases are models with rules of their own."""

    @classmethod
    def is_custom_code(cls) -> bool:
        """No, wherever this file lies: for custom code the stock loader takes a module without tensors of its
        own for initialized, and a base whose rule stands at such a module keeps garbage in its buffers."""
        return False

    @property
    def speech_model(self) -> "SpeechLLMModel":
        """The part below the head; on `SpeechLLMModel` itself, itself."""
        model: Any = self
        return getattr(model, "model", model)

    def freeze_bases(self) -> None:
        """Train the adapter, its scale and LoRA; nothing else."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(is_lora_key(name) or not self.is_base_key(name))

    def is_base_key(self, name: str) -> bool:
        """Whether a tensor of this name belongs to a base: it is not saved unless it was trained."""
        inner = name.removeprefix("model.")
        return inner.startswith(("lm_head.", *(f"{part}." for part in BASE_PARTS))) and not is_lora_key(name)

    def train(self, mode: bool = True):
        """As in torch, but bases stay in eval: no dropout, layerdrop or SpecAugment on what is frozen."""
        super().train(mode)
        for part in BASE_PARTS:
            base = getattr(self.speech_model, part)
            if not any(p.requires_grad for name, p in base.named_parameters() if not is_lora_key(name)):
                base.train(False)
                for module in base.modules():
                    if isinstance(module, LoraLinear):
                        module.dropout.train(mode)
        return self

    def parameter_counts(self) -> dict[str, int]:
        """Numbers of parameters: `total`, `trainable`, `lora`, and of every part; tied weights count once."""
        counts = {"total": 0, "trainable": 0, "lora": 0}
        for name, parameter in self.named_parameters():
            # nf4 packs two values into a byte; bitsandbytes keeps the true shape beside it.
            state: Any = getattr(parameter, "quant_state", None)
            size = state.shape.numel() if state is not None else parameter.numel()
            part = "lora" if is_lora_key(name) else name.removeprefix("model.").split(".")[0]
            counts["total"] += size
            counts["trainable"] += size if parameter.requires_grad else 0
            counts[part] = counts.get(part, 0) + size
        return counts

    def get_input_embeddings(self):
        return self.speech_model.language_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.speech_model.language_model.set_input_embeddings(value)

    def get_audio_features(self, input_features, input_features_mask=None, **kwargs) -> SpeechFeatures:
        """Speech as the decoder's embeddings.

        `input_features`: `[B, mel, T]`, `[B, T, D]` or `[B, samples]`, as the encoder wants; mask `[B, T]`.
        Returns `last_hidden_state` (encoder frames `[B, T', D]`), `pooler_output` (all rows' speech tokens,
        one after the other, `[sum of lengths, H]`), `lengths` `[B]`, `auxiliary_loss`.
        """
        return self.speech_model.encode_speech(input_features, input_features_mask)

    def language_segments(self, input_features, input_features_mask=None) -> list[list[SpokenSegment]]:
        """For every clip where which language is spoken, by the router on short windows."""
        model = self.speech_model
        return spoken_segments(
            model, input_features, model.checked_lengths(input_features, input_features_mask)
        )

    def set_router(self, router: LanguageRouter) -> None:
        """Put a router, such as one just trained, in the place of any other; its config is the model's."""
        model, config = self.speech_model, self.config
        check_router(router.config, config.lora_bank or {}, config.audio_config)
        width = encoder_spec(config.audio_config).width(config.audio_config)
        if router.encoder_width != width:
            raise ValueError(
                f"a router of {router.encoder_width} channels does not fit an encoder of {width}"
            )
        # One object: calibration writes the temperature into the router's config.
        config.router_config = router.config
        model.router = router.to(model.audio_tower.device).train(self.training)


class SpeechLLMModel(SpeechLLMPreTrainedModel):
    """Encoder, adapter and the decoder without its head."""

    def __init__(
        self, config: SpeechLLMConfig, audio_tower=None, language_model=None, embedding_rms: float = 1.0
    ):
        super().__init__(config)
        self.family = decoder_family(config)
        if language_model is None:
            audio_tower, language_model = self.family.build(config, with_head=False)
        self.audio_tower = audio_tower
        self.language_model = self.family.body(language_model)
        self.adapter = self.family.adapter(config, self.language_model)
        text_width = config.text_config.get_text_config().hidden_size
        self.speech_norm = (
            EmbeddingScale(text_width, embedding_rms) if config.output_norm == "rms" else nn.Identity()
        )
        lora = config.lora_config or {}
        for slot, base in (("encoder", self.audio_tower), ("decoder", self.language_model)):
            if slot in lora:
                add_lora(base, lora[slot])
        # The bank changes these configs along with itself, so they are the model's config's own.
        config.lora_bank = {} if config.lora_bank is None else config.lora_bank
        self.bank = LoraBank(config.lora_bank, {"encoder": self.audio_tower, "decoder": self.language_model})
        self.chosen_adapters: torch.Tensor | None = None
        # While `generate` runs it says which adapters are in use, and rows leave the batch.
        self.decoding = False
        encoder_width = encoder_spec(config.audio_config).width(config.audio_config)
        self.router = LanguageRouter(config.router_config, encoder_width) if config.router_config else None
        self.post_init()

    def encode_speech(
        self, input_features, input_features_mask=None, encoder_states=None, feature_lengths=None
    ) -> SpeechFeatures:
        """See `get_audio_features`; the encoder need not run where its states `[B, T', D]` are given.

        Where they come without features, `feature_lengths` `[B]` say what these would: inputs of each clip.
        """
        lengths = self.checked_lengths(input_features, input_features_mask, feature_lengths)
        states = encoder_states
        if states is None:
            padded = self.config.encoder_padding == "max_length"
            states = self.run_encoder(input_features, lengths, pad_to_maximum=padded)
        adapted = self.adapter(states.to(self._adapter_dtype()), self.config.encoder_frames(lengths))
        real = torch.arange(adapted.states.shape[1], device=lengths.device) < adapted.lengths[:, None]
        return SpeechFeatures(
            last_hidden_state=states,
            pooler_output=self.speech_norm(adapted.states[real]),
            lengths=adapted.lengths,
            auxiliary_loss=adapted.auxiliary_loss,
        )

    def checked_lengths(self, input_features, input_features_mask=None, feature_lengths=None) -> torch.Tensor:
        """Inputs of each clip, `[B]`; one that is longer than the encoder hears is a `ValueError`."""
        if input_features is None and feature_lengths is None:
            raise ValueError("encoder_states come with feature_lengths, the inputs that each clip had")
        lengths = feature_lengths
        if input_features is not None:
            lengths = input_lengths(self.config, input_features, input_features_mask)
        maximum = self.config.max_inputs
        if maximum and int(lengths.max()) > maximum:
            rate = encoder_spec(self.config.audio_config).inputs_per_second
            raise ValueError(
                f"a clip lasts {int(lengths.max()) / rate:.2f} s, but this encoder hears at most "
                f"{maximum / rate:g} s at once: cut it, or use the pipeline, which does"
            )
        return lengths

    def run_encoder(self, input_features, lengths, pad_to_maximum: bool, cut: bool = True) -> torch.Tensor:
        """Encoder states `[B, T', D]`, without gradient where nothing in the encoder trains."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._encoder_trains()):
            return EncoderPass(self, input_features, lengths, pad_to_maximum, cut).finish()

    def settle_adapters(self, weights: torch.Tensor | None) -> None:
        """Before a forward pass: use the adapters it names, or those chosen for every clip."""
        if not self.decoding:
            self.bank.use(self.chosen_adapters if weights is None else weights)

    def _encoder_trains(self) -> bool:
        return any(parameter.requires_grad for parameter in self.audio_tower.parameters())

    def _adapter_dtype(self) -> torch.dtype:
        return next(self.adapter.parameters()).dtype

    def embed_prompt(
        self,
        input_ids,
        input_features=None,
        input_features_mask=None,
        past_key_values=None,
        encoder_states=None,
        feature_lengths=None,
    ):
        """Prompt ids `[B, L]` and speech -> decoder inputs `[B, L, H]` and the adapter's auxiliary loss."""
        # No id is -1: a config without a tokenizer knows no placeholder.
        slots = input_ids == (-1 if self.config.audio_token_id is None else self.config.audio_token_id)
        # The placeholder may lie beyond the vocabulary: it is replaced before it is looked up.
        embeds = self.get_input_embeddings()(input_ids.masked_fill(slots, 0))
        if input_features is None and encoder_states is None:
            # Once the answer has begun, a decoder may say the placeholder's id like any other.
            begins = past_key_values is None or past_key_values.get_seq_length() == 0
            if begins and bool(slots.any()):
                raise ValueError(
                    "the prompt has audio placeholders, but there are no input_features to fill them"
                )
            return embeds, None
        speech = self.encode_speech(input_features, input_features_mask, encoder_states, feature_lengths)
        placeholders = slots.sum(-1)
        if not torch.equal(placeholders, speech.lengths.to(placeholders.device)):
            row = int((placeholders.cpu() != speech.lengths.cpu()).nonzero()[0])
            raise ValueError(
                f"clip {row} has {int(placeholders[row])} audio placeholders in its prompt, but the adapter "
                f"makes {int(speech.lengths[row])} tokens of it: processor and model are not of one "
                "checkpoint"
            )
        speech_embeds = speech.pooler_output.to(embeds.device, embeds.dtype)
        return embeds.masked_scatter(slots[..., None], speech_embeds), speech.auxiliary_loss

    def forward(
        self,
        input_ids=None,
        input_features=None,
        input_features_mask=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        decoder_input_ids=None,
        decoder_attention_mask=None,
        encoder_outputs=None,
        encoder_states=None,
        feature_lengths=None,
        routing_weights=None,
        use_cache=None,
        **kwargs,
    ):
        """Hidden states of the decoder `[B, L, H]`.

        A bridge takes prompt ids with placeholders for the speech, or `inputs_embeds`; an encoder-decoder
        the speech and `decoder_input_ids`. `routing_weights` `[B, N]` weigh the adapters of the bank.
        """
        self.settle_adapters(routing_weights)
        return self.family.hidden(self, _given(locals()))


class SpeechLLMForConditionalGeneration(SpeechGenerationMixin, SpeechLLMPreTrainedModel):
    """A speech recognizer: listens with the encoder, writes with the language model."""

    def __init__(
        self, config: SpeechLLMConfig, audio_tower=None, causal_lm: Any = None, embedding_rms: float = 1.0
    ):
        super().__init__(config)
        family = decoder_family(config)
        if causal_lm is None:
            audio_tower, causal_lm = family.build(config, with_head=True)
        family.check_head(causal_lm)
        self.model = SpeechLLMModel(config, audio_tower, causal_lm, embedding_rms)
        self.lm_head = causal_lm.get_output_embeddings()
        # The stock class goes on running its own head, because some scale or cap the logits there, each in
        # its own way. It is not registered: its parts are, as `model.language_model` and `lm_head`.
        object.__setattr__(self, "causal_lm", causal_lm)
        self._tied_weights_keys = family.ties(causal_lm, self.lm_head)
        self.post_init()

    def get_output_embeddings(self):
        return self.lm_head

    def forward(
        self,
        input_ids=None,
        input_features=None,
        input_features_mask=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        decoder_prompt_ids=None,
        decoder_prompt_mask=None,
        decoder_input_ids=None,
        decoder_attention_mask=None,
        encoder_outputs=None,
        encoder_states=None,
        feature_lengths=None,
        routing_weights=None,
        use_cache=None,
        logits_to_keep=0,
        **kwargs,
    ):
        """Logits `[B, L, V]`, and the loss where `labels` `[B, L]` are given (-100 is not scored).

        A bridge takes what `SpeechLLMModel` does. An encoder-decoder takes the speech and either
        `decoder_input_ids`, or `decoder_prompt_ids` `[B, P]` (padded on the left) and `labels`, which go on
        where the prompt ends. `encoder_states` `[B, T, D]` with `feature_lengths` `[B]` replace features,
        once the encoder has run. `routing_weights` `[B, N]` weigh the adapters of the bank; without them
        those of `use_adapters` count.
        """
        self.model.settle_adapters(routing_weights)
        return self.model.family.logits(self, _given(locals()))

    def create_masks_for_generate(self, config, **kwargs):
        """Masks for a static cache, as the decoder makes them: by its own config and in its own way."""
        own = getattr(self.causal_lm, "create_masks_for_generate", create_masks_for_generate)
        return own(config=self.causal_lm.config, **kwargs)


def _given(arguments: dict) -> dict:
    """A method's arguments by name, without itself; those of `**kwargs` beside the others."""
    rest = arguments.pop("kwargs")
    settled = ("self", "routing_weights")
    return {name: value for name, value in arguments.items() if name not in settled} | rest
