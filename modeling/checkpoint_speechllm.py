"""How a checkpoint is written and read: only what was trained, beside the names of its bases.

Walked by hand: `from_pretrained(d)` reads `d/config.json`, loads encoder and decoder with their own
`from_pretrained` (so their dtype, quantization, placement and fresh buffers are the bases' business), builds
the model around them with an empty adapter, and assigns the tensors of `d/model.safetensors` to it.
"""

import contextlib
import copy
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from ..configuration.base_resolution import hub_arguments
from ..configuration.configuration_lora import select_adapters
from ..configuration.configuration_speechllm import SpeechLLMConfig
from ..configuration.configuration_strict import refuse_unknown
from ..configuration.writing import replacing_files
from .base_loading import LOADING_ARGUMENTS, explicit_dtype, skipping_quantization
from .decoders.family_table import decoder_family
from .embedding_scale import embedding_rms
from .generation_defaults import without_stock_defaults
from .lora_layers import is_lora_key, without_adapters
from .trained_tensors import assign_tensors, is_router_key, read_tensors, write_empty_weights

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


class CheckpointedModel(PreTrainedModel):
    """`from_bases`, `from_pretrained` and `save_pretrained` of both model classes."""

    config: SpeechLLMConfig
    speech_model: Any
    is_base_key: Any
    freeze_bases: Any
    # Base tensors that a checkpoint held because they were trained once: they stay part of it.
    _trained_base_keys: frozenset[str] = frozenset()
    _pushes_bases = False
    _pushes_dtype: torch.dtype | None = None

    @classmethod
    def from_bases(
        cls, encoder: str, decoder: str | None = None, adapter: str = "mlp", *, bases=None, **arguments
    ):
        """A model ready to train: frozen bases, a fresh adapter.

        `encoder`, `decoder`: ids on the Hub or folders; an adapter inside an encoder-decoder
        ("cross_attention") takes that one alone. `bases`: a folder of bases, one sub-folder an id.
        `arguments`: fields of the adapter's config ("stack_factor") and of `SpeechLLMConfig` ("lora_config"),
        and `dtype`, `device_map`, `quantization_config`, `attn_implementation` for the bases. What is trained
        is float32 whatever the bases are.
        """
        own = {name: arguments.pop(name) for name in list(arguments) if name in LOADING_ARGUMENTS}
        config = SpeechLLMConfig.from_bases(encoder, decoder, adapter, bases=bases, **arguments)
        family, loading = decoder_family(config), {**hub_arguments(arguments), **own}
        tower, decoder_model = family.load(config, bases, loading, cls.can_generate())
        rms = embedding_rms(
            decoder_model.get_input_embeddings(), config.text_config.get_text_config().vocab_size
        )
        model: Any = cls(config, tower, decoder_model, embedding_rms=rms)
        for part in (model.speech_model.adapter, model.speech_model.speech_norm, model.speech_model.router):
            if part is not None:
                part.to(device=tower.device, dtype=torch.float32)
        if model.can_generate():
            model.generation_config = family.default_generation(config, decoder_model.generation_config)
        return model.finish_loading(own.get("device_map"))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path,
        *args,
        config=None,
        bases=None,
        adapters=None,
        output_loading_info=False,
        **kwargs,
    ):
        """As the stock method. `bases`: a folder with the frozen bases, where a checkpoint references them.
        `adapters`: names of the adapters of its bank that are wanted; all of them by default.

        Tensors that are missing, left over or of another shape are an error, never a fresh initialization.
        """
        name = pretrained_model_name_or_path
        pinned = {key: kwargs[key] for key in ("revision", "subfolder") if kwargs.get(key)}
        fetch = {**hub_arguments(kwargs), **pinned}
        if config is None:
            overrides = {k: v for k, v in kwargs.items() if k in SpeechLLMConfig.own_fields()}
            config = SpeechLLMConfig.from_pretrained(name, **fetch, **overrides)
            kwargs = {k: v for k, v in kwargs.items() if k not in overrides}
        else:
            config = copy.deepcopy(config)
        wanted = config.lora_bank if adapters is None else select_adapters(config.lora_bank, adapters)
        dropped = set(config.lora_bank or {}) - set(wanted or {})
        if config.references_bases:
            config.lora_bank = wanted
            model = cls._load_around_bases(name, config, bases, fetch, dropped, kwargs)
        else:
            model = cls._load_whole(name, config, fetch, kwargs, *args)
            for adapter in sorted(dropped):
                model.lora_bank.remove(adapter)
        info: dict[str, Any] = {key: set() for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
        return (model, {**info, "error_msgs": []}) if output_loading_info else model

    @classmethod
    def _load_around_bases(cls, name, config, bases, fetch: dict, dropped: set[str], kwargs: dict):
        rest = set(kwargs) - set(fetch) - IGNORED_ARGUMENTS
        refuse_unknown("from_pretrained", sorted(k for k in rest if kwargs[k] is not None), LOADING_ARGUMENTS)
        own = {k: v for k, v in kwargs.items() if k in LOADING_ARGUMENTS and v is not None}
        # First what is small and may be wrong, then gigabytes.
        tensors = without_adapters(read_tensors(name, fetch), dropped)
        loading = {**hub_arguments(kwargs), **own}
        tower, decoder_model = decoder_family(config).load(config, bases, loading, cls.can_generate())
        with torch.device("meta"):
            model: Any = cls(config, tower, decoder_model)
        assigned = assign_tensors(model, tensors, explicit_dtype(own), tower.device, str(name))
        model._trained_base_keys = frozenset(key for key in assigned if model.is_base_key(key))
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
        widest = max(parts.values(), key=lambda part_dtype: part_dtype.itemsize)
        kwargs.update(fetch, dtype=dtype or widest, use_safetensors=True)
        if kwargs.get("quantization_config") is not None:
            kwargs["quantization_config"] = skipping_quantization(kwargs["quantization_config"], config)
        read_tensors(name, fetch, only_check=True)
        loaded: Any = super().from_pretrained(name, *args, config=config, output_loading_info=True, **kwargs)
        model, info = loaded
        faults = {key: sorted(info[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
        if not cls.can_generate():
            # Saved by the class with a head, read by the one without.
            faults["unexpected_keys"] = [key for key in faults["unexpected_keys"] if "lm_head" not in key]
        faults = {fault: keys[:1] for fault, keys in faults.items() if keys}
        if faults:
            raise ValueError(f"checkpoint {name} does not fit its config: {faults}")
        if dtype is None and kwargs.get("quantization_config") is None:
            model.restore_part_dtypes(parts)
        return model.finish_loading(None)

    def restore_part_dtypes(self, parts: dict[str, torch.dtype]) -> None:
        """Bring every part back to the dtype it was saved in: the stock loader knows one for all."""
        for part, dtype in parts.items():
            # Not `module.to`: it would also round buffers that are computed, such as rotary frequencies.
            for name, tensor in getattr(self.speech_model, part).state_dict(keep_vars=True).items():
                if tensor.is_floating_point():
                    tensor.data = tensor.data.to(parts["adapter"] if is_lora_key(name) else dtype)

    def finish_loading(self, device_map):
        """Freeze, go to eval, and remember a placement that pipelines must not undo."""
        if device_map is not None and not hasattr(self, "hf_device_map"):
            self.hf_device_map = {"": self.device}
        self.freeze_bases()
        return self.eval()

    def keep_in_checkpoints(self, names) -> None:
        """Base tensors of these names are written from now on, also once they are frozen again."""
        self._trained_base_keys = self._trained_base_keys | frozenset(names)

    def untrained_keys(self) -> set[str]:
        """Names of the base tensors that were never trained: a checkpoint leaves them out."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        trained |= self._trained_base_keys
        return {name for name in self.state_dict() if self.is_base_key(name) and name not in trained}

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory,
        include_bases: bool = False,
        trained_dtype: torch.dtype | str | None = None,
        state_dict=None,
        push_to_hub=False,
        **kwargs,
    ):
        """Write what was trained, the config, and the code that loads it; with `include_bases` the bases too.

        `trained_dtype` ("float16") rounds what was trained, for half the size. Files are written beside their
        place and renamed into it: an interrupted save leaves the old one.
        """
        trained_dtype = explicit_dtype({"dtype": trained_dtype})
        if push_to_hub:
            names = ("commit_message", "private", "token", "revision", "create_pr")
            options = {name: kwargs[name] for name in names if name in kwargs}
            repo_id = kwargs.get("repo_id", Path(save_directory).name)
            options["trained_dtype"] = trained_dtype
            return self.push_to_hub(repo_id, include_bases=include_bases, **options)
        if kwargs.get("variant"):
            raise ValueError(
                "checkpoints have no variants: save each dtype in a folder or revision of its own"
            )
        include_bases = include_bases or self._pushes_bases or not self.config.references_bases
        if include_bases and any(getattr(module, "hf_quantizer", None) for module in self.modules()):
            raise ValueError(
                "quantized bases can't be written out: load the model without quantization_config first"
            )
        trained_dtype = trained_dtype or self._pushes_dtype
        state = state_dict if state_dict is not None else self.state_dict()
        if trained_dtype is not None:
            state = {key: self._rounded(key, tensor, trained_dtype) for key, tensor in state.items()}
        # The stock method drops these names from whatever state dict it is given.
        self._keys_to_ignore_on_save = set() if include_bases else self.untrained_keys()
        try:
            with replacing_files(save_directory) as folder, self._as_saved(include_bases, trained_dtype):
                super().save_pretrained(folder, state_dict=state, **kwargs)
                write_empty_weights(folder)
                if kwargs.get("is_main_process", True) and not self.is_remote_code():
                    import_module(f"{__name__.split('.')[0]}.remote_code").export_remote_code(folder)
        finally:
            self._keys_to_ignore_on_save = None
        return None

    def _rounded(self, key: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """A tensor as it is written: what belongs to a base or the router stays as it is."""
        kept = self.is_base_key(key) or is_router_key(key) or not tensor.is_floating_point()
        return tensor if kept else tensor.to(dtype)

    def push_to_hub(  # type: ignore[override]
        self, repo_id: str, *, include_bases: bool = False, trained_dtype=None, **kwargs
    ):
        """As the stock method; `include_bases` and `trained_dtype` are those of `save_pretrained`."""
        self._pushes_bases, self._pushes_dtype = include_bases, explicit_dtype({"dtype": trained_dtype})
        try:
            return super().push_to_hub(repo_id, **kwargs)  # type: ignore[arg-type]
        finally:
            self._pushes_bases, self._pushes_dtype = False, None

    def _upload_modified_files(self, working_dir, repo_id, *args, **kwargs):
        """As the stock method, with which `push_to_hub` ends; with our card in the place of the stock one."""
        if not self.is_remote_code():
            import_module(f"{__name__.split('.')[0]}.remote_code").replace_stock_card(working_dir, repo_id)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    @contextlib.contextmanager
    def _as_saved(self, include_bases: bool, trained_dtype: torch.dtype | None = None):
        """This model's configs as the checkpoint has to say them, for the time of a save."""
        config, included, generation = self.config, self.config.bases_included, self.generation_config
        config.bases_included = include_bases and bool(config.encoder_id)
        for part, sub_config in part_configs(config).items():
            sub_config.dtype = self.part_dtype(part)
        config.adapter_config.dtype = trained_dtype or config.adapter_config.dtype
        if generation is not None:
            self.generation_config = without_stock_defaults(generation)
        try:
            yield
        finally:
            config.bases_included, self.generation_config = included, generation

    def part_dtype(self, part: str) -> torch.dtype:
        """The dtype of a part's own weights; LoRA in a base has the adapter's."""
        model = self.speech_model
        named = getattr(model, part).named_parameters()
        own = (p.dtype for name, p in named if p.is_floating_point() and not is_lora_key(name))
        # An adapter without weights of its own stands for all else that is trained.
        trained = (p.dtype for name, p in model.named_parameters() if not model.is_base_key(name))
        return next(own, next(trained, torch.float32))


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
