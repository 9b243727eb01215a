"""Configs that refuse what they do not know, and say what was probably meant."""

import dataclasses
import difflib
import functools
from typing import Any, TypeVar

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig, PreTrainedConfig

# What transformers itself passes through a config's constructor, besides the declared fields.
STOCK_KEYS = frozenset(
    [
        "model_type",
        "auto_map",
        "custom_pipelines",
        "attn_implementation",
        "experts_implementation",
        "output_attentions",
        "name_or_path",
        "_name_or_path",
        "_commit_hash",
        "torch_dtype",
        "num_labels",
        # The trainer writes it into the config of whatever it trains.
        "use_cache",
        "quantization_config",
        "_attn_implementation_internal",
        "_experts_implementation_internal",
        "transformers_weights",
    ]
)


def suggest(wrong: str, known) -> str:
    """A clause naming the closest known word, or else all of them."""
    close = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(known))}"


def refuse_unknown(owner: str, given, known) -> None:
    """Raise `ValueError` for the first name in `given` that is not in `known`."""
    for name in given:
        if name not in known:
            raise ValueError(f"{owner} has no field {name!r}; {suggest(name, known)}")


ConfigClass = TypeVar("ConfigClass", bound=type)


def strict_config(cls: ConfigClass) -> ConfigClass:
    """`strict` of huggingface_hub, whose two-line errors become one line that names the config."""
    strict(cls)
    for name in ("__init__", "__setattr__", "validate"):
        setattr(cls, name, _in_one_line(getattr(cls, name)))
    return cls


def _in_one_line(method):
    @functools.wraps(method)
    def checked(self, *args, **kwargs):
        try:
            return method(self, *args, **kwargs)
        except StrictDataclassError as error:
            reason = " ".join(str(error.__cause__ or error).split())
            raise ValueError(f"{self.described()}: {reason}") from error

    return checked


@strict_config
class StrictConfig(PreTrainedConfig):
    """A `PreTrainedConfig` whose constructor knows every one of its fields.

    Stock configs keep any keyword as an attribute, so a misspelt field is silently the default.
    Subclasses put rules between fields into methods named `validate_*`; `@strict_config` runs them.
    """

    @classmethod
    def described(cls) -> str:
        """What errors call a config of this class."""
        return cls.__name__

    @classmethod
    def own_fields(cls) -> set[str]:
        """The fields a user may set: those declared below `StrictConfig`."""
        own = {declared.name for declared in dataclasses.fields(cls)}
        return own - set(PreTrainedConfig.__dataclass_fields__)

    def own_values(self) -> dict[str, Any]:
        """The kind, the declared fields and the dtype, without the stock fields of any model."""
        values = self.to_dict()
        return {
            name: values[name]
            for name in sorted(values)
            if name in self.own_fields() | {"model_type", "dtype"}
        }

    def __post_init__(self, **kwargs):
        generation = set(vars(GenerationConfig())) | set(GenerationConfig._get_default_generation_params())
        for name in kwargs:
            if name in generation - STOCK_KEYS:
                raise ValueError(f"{name!r} is a generation setting; set it on model.generation_config")
        refuse_unknown(self.described(), sorted(set(kwargs) - STOCK_KEYS), self.own_fields())
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As the stock method, which sets fields among `kwargs` afterwards: here they pass every rule."""
        own = {name: kwargs.pop(name) for name in list(kwargs) if name in cls.own_fields()}
        for name, value in own.items():
            # As in the stock method, a dict changes fields of a sub-config and leaves its others.
            if isinstance(value, dict) and "model_type" in (config_dict.get(name) or ()):
                own[name] = {**config_dict[name], **value}
        return super().from_dict({**config_dict, **own}, **kwargs)
