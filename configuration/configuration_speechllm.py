"""`SpeechLLMConfig`: what a model is, slot by slot."""

import copy
import json
from pathlib import Path
from typing import Any, Literal

from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import modeling_auto

from .base_resolution import HUB_ARGUMENTS, base_config, hub_arguments, is_path, load_base
from .configuration_adapters import adapter_config_from
from .configuration_lora import lora_bank, lora_slots
from .configuration_prompt import AUDIO_TOKEN, prompt_config
from .configuration_router import check_router, router_config
from .configuration_strict import StrictConfig, refuse_unknown, strict_config
from .decoder_families import DECODER_FAMILIES, DecoderFamily
from .encoder_specs import encoder_spec
from .speech_lengths import LengthSteps, chain_length
from .stock_refusals import with_refusals, without_refusals

# What `from_bases` finds out by itself: a caller who says it too may say something else.
SETTLED_BY_BASES = {
    "audio_config": "encoder",
    "encoder_id": "encoder",
    "text_config": "decoder",
    "decoder_id": "decoder",
    "adapter_config": "adapter",
    "bases_included": "save_pretrained(include_bases=True)",
}


@strict_config
class SpeechLLMConfig(StrictConfig):
    """Encoder, adapter, decoder and, optionally, LoRA with a router: the slots of a speech recognizer.

    `audio_config` and `text_config` are the bases' own configs, whole; where the adapter lives inside an
    encoder-decoder, both are that one's. `encoder_id` / `decoder_id` and their
    revisions say where the frozen weights are; `bases_included` says that the checkpoint holds them itself.
    `lora_config` is LoRA that is always on; `lora_bank` are named adapters, and `router_config` describes
    who chooses among them for each clip.
    `prompt_ids` is the default prompt, tokenized, with -1 where the speech goes; `end_token_id` ends what
    the model is trained to write. A clip may become `tokens_per_second` times its duration plus
    `extra_tokens` tokens. The pipeline cuts audio longer than `chunk_length_s` at its quietest points: a
    bridge that was trained on clips of some seconds loses its place in longer ones.
    """

    model_type = "speech_llm"
    sub_configs_defaults = {
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="whisper"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    # Any: given as a dict or a config, and always a config once the constructor is done.
    audio_config: Any = None
    text_config: Any = None
    adapter_config: Any = None
    lora_config: dict | None = None
    lora_bank: dict | None = None
    router_config: Any = None
    prompt_config: Any = None

    encoder_id: str | None = None
    encoder_revision: str | None = None
    decoder_id: str | None = None
    decoder_revision: str | None = None
    bases_included: bool = False

    # None: as the adapter's family has it.
    encoder_padding: Literal["longest", "max_length"] | None = None
    output_norm: Literal["rms", "none"] | None = None
    audio_token_id: int | None = None
    pad_token_id: int | None = None
    end_token_id: int | None = None
    prompt_ids: list[int] | None = None
    # Thai through a tokenizer made for English comes to 27.
    tokens_per_second: float | int = 30.0
    extra_tokens: int = 16
    # None: 30 seconds, or what the encoder takes.
    chunk_length_s: float | int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        for name in ("audio_config", "text_config", "adapter_config"):
            given = getattr(self, name)
            if not isinstance(given, (dict, PreTrainedConfig, type(None))):
                raise ValueError(f"{name} must be a config or a dict of its fields, not {given!r}")
            # A model writes its dtype and attention into its sub-configs: not into those of a caller.
            setattr(self, name, copy.deepcopy(given))
        self.adapter_config = adapter_config_from(self.adapter_config or {"model_type": "mlp"})
        self.is_encoder_decoder = self.family.one_base
        if self.family.one_base and self.text_config is None:
            self.text_config = copy.deepcopy(self.audio_config or {"model_type": "whisper"})
        self.encoder_padding = self.encoder_padding or self.family.encoder_padding
        self.output_norm = self.output_norm or self.family.output_norm
        super().__post_init__(**kwargs)
        self.lora_config = lora_slots(self.lora_config)
        self.lora_bank = lora_bank(self.lora_bank)
        self.router_config = router_config(self.router_config)
        self.prompt_config = prompt_config(self.prompt_config)
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))

    def validate_bases(self):
        encoder_spec(self.audio_config)
        self.family.check(self.audio_config, self.text_config)
        if bool(self.encoder_id) != bool(self.decoder_id):
            raise ValueError("encoder_id and decoder_id are named together or not at all")
        if self.bases_included and not self.encoder_id:
            raise ValueError("bases_included says where named bases are; without encoder_id it means nothing")

    def validate_router(self):
        """A router must know what it can choose from, and read a layer that there is."""
        if self.router_config is not None:
            check_router(self.router_config, self.lora_bank or {}, self.audio_config)

    def validate_encoder_padding(self):
        """Only an encoder with a fixed number of positions has a maximum to pad to."""
        if self.encoder_padding == "max_length" and self.max_inputs is None:
            raise ValueError(
                f"encoder_padding='max_length' is for encoders of a fixed length such as whisper; "
                f"{self.audio_config.model_type} takes any length: use 'longest'"
            )

    def validate_budget(self):
        """A clip must be allowed at least one token, or nothing could be said about it."""
        if self.tokens_per_second < 0 or self.extra_tokens < 0:
            raise ValueError("tokens_per_second and extra_tokens must be at least 0")
        if self.tokens_per_second + self.extra_tokens == 0:
            raise ValueError("tokens_per_second and extra_tokens are both 0: no clip could become any text")

    def validate_chunk_length_s(self):
        if self.chunk_length_s is not None and self.chunk_length_s <= 0:
            raise ValueError(f"chunk_length_s must be more than 0, or None, not {self.chunk_length_s!r}")

    def validate_prompt_ids(self):
        if self.prompt_ids is not None and self.prompt_ids.count(-1) != 1:
            raise ValueError("prompt_ids must hold -1 (where the speech goes) exactly once")

    def validate_token_ids(self):
        """Replaces a stock check: the audio token is never embedded, so it may lie beyond the vocabulary."""

    @property
    def family(self) -> DecoderFamily:
        """What its adapter's family has in common."""
        return DECODER_FAMILIES[self.adapter_config.family]

    @property
    def references_bases(self) -> bool:
        """Whether the checkpoint holds only what was trained and names its bases."""
        return bool(self.encoder_id) and not self.bases_included

    @property
    def max_inputs(self) -> int | None:
        """Most model inputs (mel frames, samples) a clip may have; `None` where any length goes."""
        return encoder_spec(self.audio_config).max_inputs(self.audio_config)

    @property
    def input_steps(self) -> LengthSteps:
        """Model inputs (mel frames, samples) -> speech tokens."""
        return (
            encoder_spec(self.audio_config).frame_steps(self.audio_config)
            + self.adapter_config.length_steps()
        )

    def encoder_frames(self, inputs):
        """Frames the encoder makes of so many model inputs; `int` or tensor."""
        return chain_length(inputs, encoder_spec(self.audio_config).frame_steps(self.audio_config))

    def speech_tokens(self, inputs):
        """Tokens the decoder sees for so many model inputs; `int` or tensor."""
        return chain_length(inputs, self.input_steps)

    def to_dict(self):
        output = super().to_dict()
        for name in ("adapter_config", "prompt_config"):
            output[name] = getattr(self, name).own_values()
        if self.lora_config:
            output["lora_config"] = {slot: lora.own_values() for slot, lora in self.lora_config.items()}
        # A bank that lost its last adapter is none.
        bank = {name: adapter.own_values() for name, adapter in (self.lora_bank or {}).items()}
        output["lora_bank"] = bank or None
        if self.router_config:
            output["router_config"] = self.router_config.own_values()
        return output

    def to_json_file(self, json_file_path, use_diff: bool = True):
        """As the stock method; the file also stops stock classes, which would take a part for the whole."""
        values = with_refusals(json.loads(self.to_json_string(use_diff)))
        for part in ("audio_config", "text_config"):
            # Where a base lay on this machine is nobody else's business; its id says which one it is.
            (values.get(part) or {}).pop("_name_or_path", None)
        text = json.dumps(values, indent=2, sort_keys=True) + "\n"
        Path(json_file_path).write_text(text, encoding="utf-8")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As the stock method."""
        return super().from_dict(without_refusals(config_dict), **kwargs)

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """As the stock method; what is no checkpoint of this package is refused in one line."""
        name = str(pretrained_model_name_or_path)
        if is_path(name) and not Path(name).expanduser().exists():
            raise FileNotFoundError(f"{name}: no such folder")
        try:
            values, rest = super().get_config_dict(name, **kwargs)
        except OSError as error:
            reason = str(error).strip().splitlines()[0]
            raise OSError(f"{name} is neither a checkpoint here nor read from the Hub: {reason}") from error
        kind = values.get("model_type")
        if kind is None:
            raise OSError(f"{name}: there is no checkpoint in it, its config.json is missing")
        if kind != cls.model_type:
            raise ValueError(f"{name}: a checkpoint of type {kind}, not {cls.model_type}")
        return values, rest

    @classmethod
    def from_bases(
        cls, encoder: str, decoder: str | None = None, adapter: str = "mlp", bases=None, **fields
    ) -> "SpeechLLMConfig":
        """Compose a config from base models, by id or folder, and the name of an adapter.

        An adapter inside an encoder-decoder takes one base and no `decoder`. `fields` may be the adapter's
        ("stack_factor"), this config's ("output_norm", "encoder_revision"), or say how to fetch ("token").
        The default prompt is rendered with the decoder's tokenizer.
        """
        hub = hub_arguments(fields)
        own, adapter_fields = cls._sort_fields(
            adapter, {name: value for name, value in fields.items() if name not in HUB_ARGUMENTS}
        )
        # Once over the default bases: what is misspelt is told before anything is downloaded. The layer that
        # a router reads is the one field that may be right for other bases alone.
        router = router_config(own.get("router_config"))
        family = cls(
            adapter_config=adapter_fields, **{**own, "router_config": router and router.anywhere()}
        ).family
        audio, own["encoder_revision"] = base_config(encoder, own.get("encoder_revision"), bases, **hub)
        if family.one_base:
            decoder = _same_base(adapter, encoder, decoder)
            text, own["decoder_revision"] = copy.deepcopy(audio), own["encoder_revision"]
        elif decoder is None:
            raise ValueError(f"adapter {adapter!r} bridges into a language model: name one as decoder")
        else:
            text, own["decoder_revision"] = base_config(decoder, own.get("decoder_revision"), bases, **hub)
        config = cls(
            audio_config=audio,
            text_config=text,
            adapter_config=adapter_fields,
            encoder_id=encoder,
            decoder_id=decoder,
            **own,
        )
        config.set_tokens(
            load_base(AutoTokenizer.from_pretrained, decoder, config.decoder_revision, bases, **hub)
        )
        return config

    @classmethod
    def _sort_fields(cls, adapter: str, fields: dict) -> tuple[dict, dict]:
        """Fields of this config, and a dict of the adapter's; one that is neither's is a `ValueError`."""
        for name in fields:
            if name in SETTLED_BY_BASES:
                raise ValueError(
                    f"from_bases finds {name!r} by itself: say it through {SETTLED_BY_BASES[name]}"
                )
        own_names = cls.own_fields() - set(SETTLED_BY_BASES)
        adapter_names = adapter_config_from({"model_type": adapter}).own_fields()
        refuse_unknown(f"a model with adapter {adapter!r}", fields, own_names | adapter_names)
        own = {name: value for name, value in fields.items() if name in own_names}
        of_adapter = {name: value for name, value in fields.items() if name not in own_names}
        return own, {"model_type": adapter, **of_adapter}

    def set_tokens(self, tokenizer) -> None:
        """Take the ids that depend on the tokenizer: audio placeholder, padding, end, default prompt."""
        self.family.prepare(tokenizer)
        self.audio_token_id = tokenizer.get_vocab().get(AUDIO_TOKEN)
        self.pad_token_id = tokenizer.pad_token_id
        self.end_token_id = tokenizer.eos_token_id
        self.prompt_ids = self.family.prompt_ids(self, tokenizer)


def _same_base(adapter: str, encoder: str, decoder: str | None) -> str:
    if decoder not in (None, encoder):
        raise ValueError(
            f"adapter {adapter!r} lives inside one encoder-decoder: name {encoder} or {decoder}, not both"
        )
    return encoder


def _shipped_with_every_checkpoint():
    """Never called: transformers finds a checkpoint's files by reading import statements, this one included.

    A model that was loaded from a checkpoint's own code and is saved again keeps all of its files so.
    """
    from ..modeling.modeling_speechllm import SpeechLLMForConditionalGeneration
    from ..processing.pipeline_speechllm import SpeechLLMPipeline
    from ..processing.processing_speechllm import SpeechLLMProcessor

    return SpeechLLMForConditionalGeneration, SpeechLLMPipeline, SpeechLLMProcessor


def _name_in_stock_tables() -> None:
    # `transformers serve` and the stock pipelines look these names up before they look at a class, and no
    # public call adds to them (`AutoModel...register` fills another table).
    for table in (
        modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    ):
        table.setdefault(SpeechLLMConfig.model_type, "SpeechLLMForConditionalGeneration")


_name_in_stock_tables()
