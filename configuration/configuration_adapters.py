"""What each adapter is: its sizes, its rules, and how many speech tokens it makes of how many frames.

A bridge turns an encoder's frames into input embeddings of a causal language model; an adapter inside an
encoder-decoder changes how its decoder reads the frames. The widths on both sides belong to the encoder and
the decoder, so they are no field here: an adapter is constructed with them.
"""

from dataclasses import field
from typing import ClassVar, Literal

from .configuration_strict import StrictConfig, strict_config
from .speech_lengths import LengthSteps


@strict_config
class AdapterConfig(StrictConfig):
    """What all adapters have in common: a chain of lengths and fields that are sizes or rates."""

    # Which decoders it works with; a key of the tables of families.
    family: ClassVar[str] = "bridge"

    @classmethod
    def described(cls) -> str:
        return f"adapter {cls.model_type!r}"

    def length_steps(self) -> LengthSteps:
        """The chain encoder frames -> speech tokens; here one token for every frame."""
        return []

    @classmethod
    def rates(cls) -> set[str]:
        """The fields that may be 0, and be written so (`dropout=0`): shares and weights, not sizes."""
        return {name for name in cls.own_fields() if name == "dropout" or name.endswith("_weight")}

    def validate_sizes(self):
        """Every whole number in an adapter's config counts something there is at least one of."""
        for name in sorted(self.own_fields() - self.rates()):
            value = getattr(self, name)
            # `type`, as isinstance would take False for a size of 0.
            sizes = value if isinstance(value, list) else [value]
            if any(type(size) is int and size < 1 for size in sizes):
                raise ValueError(f"{name}={value} must be at least 1")

    def validate_rates(self):
        """A dropout of 1 lets nothing through; a negative loss weight would reward what it should prevent."""
        for name in sorted(self.rates()):
            value = getattr(self, name)
            if value < 0 or (name == "dropout" and value >= 1):
                raise ValueError(f"{name}={value} must be at least 0{' and below 1' * (name == 'dropout')}")

    def validate_heads(self):
        """Heads share the width; where that is the decoder's, it is checked when the adapter is built."""
        width, heads = getattr(self, "hidden_size", None), getattr(self, "num_attention_heads", None)
        if width is not None and heads is not None and width % heads:
            raise ValueError(f"hidden_size={width} must be a multiple of num_attention_heads={heads}")


@strict_config
class MLPAdapterConfig(AdapterConfig):
    """Neighbouring frames stacked into one, then two linear layers (Tiny Audio's projector)."""

    model_type: ClassVar[str] = "mlp"

    stack_factor: int = 5
    hidden_size: int = 2048
    activation: Literal["relu", "gelu", "silu"] = "relu"
    # What becomes of frames that do not fill a last stack: "drop" is the original's truncation, under
    # which a clip shorter than one stack has no tokens at all.
    remainder: Literal["pad", "drop"] = "pad"

    def length_steps(self) -> LengthSteps:
        if self.remainder == "drop":
            return [["conv", self.stack_factor, self.stack_factor, 0]]
        return [["windows", self.stack_factor, 1]]


@strict_config
class PrefixAdapterConfig(AdapterConfig):
    """Learned prefix tokens that read the speech through cross-attention (Arabic Speech Adapter)."""

    model_type: ClassVar[str] = "prefix"

    num_prefix_tokens: int = 32
    num_attention_heads: int = 8
    # None: work at the decoder's width, as the original does. A number: work at that narrower width and
    # project to the decoder's at the end, for a tenth of the parameters.
    hidden_size: int | None = None
    # None: 8192 at the decoder's width, twice `hidden_size` where that is set.
    intermediate_size: int | None = None
    dropout: float | int = 0.1
    # The original has "none". Its speech side is a bag of frames then: attention sums over keys in any
    # order, so the tokens of a clip and of the same clip backwards are equal unless the encoder's
    # states happen to carry their position.
    positions: Literal["sinusoidal", "none"] = "sinusoidal"
    # None: `num_prefix_tokens` for the whole clip, however long, as in the original. A number: that
    # many tokens for every window of so many frames, so that long clips have room.
    window_frames: int | None = None

    def length_steps(self) -> LengthSteps:
        if self.window_frames is None:
            return [["fixed", self.num_prefix_tokens]]
        return [["windows", self.window_frames, self.num_prefix_tokens]]

    def mlp_size(self) -> int:
        """Width between the two layers of the MLP."""
        if self.intermediate_size is not None:
            return self.intermediate_size
        return 8192 if self.hidden_size is None else 2 * self.hidden_size


@strict_config
class TransformerAdapterConfig(AdapterConfig):
    """A transformer encoder between two linear layers (the FunASR-Qwen4B adaptor)."""

    model_type: ClassVar[str] = "transformer"

    hidden_size: int = 2048
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    intermediate_size: int = 8192
    dropout: float | int = 0.1
    # The original has "none" and leaves order to what the encoder's states reveal of it.
    positions: Literal["rotary", "none"] = "rotary"
    norm_first: bool = False
    # Frames concatenated into one before the first layer; 1 keeps the encoder's frame rate.
    stack_factor: int = 1

    def length_steps(self) -> LengthSteps:
        return [] if self.stack_factor == 1 else [["windows", self.stack_factor, 1]]

    def validate_rotary(self):
        """Rotary positions turn pairs of channels within each head."""
        if self.positions == "rotary" and self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"rotary positions need an even head size: hidden_size={self.hidden_size} must be a multiple "
                f"of {2 * self.num_attention_heads}, twice num_attention_heads"
            )


@strict_config
class ConvAdapterConfig(AdapterConfig):
    """Strided convolutions that shorten the clip, then two linear layers."""

    model_type: ClassVar[str] = "conv"

    strides: list[int] = field(default_factory=lambda: [2, 2])
    kernel_size: int = 3
    hidden_size: int = 1024

    def length_steps(self) -> LengthSteps:
        return [["conv", self.kernel_size, stride, self.padding] for stride in self.strides]

    @property
    def padding(self) -> int:
        """Frames of silence on either side of a clip, so that a stride of 1 keeps its length."""
        return self.kernel_size // 2

    def validate_strides(self):
        """At least one convolution, and none that could leave a clip of one frame with nothing."""
        if not self.strides:
            raise ValueError("strides is empty; name one stride for each convolution, such as [2, 2]")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size} must be odd: a kernel has a middle frame")


@strict_config
class QFormerAdapterConfig(AdapterConfig):
    """A few learned queries for every window of frames, which they read through cross-attention."""

    model_type: ClassVar[str] = "qformer"

    window_frames: int = 15
    tokens_per_window: int = 3
    hidden_size: int = 1024
    num_hidden_layers: int = 2
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    dropout: float | int = 0.1

    def length_steps(self) -> LengthSteps:
        return [["windows", self.window_frames, self.tokens_per_window]]


@strict_config
class MoEAdapterConfig(AdapterConfig):
    """Stacked frames through one shared expert and the best few of several routed ones."""

    model_type: ClassVar[str] = "moe"

    stack_factor: int = 4
    hidden_size: int = 1024
    num_experts: int = 4
    num_experts_per_token: int = 2
    balance_loss_weight: float | int = 0.01
    router_z_loss_weight: float | int = 1e-4

    def length_steps(self) -> LengthSteps:
        return [["windows", self.stack_factor, 1]]

    def validate_experts(self):
        """A token cannot be sent to more experts than there are."""
        if self.num_experts_per_token > self.num_experts:
            raise ValueError(
                f"num_experts_per_token={self.num_experts_per_token} must be at most "
                f"num_experts={self.num_experts}"
            )


@strict_config
class CrossAttentionAdapterConfig(AdapterConfig):
    """The encoder-decoder's own cross-attention: nothing new; what is trained is a LoRA bank, or the base."""

    model_type: ClassVar[str] = "cross_attention"
    family: ClassVar[str] = "encoder_decoder"


@strict_config
class DualAttentionAdapterConfig(AdapterConfig):
    """A second, gated cross-attention in every decoder layer, meant for what is not the speaker's voice."""

    model_type: ClassVar[str] = "dual_attention"
    family: ClassVar[str] = "encoder_decoder"

    # "exact": gradient for gate and secondary from the first step. "published": the original's, whose gate
    # has none while both branches are equal. Either is the base bit for bit until it is trained.
    init: Literal["exact", "published"] = "exact"
    # None: the secondary has matrices of its own, copied from the primary. A number: it is the primary with
    # differences of that rank, for less than a tenth of the parameters up to a sixteenth of the width.
    rank: int | None = None
    # What a weight is drawn for: a token, each head of it, or each channel.
    gate: Literal["token", "head", "channel"] = "token"
    # Width between the two layers of the gate. None: the decoder's, or `rank` where that is set.
    gate_size: int | None = None
    # None: as `init` has it. The weight of the primary starts at sigmoid(gate_bias).
    gate_bias: float | int | None = None
    # None: as `init` has it. How far the gate may also make the secondary louder or quieter; without that
    # nothing tells it where to move while the branches are equal.
    gate_gain: float | int | None = None
    # Weight of the loss under which the secondary has to know the noise; 0 is none.
    noise_loss_weight: float | int = 0.0
    # What it has to know: the mean spectrum of the noise, or its ratio to the speech.
    noise_target: Literal["spectrum", "snr"] = "spectrum"

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        bias, gain = GATE_STARTS[self.init]
        # As floats: whole numbers of a config are sizes, which these are not.
        self.gate_bias = float(bias if self.gate_bias is None else self.gate_bias)
        self.gate_gain = float(gain if self.gate_gain is None else self.gate_gain)

    def gate_width(self, width: int) -> int:
        """Width between the two layers of the gate of a decoder of that width."""
        return self.gate_size or self.rank or width

    def validate_gain(self):
        """Beyond 1 the gate could turn the secondary over."""
        if not 0 <= (self.gate_gain or 0) <= 1:
            raise ValueError(f"gate_gain={self.gate_gain} must be from 0 to 1")


# Gate's bias and gain at the start, by `init`.
GATE_STARTS = {"exact": (2.0, 0.5), "published": (0.0, 0.0)}


def adapter_config(kind: str, **fields) -> AdapterConfig:
    """The config of an adapter of that kind; a kind or field it does not know is a `ValueError`."""
    if kind not in ADAPTER_CONFIGS:
        raise ValueError(f"unknown adapter {kind!r}; there are {', '.join(sorted(ADAPTER_CONFIGS))}")
    return ADAPTER_CONFIGS[kind](**fields)


def adapter_config_from(given: dict | AdapterConfig) -> AdapterConfig:
    """`given` if it is a config, else the config that a dict such as `to_dict()` describes."""
    if isinstance(given, AdapterConfig):
        return given
    fields = dict(given)
    if "model_type" not in fields:
        raise ValueError(f"an adapter needs a 'model_type'; there are {', '.join(sorted(ADAPTER_CONFIGS))}")
    return adapter_config(fields.pop("model_type"), **fields)


ADAPTER_CONFIGS: dict[str, type[AdapterConfig]] = {
    "mlp": MLPAdapterConfig,
    "prefix": PrefixAdapterConfig,
    "transformer": TransformerAdapterConfig,
    "conv": ConvAdapterConfig,
    "qformer": QFormerAdapterConfig,
    "moe": MoEAdapterConfig,
    "cross_attention": CrossAttentionAdapterConfig,
    "dual_attention": DualAttentionAdapterConfig,
}
