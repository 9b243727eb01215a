"""LoRA on the frozen bases of a bridge: which linears, how wide, how strong."""

from collections.abc import Mapping

from .configuration_strict import StrictConfig, refuse_unknown, strict_config

LORA_SLOTS = ("encoder", "decoder")


@strict_config
class LoraConfig(StrictConfig):
    """One LoRA adapter. Names of the fields are PEFT's, so that a PEFT folder reads as one of these.

    `target_modules` are endings of module names ("q_proj" or "self_attn.q_proj").
    """

    model_type = "lora"

    r: int = 8
    lora_alpha: float | int = 16
    lora_dropout: float | int = 0.0
    target_modules: list[str] | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.target_modules is None:
            self.target_modules = ["q_proj", "v_proj"]

    def validate_sizes(self):
        if self.r < 1:
            raise ValueError(f"r must be at least 1, not {self.r}")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout must be in [0, 1), not {self.lora_dropout}")

    def validate_targets(self):
        """Without a target there is nothing to train, and "" would be the ending of every name."""
        if not self.target_modules or not all(self.target_modules):
            raise ValueError('target_modules must name linears, such as ["q_proj", "v_proj"]')

    @property
    def scaling(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return self.lora_alpha / self.r


def lora_slots(slots: dict | None) -> dict[str, LoraConfig] | None:
    """`{"decoder": {"r": 8}}` with every value made a `LoraConfig`; `None` stays `None`."""
    if not slots:
        return None
    refuse_unknown("lora_config", slots, LORA_SLOTS)
    return {slot: lora_config(value) for slot, value in slots.items() if value is not None} or None


def lora_config(value) -> LoraConfig:
    """A `LoraConfig` from itself or from a mapping of its fields."""
    # By model_type, not by class: a checkpoint folder's copy of this file defines the class once more.
    if getattr(value, "model_type", None) == LoraConfig.model_type:
        value = value.to_dict()
    if not isinstance(value, Mapping):
        raise ValueError(f"a slot of lora_config holds fields such as {{'r': 8}}, not {value!r}")
    return LoraConfig(**value)
