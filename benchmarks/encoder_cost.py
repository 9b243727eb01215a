"""What a clip costs before the language model, by its length: features, encoder, adapter.

python benchmarks/encoder_cost.py
"""

import statistics
import time

import torch
from conditions import ENCODER, composed, joined_speech, print_conditions

SECONDS = (1, 3, 10, 30)
ROUNDS = 15


def main() -> None:
    print_conditions(f"encoder cost by real length: {ENCODER}, features included, one clip at a time")
    model, processor = composed(dtype=torch.float32)
    speech = joined_speech(30)
    times: dict[int, list[float]] = {seconds: [] for seconds in SECONDS}
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for seconds in SECONDS:
                start = time.perf_counter()
                request = processor(speech[: seconds * 16000])
                model.get_audio_features(**request)
                times[seconds].append(time.perf_counter() - start)
    for seconds, runs in times.items():
        print(f"{seconds:3} s clip: median {1000 * statistics.median(runs):7.1f} ms")
    ratio = statistics.median(long / short for long, short in zip(times[30], times[3], strict=True))
    print(f"30 s / 3 s: median ratio {ratio:.1f} (at least 6 is claimed)")


if __name__ == "__main__":
    main()
