"""Serves this checkpoint on Inference Endpoints: sound in, text out.

    from handler import EndpointHandler

    print(EndpointHandler(".")({"inputs": open("talk.wav", "rb").read()}))

`inputs` is a sound file as bytes or in base64, an https address of one, or samples with `sampling_rate`;
`parameters` are those of the pipeline: `language`, `task`, `return_timestamps` and the rest.
"""

import base64
import binascii
from typing import Any

import numpy as np
import torch
from transformers import pipeline


class EndpointHandler:
    """What Inference Endpoints call; `path` is the folder of the checkpoint."""

    def __init__(self, path: str = ""):
        on_gpu = torch.cuda.is_available()
        self.recognizer: Any = pipeline(
            "automatic-speech-recognition",
            model=path or ".",
            trust_remote_code=True,
            device=0 if on_gpu else "cpu",
            dtype=torch.bfloat16 if on_gpu else None,
        )

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """The pipeline's answer; what is wrong with a request is told as `{"error": ...}`."""
        try:
            return self.recognizer(sound_of(data.get("inputs")), **(data.get("parameters") or {}))
        except (ValueError, TypeError) as error:
            return {"error": " ".join(str(error).split())}


def sound_of(inputs: Any) -> Any:
    """What the pipeline takes. Never a path: a caller must not read the server's files."""
    if isinstance(inputs, str) and not inputs.startswith("https://"):
        try:
            return base64.b64decode(inputs, validate=True)
        except binascii.Error:
            raise ValueError("inputs is neither sound in base64 nor an https address") from None
    if isinstance(inputs, dict):
        samples = np.asarray(inputs.get("array", inputs.get("raw")), dtype=np.float32)
        return {"array": samples, "sampling_rate": inputs.get("sampling_rate")}
    if isinstance(inputs, (bytes, str)):
        return inputs
    raise ValueError(
        "inputs must be a sound file, its base64, an https address, or samples with a sampling_rate"
    )
