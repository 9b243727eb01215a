"""Shared: tiny bases on disk once a run, models and processors composed of them, clips of sound."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# One for each worker: checkpoints' code is copied there by the folder's name, and workers use the same names.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="modules-")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import pytest
import torch
from gliding_tones import glide
from tiny_bases import DECODERS, ENCODER_NAMES, save_decoder, save_encoder, save_encoder_decoder

torch.set_num_threads(1)
atexit.register(shutil.rmtree, os.environ["HF_MODULES_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def bases(tmp_path_factory) -> Path:
    """A folder of bases: `tiny--whisper`, `tiny--llama`, ... one for every family."""
    root = tmp_path_factory.mktemp("bases")
    for name in ENCODER_NAMES:
        save_encoder(name, root / f"tiny--{name}")
    for name in DECODERS:
        save_decoder(name, root / f"tiny--{name}")
    save_encoder_decoder(root / "tiny--whisper_asr")
    return root


# Small enough for tests; the encoders' width is 32 as well.
TINY_ADAPTERS = {
    "mlp": {"stack_factor": 4, "hidden_size": 16},
    "prefix": {"num_prefix_tokens": 4, "num_attention_heads": 4, "intermediate_size": 32},
    "transformer": {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "stack_factor": 4,
    },
    "conv": {"hidden_size": 16},
    "qformer": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4},
    "moe": {"hidden_size": 16},
}


@pytest.fixture(scope="session")
def compose(bases):
    """`compose(encoder, decoder, adapter, **fields)` -> `(model, processor)` of tiny bases."""
    from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMProcessor

    def build(encoder="whisper", decoder="llama_tied", adapter="mlp", **fields):
        torch.manual_seed(7)
        arguments = {**TINY_ADAPTERS[adapter], **fields}
        names = (f"tiny/{encoder}", f"tiny/{decoder}", adapter)
        model = SpeechLLMForConditionalGeneration.from_bases(*names, bases=bases, **arguments)
        return model, SpeechLLMProcessor.from_bases(*names, bases=bases, **arguments)

    return build


@pytest.fixture(scope="session")
def compose_whisper(bases):
    """`compose_whisper(adapter, **fields)` -> `(model, processor)` of a tiny Whisper."""
    from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMProcessor

    def build(adapter="cross_attention", **fields):
        torch.manual_seed(7)
        named = {"adapter": adapter, "bases": bases, **fields}
        model = SpeechLLMForConditionalGeneration.from_bases("tiny/whisper_asr", **named)
        return model, SpeechLLMProcessor.from_bases("tiny/whisper_asr", **named)

    return build


@pytest.fixture(scope="session")
def clips() -> list[np.ndarray]:
    """Six clips of .3 to 4 s at 16 kHz: tones that glide, in noise; none like another."""
    generator = np.random.default_rng(3)
    return [glide(seconds, generator) for seconds in (0.3, 0.9, 1.7, 2.2, 3.1, 4.0)]
