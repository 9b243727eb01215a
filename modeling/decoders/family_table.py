"""The families of models by name: what the two public classes do differently in each."""

from typing import Any

from .family_bridge import BridgeFamily
from .family_encoder_decoder import EncoderDecoderFamily

FAMILIES: dict[str, Any] = {
    "bridge": BridgeFamily,
    "encoder_decoder": EncoderDecoderFamily,
}


def decoder_family(config) -> Any:
    """The family of a config's adapter."""
    return FAMILIES[config.adapter_config.family]
