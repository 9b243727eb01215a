"""The two families of models: a bridge into a language model, and adapters inside an encoder-decoder."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from transformers.models.auto import modeling_auto

from .configuration_prompt import AUDIO_TOKEN

# Encoder-decoders whose decoder an adapter can live in.
ENCODER_DECODERS = ("whisper",)


@dataclass(frozen=True)
class DecoderFamily:
    """What a config has to know of a family.

    `check(audio_config, text_config)` refuses bases that it cannot use; `prepare(tokenizer)` gives the
    tokenizer what the family needs; `prompt_ids(config, tokenizer)` is the default prompt with -1 for speech.
    `one_base`: encoder and decoder come from one checkpoint.
    """

    check: Callable[[Any, Any], None]
    prepare: Callable[[Any], None]
    prompt_ids: Callable[[Any, Any], list[int] | None]
    one_base: bool
    # Nothing is padded to 30 s, except where no adapter has been trained for the short form.
    encoder_padding: Literal["longest", "max_length"]
    output_norm: Literal["rms", "none"]


def check_causal(audio_config, text_config) -> None:
    """A bridge writes with a causal language model."""
    if getattr(text_config, "is_encoder_decoder", False) or not has_causal_model(text_config):
        raise ValueError(f"the decoder must be a causal language model, not {text_config.model_type}")


def check_encoder_decoder(audio_config, text_config) -> None:
    """An adapter inside an encoder-decoder needs one, and only one."""
    known = ", ".join(ENCODER_DECODERS)
    for config in (audio_config, text_config):
        if config.model_type not in ENCODER_DECODERS:
            raise ValueError(
                f"this adapter lives inside an encoder-decoder such as {known}, not in a {config.model_type}"
            )
    if audio_config.d_model != text_config.d_model:
        raise ValueError(
            f"encoder and decoder are of two bases: widths {audio_config.d_model} and {text_config.d_model}"
        )


def has_causal_model(text_config) -> bool:
    """Whether `AutoModelForCausalLM` can make a model of this config: stock, registered, or remote code."""
    return (
        text_config.model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        or type(text_config) in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING
        or "AutoModelForCausalLM" in (getattr(text_config, "auto_map", None) or {})
    )


def add_audio_token(tokenizer) -> None:
    """Give a tokenizer the placeholder for speech and, if it has none, a padding token."""
    if tokenizer.eos_token_id is None:
        raise ValueError("this decoder's tokenizer has no end token, so no text would end: set its eos_token")
    if AUDIO_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_special_tokens(
            {"extra_special_tokens": [AUDIO_TOKEN]}, replace_extra_special_tokens=False
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


def bridge_prompt_ids(config, tokenizer) -> list[int]:
    """The config's prompt, tokenized, with -1 where the speech goes."""
    text = config.prompt_config.render(tokenizer)
    audio = tokenizer.convert_tokens_to_ids(AUDIO_TOKEN)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return [-1 if token == audio else token for token in ids]


def pad_with_the_end(tokenizer) -> None:
    """Whisper's own tokenizer may have no padding token; its model pads with the end."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


DECODER_FAMILIES = {
    "bridge": DecoderFamily(
        check=check_causal,
        prepare=add_audio_token,
        prompt_ids=bridge_prompt_ids,
        one_base=False,
        encoder_padding="longest",
        output_norm="rms",
    ),
    "encoder_decoder": DecoderFamily(
        check=check_encoder_decoder,
        prepare=pad_with_the_end,
        prompt_ids=lambda config, tokenizer: None,
        one_base=True,
        encoder_padding="max_length",
        output_norm="none",
    ),
}
