"""Peak memory of transcribing an hour against a minute, each in a process of its own.

    python benchmarks/long_audio.py

The file is 44.1 kHz stereo FLAC of real prompts. The adapter is fresh; each segment is written 3.5 tokens a
second, about what speech takes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from conditions import joined_speech, print_conditions

RATE = 44100
MEASURE = """
import json, resource, sys, time
sys.path.insert(0, {here!r})
import torch
from conditions import composed
from throughput import fix_token_counts
from speechllm import SpeechLLMPipeline
model, processor = composed(dtype=torch.bfloat16)
fix_token_counts(model)
asr = SpeechLLMPipeline(model, processor, device="cpu", batch_size=8)
start = time.perf_counter()
result = asr(sys.argv[1], return_timestamps=True, generate_kwargs={{"stop_loops": False}})
print(json.dumps([
    time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    len(result["chunks"]), result["chunks"][-1]["timestamp"][1],
]))
"""


def write_speech(path: Path, seconds: int) -> None:
    """A stereo file of so many seconds, written in pieces."""
    import soundfile
    from speechllm.processing.audio_resampling import resample

    minute = resample(joined_speech(60), 16000, RATE)
    with soundfile.SoundFile(path, "w", RATE, 2, format="FLAC") as file:
        for _ in range(seconds // 60):
            file.write(np.stack([minute, 0.5 * minute], axis=1))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=int, default=60)
    minutes = parser.parse_args().minutes
    print_conditions(f"long audio: peak memory of {minutes} minutes against one, batches of 8 segments, bf16")
    code = MEASURE.format(here=str(Path(__file__).parent))
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for length in (1, minutes):
            path = Path(folder) / f"{length}.flac"
            write_speech(path, 60 * length)
            start = time.perf_counter()
            run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
            if run.returncode:
                raise SystemExit(run.stderr)
            seconds, peak, segments, end = json.loads(run.stdout.strip().splitlines()[-1])
            peaks.append(peak)
            print(
                f"{length:3} min: peak {peak:.0f} MB, {segments} segments up to {end:.1f} s, transcribed in "
                f"{seconds:.0f} s ({60 * length / seconds:.1f} times real time), "
                f"process {time.perf_counter() - start:.0f} s"
            )
            sys.stdout.flush()
    print(f"difference {peaks[1] - peaks[0]:.0f} MB (at most 300 is claimed)")


if __name__ == "__main__":
    main()
