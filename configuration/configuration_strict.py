"""Configs that refuse what they do not know, and say what was probably meant."""

import difflib

from huggingface_hub.dataclasses import strict
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


@strict
class StrictConfig(PreTrainedConfig):
    """A `PreTrainedConfig` whose constructor knows every one of its fields.

    Stock configs keep any keyword as an attribute, so a misspelt field is silently the default.
    Subclasses put rules between fields into methods named `validate_*`; `@strict` runs them.
    """

    @classmethod
    def own_fields(cls) -> set[str]:
        """The fields a user may set: those declared below `StrictConfig`."""
        return set(cls.__dataclass_fields__) - set(PreTrainedConfig.__dataclass_fields__)

    def __post_init__(self, **kwargs):
        generation = set(GenerationConfig._get_default_generation_params())
        for name in kwargs:
            if name in generation:
                raise ValueError(f"{name!r} is a generation setting; set it on model.generation_config")
        refuse_unknown(type(self).__name__, set(kwargs) - STOCK_KEYS, self.own_fields())
        super().__post_init__(**kwargs)
