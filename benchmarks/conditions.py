"""What every benchmark here shares: the machine's conditions, real bases, real human speech."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

ENCODER = "openai/whisper-base"
DECODER = "HuggingFaceTB/SmolLM2-135M-Instruct"
SPEECH_PACKAGE = "asterisk-core-sounds-en-wav"


def print_conditions(what: str) -> None:
    """First lines of every benchmark: what is measured, on what."""
    print(what)
    print(
        f"conditions: {os.cpu_count()} CPUs ({torch.get_num_threads()} threads, {processor_name()}), "
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"Python {platform.python_version()}"
    )
    sys.stdout.flush()


def processor_name() -> str:
    """The processor, and whether it multiplies bf16 natively: the fact that matters most here."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    flags = next((line for line in lines if line.startswith("flags")), "")
    native = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags]
    return f"{name}, {'native bf16 (' + ', '.join(native) + ')' if native else 'no native bf16'}"


def speech_files(package: str = SPEECH_PACKAGE) -> list[Path]:
    """Wave files of a Debian package of telephone prompts (one human speaker)."""
    listed = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True)
    if listed.returncode:
        raise SystemExit(f"real speech is missing: apt-get install {package}")
    return sorted(Path(line) for line in listed.stdout.splitlines() if line.endswith(".wav"))


def speech_clips(count: int, seconds: tuple[float, float], seed: int = 0) -> list[np.ndarray]:
    """`count` clips at 16 kHz with durations in a range, drawn with a seed from the prompts."""
    from speechllm.processing.audio_reading import read_audio

    clips = []
    for path in np.random.default_rng(seed).permutation(speech_files()):
        waveform = read_audio(path)
        if seconds[0] <= len(waveform) / 16000 <= seconds[1]:
            clips.append(waveform)
        if len(clips) == count:
            return clips
    raise SystemExit(f"only {len(clips)} clips of {seconds[0]}-{seconds[1]} s in {SPEECH_PACKAGE}")


def joined_speech(seconds: float, seed: int = 0) -> np.ndarray:
    """Real speech of so many seconds at 16 kHz: prompts one after the other, around again if need be."""
    from speechllm.processing.audio_reading import read_audio

    parts, length = [], 0
    files = np.random.default_rng(seed).permutation(speech_files())
    while length < seconds * 16000:
        for path in files:
            parts.append(read_audio(path))
            length += len(parts[-1])
            if length >= seconds * 16000:
                break
    return np.concatenate(parts)[: round(seconds * 16000)]


def composed(adapter: str = "mlp", **arguments):
    """`(model, processor)` of the real bases with a fresh adapter, always the same one."""
    from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMProcessor

    torch.manual_seed(0)
    model = SpeechLLMForConditionalGeneration.from_bases(ENCODER, DECODER, adapter, **arguments)
    return model, SpeechLLMProcessor.from_bases(ENCODER, DECODER, adapter, **arguments)
