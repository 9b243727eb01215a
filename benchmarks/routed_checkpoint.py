"""A Whisper base with ten adapters and a router: its size, the time to load it, what the router costs a clip.

    python benchmarks/routed_checkpoint.py

Adapters of rank 8 on q_proj and v_proj of encoder and decoder, written in float16. Loading is compared with
loading the stock base alone, in turn within every round: in one process that has both warm, and as a process
of its own, imports included, which is what somebody waits for. The router's
cost is that of `generate` up to the adapters' weights, over a batch of 32 clips of 3 s and over one clip:
alone, where the encoder pass that it reads goes on afterwards, and with the layers that have to be run once
more, where adapters touch the encoder below it.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from conditions import ENCODER, print_conditions, speech_clips
from transformers import WhisperForConditionalGeneration

NAMES = ("en", "it", "es", "fr", "ru", "ro", "ca", "bg", "be", "el")
ROUNDS = 7


def routed_model(layer: int | None, encoder_layers: list[int] | None):
    """The model with adapters on these layers of the encoder (`None`: all)."""
    from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMProcessor

    lora = {"r": 8, "target_modules": ["q_proj", "v_proj"]}
    on_encoder = {**lora, "layers_to_transform": encoder_layers}
    fields = {
        "adapter": "cross_attention",
        "encoder_padding": "longest",
        "lora_bank": {name: {"encoder": on_encoder, "decoder": lora} for name in NAMES},
        "router_config": {"labels": list(NAMES), "layer": layer},
    }
    torch.manual_seed(0)
    model = SpeechLLMForConditionalGeneration.from_bases(ENCODER, **fields)
    return model, SpeechLLMProcessor.from_bases(ENCODER, **fields)


def seconds(action) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def compare_loading() -> None:
    """Print size and load time of the checkpoint against its base."""
    from speechllm import SpeechLLMForConditionalGeneration
    from speechllm.configuration.base_resolution import load_base

    with tempfile.TemporaryDirectory() as folder:
        routed_model(2, None)[0].save_pretrained(folder, trained_dtype="float16")
        size = (Path(folder) / "model.safetensors").stat().st_size
        whole = sum(path.stat().st_size for path in Path(folder).iterdir())
        print(f"on disk: {size / 1e6:.2f} MB of weights, {whole / 1e6:.2f} MB with code and settings")

        def ours():
            SpeechLLMForConditionalGeneration.from_pretrained(folder)

        def stock():
            load_base(WhisperForConditionalGeneration.from_pretrained, ENCODER)

        stock(), ours()
        pairs = [(seconds(ours), seconds(stock)) for _ in range(ROUNDS)]
        print_ratio("loading, warm", pairs)
        alone = (as_process(OURS, folder), as_process(STOCK, folder))
        alone[0](), alone[1]()
        print_ratio("loading, a process of its own", [tuple(map(seconds, alone)) for _ in range(5)])


OURS = """
from speechllm import SpeechLLMForConditionalGeneration
SpeechLLMForConditionalGeneration.from_pretrained(sys.argv[1])
"""
STOCK = """
from transformers import WhisperForConditionalGeneration
from speechllm.configuration.base_resolution import load_base
load_base(WhisperForConditionalGeneration.from_pretrained, sys.argv[2])
"""


def as_process(code: str, folder: str):
    """A call that runs `code` in a Python of its own."""
    command = [sys.executable, "-c", f"import sys{code}", folder, ENCODER]
    return lambda: subprocess.run(command, check=True, capture_output=True)


def print_ratio(what: str, pairs) -> None:
    ratio = statistics.median(own / base for own, base in pairs)
    own, base = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"{what}: {own:.2f} s against the base's {base:.2f} s, ratio {ratio:.2f} (median)")


@torch.no_grad()
def compare_routing(layer: int | None, encoder_layers: list[int] | None, what: str) -> None:
    """Print the router's milliseconds a clip, and those of layers that it makes run twice."""
    from speechllm.modeling.router.row_routing import heard_languages, route

    model, processor = routed_model(layer, encoder_layers)
    body = model.model
    for count in (32, 1):
        clips = speech_clips(count, (2.5, 3.5))
        inputs = processor.apply_transcription_request(clips, sampling_rate=16000)
        features, lengths = inputs["input_features"], inputs["input_features_mask"].sum(-1)
        shared = heard_languages(body, features, lengths)[1] is not None
        frames = model.config.encoder_frames(lengths)
        states = torch.randn(count, int(frames.max()), body.router.encoder_width)

        def whole(features=features, lengths=lengths, count=count):
            route(body, features, lengths, [None] * count, None)

        def head(states=states, frames=frames):
            body.router.probabilities(states, frames)

        whole(), head()
        alone = statistics.median(seconds(head) for _ in range(3 * ROUNDS)) / count * 1000
        all_of_it = statistics.median(seconds(whole) for _ in range(ROUNDS)) / count * 1000
        extra = alone if shared else all_of_it
        print(
            f"router, {what}, {count:2} clips of 3 s: head {alone:.2f} ms a clip, overhead {extra:.2f} ms "
            f"a clip ({'the encoder pass is shared' if shared else 'layers below it run twice'})"
        )


def main() -> None:
    print_conditions("ten adapters of rank 8 and a router in Whisper base, float32")
    compare_loading()
    compare_routing(2, [2, 3, 4, 5], "layer 2, adapters from there on")
    compare_routing(2, None, "layer 2, adapters everywhere")
    compare_routing(None, None, "last layer, adapters everywhere")


if __name__ == "__main__":
    main()
