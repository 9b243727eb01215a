"""A script: loads a checkpoint by its name with transformers alone, and prints what it came to as JSON.

    python -P loaded_by_name.py me/my-asr COMMIT

Run as a process of its own, so that nothing of the process that pushed is in it.
"""

import hashlib
import json
import sys
from typing import Any

import numpy as np
import torch
from transformers import pipeline

SECONDS, RATE = 2, 16000
MOST_TOKENS = 16


def main(name: str, revision: str | None) -> dict:
    """The class of its pipeline, a digest of what was trained, and what it hears in a sound."""
    recognizer: Any = pipeline(
        "automatic-speech-recognition", model=name, revision=revision, trust_remote_code=True
    )
    model = recognizer.model
    digest = hashlib.sha256()
    untrained = model.untrained_keys()
    for key, tensor in sorted(model.state_dict().items()):
        if key not in untrained:
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    time = np.arange(SECONDS * RATE) / RATE
    sound = (0.3 * np.sin(2 * np.pi * (200 + 300 * time) * time)).astype(np.float32)
    text = recognizer(sound, generate_kwargs={"max_new_tokens": MOST_TOKENS})["text"]
    return {"pipeline": type(recognizer).__name__, "trained": digest.hexdigest(), "text": text}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)))  # noqa: T201  the answer
