"""Loading an adapter-only checkpoint against loading its two bases alone: time and peak memory.

    python benchmarks/loading.py

Each load runs in a process of its own, the two ways in turn; imports are not counted in the time.
"alone" is the stock way: `AutoModel` for the encoder's checkpoint, `AutoModelForCausalLM` for the decoder's.
"towers" is stricter: only the tensors that the model keeps (Whisper's encoder without its decoder).
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile

from conditions import DECODER, ENCODER, composed, print_conditions

MEASURE = """
import json, resource, sys, time
import torch
from transformers import AutoModel, AutoModelForCausalLM
from speechllm import SpeechLLMForConditionalGeneration
from speechllm.configuration.base_resolution import resolve_base
from speechllm.modeling.encoders.encoder_table import ENCODERS
encoder, decoder = (resolve_base(name)[0] for name in {bases!r})
way, folder = sys.argv[1:]
start = time.perf_counter()
if way == "checkpoint":
    loaded = SpeechLLMForConditionalGeneration.from_pretrained(folder)
elif way == "alone":
    loaded = AutoModel.from_pretrained(encoder), AutoModelForCausalLM.from_pretrained(decoder)
else:
    tower = ENCODERS["whisper"]
    tower = tower.from_pretrained(encoder, key_mapping=tower.KEY_MAPPING)
    loaded = tower, AutoModelForCausalLM.from_pretrained(decoder)
seconds = time.perf_counter() - start
models = loaded if isinstance(loaded, tuple) else (loaded,)
# Weights are mapped from the file until they are read: read them all, so that memory is compared in full.
total = sum(p.double().sum().item() for model in models for p in model.parameters())
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def measure(way: str, folder: str) -> list[float]:
    code = MEASURE.format(bases=(ENCODER, DECODER))
    run = subprocess.run(
        [sys.executable, "-c", code, way, folder], capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print_conditions(f"loading: adapter-only checkpoint against its bases, {ENCODER} + {DECODER}")
    with tempfile.TemporaryDirectory() as folder:
        model, _ = composed()
        model.save_pretrained(folder)
        counts = model.parameter_counts()
        print(
            f"{counts['trainable']:,} trained parameters of {counts['total']:,}; "
            f"{rounds} rounds after one warm-up"
        )
        for way in ("checkpoint", "alone", "towers"):
            measure(way, folder)
        results: dict[str, list[list[float]]] = {"checkpoint": [], "alone": [], "towers": []}
        for _ in range(rounds):
            for way, runs in results.items():
                runs.append(measure(way, folder))
    for way, runs in results.items():
        seconds, memory = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"{way:11} median {seconds:.2f} s, peak {memory:.0f} MB")
    for way in ("alone", "towers"):
        pairs = zip(results["checkpoint"], results[way], strict=True)
        time_ratio, memory_ratio = (
            statistics.median(column)
            for column in zip(*((a[0] / b[0], a[1] / b[1]) for a, b in pairs), strict=True)
        )
        claim = " (at most 1.10 and 1.05 are claimed)" if way == "alone" else ""
        print(f"checkpoint / {way}: time {time_ratio:.2f}, memory {memory_ratio:.2f}{claim}")


if __name__ == "__main__":
    main()
