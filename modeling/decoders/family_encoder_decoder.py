"""Encoder-decoders: one base listens and writes, and the adapter lives inside its decoder."""

import contextlib
import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationConfig
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.models.whisper.modeling_whisper import shift_tokens_right

from ..adapters.adapter_table import DECODER_ADAPTERS
from ..base_loading import load_decoder
from ..length_masks import mask_if_padded
from .decoder_whisper import SpeechWhisper, SpeechWhisperModel
from .generation_encoder_decoder import transcribe

# Arguments of the models' `forward` that are settled before the decoder runs.
NOT_THE_DECODERS = frozenset(
    [
        "input_ids",
        "input_features",
        "input_features_mask",
        "attention_mask",
        "position_ids",
        "inputs_embeds",
        "labels",
        "decoder_prompt_ids",
        "decoder_prompt_mask",
        "encoder_attention_mask",
        "encoder_outputs",
        "encoder_states",
        "feature_lengths",
        "noise_features",
        "num_items_in_batch",
        "snr_db",
    ]
)


class EncoderDecoderFamily:
    """What differs for models whose encoder and decoder are the halves of one base."""

    @staticmethod
    def load(config, bases, arguments: dict, with_head: bool):
        """`(tower, base)` with their weights; the tower is a part of the base."""
        base: Any = load_decoder(SpeechWhisper if with_head else SpeechWhisperModel, config, bases, arguments)
        return base.base_model.encoder, base

    @staticmethod
    def build(config, with_head: bool):
        """`(tower, base)` of the config, without weights."""
        base = (SpeechWhisper if with_head else SpeechWhisperModel)(config.text_config)
        return base.base_model.encoder, base

    @staticmethod
    def body(decoder):
        """The decoder proper, of a base or of itself."""
        return getattr(decoder.base_model, "decoder", decoder)

    @staticmethod
    def adapter(config, body) -> nn.Module:
        """The adapter, known to the decoder that reads with it."""
        adapter = DECODER_ADAPTERS[config.adapter_config.model_type](
            config.adapter_config, config.text_config, body.layers
        )
        body.read_with(adapter)
        return adapter

    @staticmethod
    def check_head(decoder) -> None:
        """Nothing: there is one kind of base, and its head is one layer."""

    @staticmethod
    def ties(decoder, head: nn.Module) -> dict[str, str]:
        """Whisper's tied weights, by their names in `SpeechLLMForConditionalGeneration`."""
        tied = decoder.config.tie_word_embeddings
        return {"lm_head.weight": "model.language_model.embed_tokens.weight"} if tied else {}

    @staticmethod
    def default_generation(config, base: GenerationConfig) -> GenerationConfig:
        """The base's own settings (its tokens for languages and tasks are there), greedy, one beam."""
        settings = copy.deepcopy(base)
        settings.update(num_beams=1, do_sample=False)
        return settings

    @staticmethod
    def decoder_prefix(model) -> str:
        """Where the decoder's names stand in what `AutoModel` makes of the base."""
        return "decoder."

    @staticmethod
    def stock_parts(model, folder, slots) -> dict:
        """Folder -> `(prefixes by slot, base id, revision)`: one base, one folder."""
        prefixes = {"encoder": "model.encoder.", "decoder": "model.decoder."}
        return {Path(folder): (prefixes, model.config.encoder_id, model.config.encoder_revision)}

    @staticmethod
    def encode(model, input_features, input_features_mask=None) -> tuple[torch.Tensor, Any]:
        """Encoder states `[B, T, D]`, and their mask `[B, T]` where padding is hidden."""
        lengths = model.checked_lengths(input_features, input_features_mask)
        padded = model.config.encoder_padding == "max_length"
        states = model.run_encoder(input_features, lengths, pad_to_maximum=padded, cut=not padded)
        frames = model.config.encoder_frames(lengths)
        return states, None if padded else mask_if_padded(frames, states.shape[1])

    @staticmethod
    def remembered(model, encoder_states, feature_lengths) -> tuple[torch.Tensor, Any]:
        """As `encode`, of states `[B, T, D]` that were computed before and kept in any precision."""
        frames = model.config.encoder_frames(model.checked_lengths(None, None, feature_lengths))
        states = encoder_states.to(model.language_model.dtype)
        padded = model.config.encoder_padding == "max_length"
        return states, None if padded else mask_if_padded(frames, states.shape[1])

    @staticmethod
    def hidden(model, inputs: dict):
        """Hidden states of the decoder `[B, L, H]`."""
        states, mask = EncoderDecoderFamily._speech(model, inputs)
        return model.language_model(
            inputs["decoder_input_ids"],
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            **_renamed(inputs),
        )

    @staticmethod
    def logits(model, inputs: dict) -> Seq2SeqLMOutput:
        """Logits `[B, L, V]`, of labels' length where a prompt comes before them, and the loss."""
        inputs, prompt = _continued(model.config.text_config, inputs)
        states, mask = EncoderDecoderFamily._speech(model.model, inputs)
        rest = {name: value for name, value in inputs.items() if name not in NOT_THE_DECODERS}
        adapter, labels = model.model.adapter, inputs.get("labels")
        supervised = labels is not None and adapter.supervised
        with adapter.noting() if supervised else contextlib.nullcontext() as notes:
            outputs = model.causal_lm(
                encoder_outputs=BaseModelOutput(last_hidden_state=states), encoder_attention_mask=mask, **rest
            )
        outputs.logits = outputs.logits[:, prompt:]
        if labels is not None:
            count = inputs.get("num_items_in_batch")
            outputs.loss = token_loss(outputs.logits, labels, count)
            own = adapter.auxiliary_loss(notes, inputs) if supervised else None
            if own is not None:
                # Where the loss is a share of an accumulated batch's, so is this.
                share = 1.0 if count is None else (labels != -100).sum() / count
                outputs.loss = outputs.loss + own * share
        return outputs

    @staticmethod
    def _speech(model, inputs: dict):
        given = inputs.get("encoder_outputs")
        if given is not None:
            return given[0], inputs.get("encoder_attention_mask")
        if inputs.get("encoder_states") is not None:
            return EncoderDecoderFamily.remembered(
                model, inputs["encoder_states"], inputs.get("feature_lengths")
            )
        if inputs.get("input_features") is None:
            raise ValueError("nothing to listen to: pass input_features or encoder_outputs")
        return EncoderDecoderFamily.encode(model, inputs["input_features"], inputs.get("input_features_mask"))

    generate = staticmethod(transcribe)


def _renamed(inputs: dict) -> dict:
    """Arguments of `forward` as the decoder alone calls them."""
    rest = {name: value for name, value in inputs.items() if name not in NOT_THE_DECODERS}
    rest.pop("decoder_input_ids")
    return {"attention_mask": rest.pop("decoder_attention_mask", None), **rest}


def _continued(config, inputs: dict) -> tuple[dict, int]:
    """Inputs with `decoder_input_ids` for prompt and labels, and how many of their logits are no label's."""
    labels, prompt = inputs.get("labels"), inputs.get("decoder_prompt_ids")
    if inputs.get("decoder_input_ids") is not None or labels is None:
        return inputs, 0
    if prompt is None:
        # As stock Whisper is trained: the labels begin with the language and the task.
        ids = shift_tokens_right(labels, config.pad_token_id, config.decoder_start_token_id)
        return {**inputs, "decoder_input_ids": ids}, 0
    before = labels[:, :-1].masked_fill(labels[:, :-1] == -100, config.pad_token_id)
    extended = {**inputs, "decoder_input_ids": torch.cat([prompt, before], dim=1)}
    mask = inputs.get("decoder_prompt_mask")
    if mask is not None:
        # Labels are padded behind their ends, where a causal decoder does not look.
        mask = torch.cat([mask, torch.ones_like(before)], dim=1)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        extended.update(decoder_attention_mask=mask, decoder_position_ids=positions)
    return extended, prompt.shape[1] - 1


def token_loss(logits: torch.Tensor, labels: torch.Tensor, count=None) -> torch.Tensor:
    """Cross-entropy of logits `[B, L, V]` and labels `[B, L]`, over `count` tokens of accumulated batches."""
    reduction = "mean" if count is None else "sum"
    loss = F.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten().to(logits.device), reduction=reduction
    )
    return loss if count is None else loss / count
