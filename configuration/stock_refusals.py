"""Why a stock class given one of our checkpoints stops, instead of beginning with random weights.

`WhisperForConditionalGeneration.from_pretrained(checkpoint)` looks for a sub-config of its own type in our
config.json, finds one, builds a Whisper of the right sizes, and draws every weight at random, as none has the
name it looks for. Of several sub-configs of its type it takes the last: that is where the refusals stand.
"""

from typing import Any

# Behind "audio_config" and "text_config", for keys are sorted.
PREFIX = "without_its_code_"


def with_refusals(values: dict[str, Any]) -> dict[str, Any]:
    """`values` of a config.json, and an entry for each base's type that no config class can read."""
    parts = (values.get("audio_config"), values.get("text_config"))
    types = [part["model_type"] for part in parts if isinstance(part, dict) and part.get("model_type")]
    return {**values, **{PREFIX + kind: refusal(values["model_type"], kind) for kind in types}}


def without_refusals(values: dict[str, Any]) -> dict[str, Any]:
    """A config.json's values as our own class wants them."""
    return {name: value for name, value in values.items() if not name.startswith(PREFIX)}


def refusal(own_type: str, stock_type: str) -> dict[str, Any]:
    """A sub-config whose reading fails with the message in it."""
    message = (
        f"this is a checkpoint of type {own_type}, of which a {stock_type} is only a part: "
        "load it with an Auto class or a pipeline and trust_remote_code=True"
    )
    # Every config class makes numbers of these keys, whatever its own fields are.
    return {"model_type": stock_type, "id2label": {message: ""}}
