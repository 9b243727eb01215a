"""Bridges: the adapter makes speech a part of a causal language model's prompt."""

import inspect
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM

from ...configuration.encoder_specs import encoder_spec
from ..adapters.adapter_table import build_adapter
from ..base_loading import load_decoder, load_tower
from ..encoders.encoder_table import ENCODERS
from ..generation_defaults import default_generation
from ..router.row_routing import adapters_settled, one_a_clip, route

# Arguments of the models' `forward` that a causal language model has no use for.
NOT_THE_DECODERS = frozenset(
    [
        "input_ids",
        "input_features",
        "input_features_mask",
        "inputs_embeds",
        "decoder_prompt_ids",
        "decoder_prompt_mask",
        "decoder_input_ids",
        "decoder_attention_mask",
        "encoder_outputs",
        "encoder_states",
        "feature_lengths",
    ]
)


class BridgeFamily:
    """What differs for models whose decoder is a causal language model."""

    default_generation = staticmethod(default_generation)

    @staticmethod
    def load(config, bases, arguments: dict, with_head: bool):
        """`(tower, decoder)` with their weights."""
        decoder_class = AutoModelForCausalLM if with_head else AutoModel
        decoder = load_decoder(decoder_class, config, bases, arguments)
        return load_tower(config, bases, arguments, beside=decoder), decoder

    @staticmethod
    def build(config, with_head: bool):
        """`(tower, decoder)` of the config, without weights."""
        decoder_class = AutoModelForCausalLM if with_head else AutoModel
        tower = ENCODERS[config.audio_config.model_type](config.audio_config)
        return tower, decoder_class.from_config(config.text_config)

    @staticmethod
    def body(decoder):
        """The decoder without its head."""
        return decoder.base_model

    @staticmethod
    def adapter(config, body) -> nn.Module:
        """The adapter between an encoder and a decoder of these widths."""
        width = encoder_spec(config.audio_config).width(config.audio_config)
        return build_adapter(config.adapter_config, width, config.text_config.get_text_config().hidden_size)

    @staticmethod
    def check_head(decoder) -> None:
        """Raise `ValueError` for a causal model that this package could only hold in part."""
        kind = type(decoder).__name__
        if "past_key_values" not in inspect.signature(decoder.forward).parameters:
            raise ValueError(f"{kind} keeps no key-value cache, without which nothing is decoded here")
        head = decoder.get_output_embeddings()
        held = {id(parameter) for part in (decoder.base_model, head) for parameter in part.parameters()}
        loose = [name for name, parameter in decoder.named_parameters() if id(parameter) not in held]
        if loose:
            raise ValueError(
                f"{kind} has a head of several layers ({loose[0]} and others), which is not supported"
            )

    @staticmethod
    def ties(decoder, head: nn.Module) -> dict[str, str]:
        """A stock causal model's tied weights, by their names in `SpeechLLMForConditionalGeneration`."""
        prefix = f"{decoder.base_model_prefix}."
        head_name = next(name for name, module in decoder.named_modules() if module is head)
        return {
            key.replace(f"{head_name}.", "lm_head.", 1): f"model.language_model.{source.removeprefix(prefix)}"
            for key, source in decoder.all_tied_weights_keys.items()
        }

    @staticmethod
    def decoder_prefix(model) -> str:
        """Where the decoder's names stand in the stock model with a head."""
        return f"{model.language_model.base_model_prefix}."

    @staticmethod
    def stock_parts(model, folder, slots) -> dict:
        """Folder -> `(prefixes by slot, base id, revision)`: two bases, so a sub-folder each."""
        config, place = model.config, Path(folder)
        prefixes = {
            "encoder": encoder_spec(config.audio_config).stock_prefix,
            "decoder": BridgeFamily.decoder_prefix(model),
        }
        bases = {
            "encoder": (config.encoder_id, config.encoder_revision),
            "decoder": (config.decoder_id, config.decoder_revision),
        }
        return {place / slot: ({slot: prefixes[slot]}, *bases[slot]) for slot in slots}

    @staticmethod
    def hidden(model, inputs: dict):
        """Hidden states of the decoder `[B, L, H]` for prompt ids with speech, or for `inputs_embeds`."""
        embeds, _ = BridgeFamily._embeds(model, inputs)
        return model.language_model(inputs_embeds=embeds, **_decoder_arguments(inputs))

    @staticmethod
    def logits(model, inputs: dict):
        """Logits `[B, L, V]` and, with labels, the loss."""
        embeds, auxiliary_loss = BridgeFamily._embeds(model.model, inputs)
        labels, kept = inputs.get("labels"), inputs.get("logits_to_keep")
        if labels is not None and isinstance(kept, torch.Tensor):
            # The stock loss wants a label for every position that has logits.
            inputs = {**inputs, "labels": labels[:, kept]}
        outputs = model.causal_lm(inputs_embeds=embeds, **_decoder_arguments(inputs))
        labels, count = inputs.get("labels"), inputs.get("num_items_in_batch")
        if labels is not None and auxiliary_loss is not None:
            # Where the loss is a share of an accumulated batch's, so is this.
            share = 1.0 if count is None else (labels != -100).sum() / count
            outputs.loss = outputs.loss + auxiliary_loss * share
        return outputs

    @staticmethod
    def _embeds(model, inputs: dict):
        """Decoder inputs `[B, L, H]` and the adapter's auxiliary loss."""
        if inputs.get("inputs_embeds") is not None:
            return inputs["inputs_embeds"], None
        names = ("input_ids", "input_features", "input_features_mask", "past_key_values")
        of_states = ("encoder_states", "feature_lengths")
        return model.embed_prompt(*(inputs.get(name) for name in names + of_states))

    @staticmethod
    def generate(model, input_features=None, input_features_mask=None, **arguments):
        """See `SpeechGenerationMixin.generate_from_prompt`; routed before, where there is a bank."""
        asked = {name: arguments.pop(name, None) for name in ("language", "routing", "routing_weights")}
        remembered, feature_lengths = (
            arguments.pop(name, None) for name in ("encoder_states", "feature_lengths")
        )
        if input_features is None and remembered is None:
            return model.generate_from_prompt(**arguments)
        body = model.model
        lengths = body.checked_lengths(input_features, input_features_mask, feature_lengths)
        languages = one_a_clip(asked["language"], len(lengths))
        found = route(body, input_features, lengths, languages, asked["routing"], asked["routing_weights"])
        with adapters_settled(body):
            body.bank.use(found.weights)
            states = remembered
            if states is None and found.encoder_pass is not None:
                states = found.encoder_pass.finish()
            outputs = model.generate_from_prompt(
                input_features,
                input_features_mask,
                encoder_states=states,
                feature_lengths=feature_lengths,
                rows_kept=body.bank.keep,
                **arguments,
            )
        if hasattr(outputs, "language") and found.scores is not None:
            outputs.language, outputs.language_scores = found.languages, found.scores
        return outputs


def _decoder_arguments(inputs: dict) -> dict:
    return {name: value for name, value in inputs.items() if name not in NOT_THE_DECODERS}
