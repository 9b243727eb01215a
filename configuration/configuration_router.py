"""What a language router is: its labels, its head, and how its probabilities become a choice of adapters."""

from collections.abc import Mapping
from dataclasses import field
from typing import ClassVar, Literal

from .configuration_strict import StrictConfig, strict_config
from .encoder_specs import encoder_spec

# A row routed there takes no adapter. No label may be called so: it would be unclear which is meant.
BASE = "base"


@strict_config
class RouterConfig(StrictConfig):
    """A classifier of the frozen encoder's states, and what is done with its probabilities.

    `layer` counts as in `hidden_states`: 0 is what the encoder's first layer reads, None its final output.
    `temperature` divides the logits; calibration sets it. `families` groups the labels for hierarchical
    routing. A row whose greatest probability is below `floor` is left to the base.
    """

    model_type: ClassVar[str] = "router"

    labels: list[str] = field(default_factory=list)
    layer: int | None = None

    head: Literal["linear", "mlp", "cnn", "lstm", "attention"] = "mlp"
    # Layers between the pooled states and the logits, for every head but "linear".
    hidden_sizes: list[int] = field(default_factory=lambda: [256, 128])
    dropout: float | int = 0.3
    cnn_channels: int = 256
    cnn_kernel_size: int = 5
    cnn_layers: int = 2
    lstm_size: int = 128
    attention_size: int = 128

    temperature: float | int = 1.0
    families: dict[str, list[str]] | None = None
    strategy: Literal["hard", "soft", "threshold", "hierarchical", "base"] = "hard"
    threshold: float | int = 0.7
    top_k: int = 2
    floor: float | int = 0.0

    # Routing within a clip: a decision for every window, then smoothed over time.
    window_seconds: float | int = 0.5
    hop_seconds: float | int = 0.1
    smoothing: Literal["viterbi", "median", "none"] = "viterbi"
    # What a change of language costs, as a difference of log probabilities summed over windows. Windows
    # overlap, so evidence counts window_seconds / hop_seconds times.
    switch_penalty: float | int = 4.0
    median_windows: int = 5
    shortest_segment_seconds: float | int = 0.3

    def anywhere(self) -> "RouterConfig":
        """This router, reading the encoder's final output, which every encoder has."""
        return RouterConfig(**{**self.own_values(), "layer": None})

    def validate_labels(self):
        if not self.labels:
            raise ValueError('labels is empty; name what the router tells apart, such as ["hi", "it"]')
        twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if twice:
            raise ValueError(f"labels {self.labels} hold {twice[0]!r} more than once")
        if BASE in self.labels or "" in self.labels:
            raise ValueError(f"labels {self.labels} hold a name that is none: {BASE!r} means no adapter")

    def validate_sizes(self):
        names = ("cnn_channels", "cnn_kernel_size", "cnn_layers", "lstm_size", "attention_size")
        for name in (*names, "top_k", "median_windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if any(size < 1 for size in self.hidden_sizes):
            raise ValueError(f"hidden_sizes={self.hidden_sizes} must all be at least 1")
        for name in ("cnn_kernel_size", "median_windows"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name}={getattr(self, name)} must be odd: it has a middle")
        if self.layer is not None and self.layer < 0:
            raise ValueError(f"layer={self.layer} must be at least 0, or None for the encoder's output")

    def validate_rates(self):
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be at least 0 and below 1")
        for name in ("threshold", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be a probability, from 0 to 1")
        for name in ("switch_penalty", "shortest_segment_seconds"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0")
        for name in ("temperature", "window_seconds", "hop_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")

    def validate_hop(self):
        if self.hop_seconds > self.window_seconds:
            raise ValueError(
                f"hop_seconds={self.hop_seconds} would skip speech between windows of "
                f"window_seconds={self.window_seconds}"
            )

    def validate_families(self):
        """Every label in one family: a label in none could never be chosen, in two it would count twice."""
        if self.families is None:
            if self.strategy == "hierarchical":
                raise ValueError('strategy "hierarchical" needs families, such as {"romance": ["it", "es"]}')
            return
        members = [label for family in self.families.values() for label in family]
        empty = sorted(name for name, family in self.families.items() if not family)
        faults = {
            "hold labels the router has not": sorted(set(members) - set(self.labels)),
            "leave out": sorted(set(self.labels) - set(members)),
            "hold more than once": sorted({label for label in members if members.count(label) > 1}),
            "are empty": empty,
        }
        for fault, names in faults.items():
            if names:
                raise ValueError(f"families {fault}: {', '.join(names)}; the labels are {self.labels}")


def router_config(value) -> RouterConfig | None:
    """A `RouterConfig` from itself or from a mapping of its fields; `None` stays `None`."""
    # By model_type, not by class: a checkpoint folder's copy of this file defines the class once more.
    if getattr(value, "model_type", None) == RouterConfig.model_type:
        value = value.own_values()
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ValueError(f"router_config holds fields such as {{'labels': [...]}}, not {value!r}")
    return RouterConfig(**value)


def check_router(router: RouterConfig, bank: Mapping, audio_config) -> None:
    """Raise `ValueError` where a router and what it belongs to do not fit each other."""
    if bank and not set(router.labels) & set(bank):
        raise ValueError(
            f"the router tells {', '.join(router.labels)} apart, and the adapters are {', '.join(bank)}: "
            "no name in common"
        )
    layers = encoder_spec(audio_config).layers(audio_config)
    if router.layer is None:
        return
    if layers is None:
        raise ValueError(
            f"layer={router.layer}: the layers of a {audio_config.model_type} are not read one by one; "
            "None is its final output"
        )
    if router.layer > layers:
        raise ValueError(f"layer={router.layer}: this encoder has {layers} layers; None is its final output")
