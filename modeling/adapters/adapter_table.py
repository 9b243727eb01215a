"""The adapters by name. A new one is a line here, and one in the table of their configs."""

from ...configuration.configuration_adapters import AdapterConfig
from .adapter_base import SpeechAdapter
from .adapter_conv import ConvAdapter
from .adapter_cross_attention import CrossAttentionAdapter, DecoderAdapter
from .adapter_dual_attention import DualAttentionAdapter
from .adapter_mlp import MLPAdapter
from .adapter_moe import MoEAdapter
from .adapter_prefix import PrefixAdapter
from .adapter_qformer import QFormerAdapter
from .adapter_transformer import TransformerAdapter

ADAPTERS: dict[str, type[SpeechAdapter]] = {
    "mlp": MLPAdapter,
    "prefix": PrefixAdapter,
    "transformer": TransformerAdapter,
    "conv": ConvAdapter,
    "qformer": QFormerAdapter,
    "moe": MoEAdapter,
}

# Those that live inside an encoder-decoder.
DECODER_ADAPTERS: dict[str, type[DecoderAdapter]] = {
    "cross_attention": CrossAttentionAdapter,
    "dual_attention": DualAttentionAdapter,
}


def build_adapter(config: AdapterConfig, input_size: int, output_size: int) -> SpeechAdapter:
    """The adapter that `config` describes, from the encoder's width to the decoder's."""
    if config.model_type not in ADAPTERS:
        raise ValueError(f"unknown adapter {config.model_type!r}; there are {', '.join(sorted(ADAPTERS))}")
    return ADAPTERS[config.model_type](config, input_size, output_size)
