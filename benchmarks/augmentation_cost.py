"""What each effect of augmentation costs, in milliseconds of one core for a second of audio.

python benchmarks/augmentation_cost.py
"""

import statistics
import time

import torch
from conditions import joined_speech, print_conditions
from speechllm.training.augmentation.augmentation import EFFECTS, build_augmentation
from speechllm.training.augmentation.effects_channel import CODECS
from speechllm.training.augmentation.noise_sounds import NOISES

SECONDS = 10
CLIPS = 12
VARIANTS: dict[str, tuple[str, ...]] = {
    "noise": tuple(kind for kind in NOISES if kind != "files"),
    "codec": tuple(CODECS),
}


def main() -> None:
    torch.set_num_threads(1)
    print_conditions(f"augmentation: clips of {SECONDS} s of real speech at 16 kHz")
    corpus = [joined_speech(SECONDS, seed) for seed in range(CLIPS)]
    for name in EFFECTS:
        for kind in VARIANTS.get(name, ("",)):
            fields = {"probability": 1.0, **({"kinds": [kind]} if kind else {})}
            cost = milliseconds_per_second(build_augmentation({name: fields}, 1, corpus), corpus)
            print(f"{name:16} {kind:8} {cost:6.2f} ms")


def milliseconds_per_second(augment, corpus) -> float:
    """Median over clips; the first pass fills the caches of filters."""
    times = []
    for epoch in range(2):
        for index, clip in enumerate(corpus):
            start = time.perf_counter()
            augment(clip, 16000, index, epoch)
            times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[len(corpus) :]) / SECONDS


if __name__ == "__main__":
    main()
