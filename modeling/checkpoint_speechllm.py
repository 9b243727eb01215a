"""How a checkpoint is written and read: only what was trained, beside the names of its bases.

Walked by hand: `from_pretrained(d)` reads `d/config.json`, loads encoder and decoder with their own
`from_pretrained` (so their dtype, quantization, placement and fresh buffers are the bases' business), builds
the model around them with an empty adapter, and assigns the tensors of `d/model.safetensors` to it.
"""

import contextlib
import copy
from importlib import import_module
from pathlib import Path

import torch
from transformers import AutoModel, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.utils import logging

from ..configuration.base_resolution import hub_arguments, load_base
from ..configuration.configuration_speechllm import SpeechLLMConfig
from ..configuration.configuration_strict import refuse_unknown
from ..configuration.writing import replacing_files
from .embedding_scale import embedding_rms
from .encoders.encoder_table import ENCODERS
from .trained_tensors import assign_tensors, read_tensors

# What the Auto classes and pipelines pass along; none of it concerns a model with referenced bases.
IGNORED_ARGUMENTS = frozenset(
    [
        "_from_auto",
        "_from_pipeline",
        "_commit_hash",
        "adapter_kwargs",
        "trust_remote_code",
        "use_safetensors",
        "low_cpu_mem_usage",
        "weights_only",
    ]
)
OWN_ARGUMENTS = frozenset(
    ["dtype", "torch_dtype", "device_map", "quantization_config", "attn_implementation", "max_memory"]
)
SPREADING = ("auto", "balanced", "balanced_low_0", "sequential")


class CheckpointMixin:
    """`from_bases`, `from_pretrained` and `save_pretrained` of both model classes."""

    @classmethod
    def from_bases(cls, encoder: str, decoder: str, adapter: str = "mlp", *, bases=None, **arguments):
        """A model ready to train: frozen bases, a fresh adapter.

        `encoder`, `decoder`: ids on the Hub or folders. `bases`: a folder that holds bases, one sub-folder an id.
        `arguments`: fields of the adapter's config ("stack_factor") and of `SpeechLLMConfig` ("lora_config"),
        and `dtype`, `device_map`, `quantization_config`, `attn_implementation` for the bases. What is trained
        is float32 whatever the bases are.
        """
        own = {name: arguments.pop(name) for name in list(arguments) if name in OWN_ARGUMENTS}
        config = SpeechLLMConfig.from_bases(encoder, decoder, adapter, bases=bases, **arguments)
        tower, decoder_model = load_bases(cls, config, bases, {**hub_arguments(arguments), **own})
        rms = embedding_rms(
            decoder_model.get_input_embeddings(), config.text_config.get_text_config().vocab_size
        )
        model = cls(config, tower, decoder_model, embedding_rms=rms)
        model.speech_model.adapter.to(device=tower.device, dtype=torch.float32)
        model.speech_model.speech_norm.to(device=tower.device, dtype=torch.float32)
        if model.can_generate():
            model.generation_config = default_generation(config, decoder_model.generation_config)
        return model.finish_loading(own.get("device_map"))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *args,
        config=None,
        bases=None,
        output_loading_info=False,
        **kwargs,
    ):
        """As the stock method. `bases`: a folder with the frozen bases, for a checkpoint that references them.

        Tensors that are missing, left over or of another shape are an error, never a fresh initialization.
        """
        name = pretrained_model_name_or_path
        fetch = {
            **hub_arguments(kwargs),
            **{k: kwargs[k] for k in ("revision", "subfolder") if kwargs.get(k)},
        }
        if config is None:
            overrides = {k: v for k, v in kwargs.items() if k in SpeechLLMConfig.own_fields()}
            config = cls.config_class.from_pretrained(name, **fetch, **overrides)
            kwargs = {k: v for k, v in kwargs.items() if k not in overrides}
        if config.references_bases:
            model = cls._load_around_bases(name, config, bases, fetch, kwargs)
        else:
            model = cls._load_whole(name, config, fetch, kwargs, *args)
        info = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
        return (model, info) if output_loading_info else model

    @classmethod
    def _load_around_bases(cls, name, config, bases, fetch: dict, kwargs: dict):
        rest = set(kwargs) - set(fetch) - IGNORED_ARGUMENTS
        refuse_unknown(
            "from_pretrained",
            {k for k in rest if kwargs[k] is not None},
            OWN_ARGUMENTS | cls.config_class.own_fields(),
        )
        own = {k: v for k, v in kwargs.items() if k in OWN_ARGUMENTS and v is not None}
        # First what is small and may be wrong, then gigabytes.
        tensors = read_tensors(name, fetch)
        tower, decoder_model = load_bases(cls, config, bases, {**hub_arguments(kwargs), **own})
        with torch.device("meta"):
            model = cls(config, tower, decoder_model)
        assign_tensors(model, tensors, explicit_dtype(own), tower.device, str(name))
        if model.can_generate():
            model.generation_config = GenerationConfig.from_pretrained(name, **fetch)
        model.name_or_path = config.name_or_path = str(name)
        return model.finish_loading(own.get("device_map"))

    @classmethod
    def _load_whole(cls, name, config, fetch: dict, kwargs: dict, *args):
        """A self-contained checkpoint, through the stock loader."""
        dtype = explicit_dtype(kwargs)
        parts = part_dtypes(config)
        kwargs = {k: v for k, v in kwargs.items() if k not in ("torch_dtype", "dtype")}
        kwargs.update(
            fetch, dtype=dtype or max(parts.values(), key=lambda d: d.itemsize), use_safetensors=True
        )
        read_tensors(name, fetch, only_check=True)
        model, info = super().from_pretrained(name, *args, config=config, output_loading_info=True, **kwargs)
        faults = {
            k: sorted(info[k])[:1]
            for k in ("missing_keys", "unexpected_keys", "mismatched_keys")
            if info.get(k)
        }
        headless = cls.__name__.endswith("Model")
        if (
            headless
            and set(faults) == {"unexpected_keys"}
            and all("lm_head" in k for k in info["unexpected_keys"])
        ):
            faults = {}
        if faults:
            raise ValueError(f"checkpoint {name} does not fit its config: {faults}")
        if dtype is None:
            # The stock loader knows one dtype a model; every part goes back to the one it was saved in.
            for part, part_dtype in parts.items():
                # Not `module.to`: it would also round buffers that are computed, such as rotary frequencies.
                for tensor in getattr(model.speech_model, part).state_dict(keep_vars=True).values():
                    if tensor.is_floating_point():
                        tensor.data = tensor.data.to(part_dtype)
        return model.finish_loading(None)

    def finish_loading(self, device_map):
        """Freeze, go to eval, and remember a placement that pipelines must not undo."""
        if device_map is not None and not hasattr(self, "hf_device_map"):
            self.hf_device_map = {"": self.device}
        self.freeze_bases()
        self._keys_to_ignore_on_save = self.untrained_keys()
        return self.eval()

    def untrained_keys(self) -> set[str]:
        """Names of the base tensors that were not trained: a checkpoint leaves them out."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {name for name in self.state_dict() if self.is_base_key(name) and name not in trained}

    def save_pretrained(
        self, save_directory, include_bases: bool = False, state_dict=None, push_to_hub=False, **kwargs
    ):
        """Write what was trained, the config, and the code that loads it; with `include_bases` the bases too.

        Files are written beside their place and renamed into it: an interrupted save leaves the old checkpoint.
        """
        if push_to_hub:
            options = {
                k: v
                for k, v in kwargs.items()
                if k in ("commit_message", "private", "token", "revision", "create_pr")
            }
            return self.push_to_hub(kwargs.get("repo_id", Path(save_directory).name), **options)
        include_bases = include_bases or not self.config.references_bases
        if include_bases and any(getattr(m, "hf_quantizer", None) for m in self.modules()):
            raise ValueError(
                "quantized bases can't be written out: load the model without quantization_config first"
            )
        state = state_dict if state_dict is not None else self.state_dict()
        # The stock method drops these names from whatever state dict it is given.
        self._keys_to_ignore_on_save = set() if include_bases else self.untrained_keys()
        with replacing_files(save_directory) as folder, self._config_to_save(include_bases):
            super().save_pretrained(folder, state_dict=state, **kwargs)
            if kwargs.get("is_main_process", True) and not self.is_remote_code():
                import_module(f"{__name__.split('.')[0]}.remote_code").export_remote_code(folder)
        return None

    @contextlib.contextmanager
    def _config_to_save(self, include_bases: bool):
        """This model's config as the checkpoint has to say it, for the time of a save."""
        config, before = self.config, self.config.bases_included
        config.bases_included = include_bases and bool(config.encoder_id)
        for part, sub_config in part_configs(config).items():
            sub_config.dtype = next(
                p.dtype for p in getattr(self.speech_model, part).parameters() if p.is_floating_point()
            )
        try:
            yield
        finally:
            config.bases_included = before


def part_configs(config) -> dict:
    """The sub-config that records each part's dtype."""
    return {
        "audio_tower": config.audio_config,
        "language_model": config.text_config,
        "adapter": config.adapter_config,
    }


def part_dtypes(config) -> dict[str, torch.dtype]:
    """The dtype each part was saved in; the scale norm goes with the adapter."""
    found = {part: sub.dtype or torch.float32 for part, sub in part_configs(config).items()}
    return {**found, "speech_norm": found["adapter"]}


def explicit_dtype(arguments: dict) -> torch.dtype | None:
    """The one dtype a caller asked for; `None` for "auto"."""
    dtype = arguments.get("dtype") or arguments.get("torch_dtype")
    if isinstance(dtype, str):
        return None if dtype == "auto" else getattr(torch, dtype)
    return dtype


def load_bases(cls, config, bases, arguments: dict) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Encoder tower and decoder of a config, frozen weights loaded. The decoder has a head if `cls` has one."""
    shared = hub_arguments(arguments)
    dtype, device_map = explicit_dtype(arguments), arguments.get("device_map")
    quantization = arguments.get("quantization_config")
    attention = arguments.get("attn_implementation")
    attention = (
        attention if isinstance(attention, dict) else {"text_config": attention, "audio_config": attention}
    )

    def options(slot: str, sub_config) -> dict:
        chosen = {
            **shared,
            "config": copy.deepcopy(sub_config),
            "dtype": dtype or sub_config.dtype or "auto",
            "device_map": device_map,
            "quantization_config": copy.deepcopy(quantization),
            "attn_implementation": attention.get(slot),
        }
        return {name: value for name, value in chosen.items() if value is not None}

    decoder_class = AutoModelForCausalLM if cls.can_generate() else AutoModel
    decoder = load_base(
        decoder_class.from_pretrained,
        config.decoder_id,
        config.decoder_revision,
        bases,
        **options("text_config", config.text_config),
    )
    tower_class = ENCODERS[config.audio_config.model_type]
    tower_options = options("audio_config", config.audio_config)
    if device_map in SPREADING:
        # The encoder is small: it goes where the decoder begins.
        tower_options["device_map"] = {"": next(decoder.parameters()).device}
    if not tower_class._supports_sdpa:
        tower_options["attn_implementation"] = "eager"
    if not tower_class.QUANTIZABLE:
        tower_options.pop("quantization_config", None)
    if tower_class.KEY_MAPPING:
        tower_options["key_mapping"] = tower_class.KEY_MAPPING
    with quiet_about_unused_tensors():
        tower = load_base(
            tower_class.from_pretrained, config.encoder_id, config.encoder_revision, bases, **tower_options
        )
    for base in (tower, decoder):
        # Their weights are there: the composite's constructor must not initialize them once more.
        for module in base.modules():
            module._is_hf_initialized = True
    return tower, decoder


@contextlib.contextmanager
def quiet_about_unused_tensors():
    """An encoder is read from a checkpoint that holds a decoder too; the loader's report of it is no news."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def default_generation(config, base: GenerationConfig) -> GenerationConfig:
    """Greedy, one beam, the decoder's own ends. Its sampling settings are for chat, not for transcripts."""
    ends = base.eos_token_id
    return GenerationConfig(
        num_beams=1, do_sample=False, max_new_tokens=256, eos_token_id=ends, pad_token_id=config.pad_token_id,
        bos_token_id=base.bos_token_id,
    )  # fmt: skip
