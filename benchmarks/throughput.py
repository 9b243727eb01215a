"""Clips a second of the pipeline, against the same model fed one clip at a time, fp32, padded to 30 s.

    python benchmarks/throughput.py

The adapter is fresh, so the text means nothing; what is compared is the work. In both ways every clip is
written the same number of tokens (3.5 a second of speech and 4 more, about what English takes), ends are
not looked for.

PROFILE
"""

import argparse
import statistics
import time

import torch
from conditions import composed, print_conditions, speech_clips

TOKENS_PER_SECOND = 3.5
EXTRA_TOKENS = 4


def fix_token_counts(model) -> None:
    """Make each clip's number of tokens a matter of its duration alone."""
    model.config.tokens_per_second, model.config.extra_tokens = TOKENS_PER_SECOND, EXTRA_TOKENS
    model.generation_config.eos_token_id = None


def one_by_one(model, processor, clips) -> tuple[list[float], int]:
    """The peers' way: seconds of each clip, and tokens written."""
    seconds, tokens = [], 0
    extractor = processor.feature_extractor
    with torch.inference_mode():
        for clip in clips:
            start = time.perf_counter()
            request = processor.apply_transcription_request(clip)
            # 30 s of features, as the stock extractor makes them, with the mask of the clip.
            request["input_features"] = extractor(
                clip, sampling_rate=16000, return_tensors="pt"
            ).input_features
            mask = torch.zeros(1, request["input_features"].shape[2], dtype=torch.long)
            mask[:, : len(clip) // extractor.hop_length] = 1
            request["input_features_mask"] = mask
            new = model.generate(**request, stop_loops=False)[:, request["input_ids"].shape[1] :]
            processor.batch_decode(new)
            seconds.append(time.perf_counter() - start)
            tokens += new.numel()
    return seconds, tokens


def main() -> None:
    from speechllm import SpeechLLMPipeline

    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    print_conditions("throughput: pipeline against one clip at a time, fp32, padded to 30 s")
    clips = speech_clips(options.clips, (1.0, 10.0))
    total = sum(map(len, clips)) / 16000
    print(
        f"{len(clips)} clips, {total:.0f} s of telephone prompts, 1-10 s each; "
        f"batch {options.batch_size}, {options.dtype}"
    )
    padded, processor = composed(dtype=torch.float32, encoder_padding="max_length")
    ours, _ = composed(dtype=torch.float32)
    ours = ours.to(getattr(torch, options.dtype))
    for model in (padded, ours):
        fix_token_counts(model)
    asr = SpeechLLMPipeline(ours, processor, device="cpu")
    settings = {"batch_size": options.batch_size, "generate_kwargs": {"stop_loops": False}}
    asr(clips[:8], **settings)
    one_by_one(padded, processor, clips[:2])
    ratios = []
    for number in range(options.rounds):
        # In turn, so that the machine's mood falls on both.
        part = clips[number :: options.rounds]
        slow, tokens = one_by_one(padded, processor, part)
        start = time.perf_counter()
        asr(clips, **settings)
        fast = time.perf_counter() - start
        ratios.append((len(clips) / fast) / (len(part) / sum(slow)))
        print(
            f"round {number + 1}: one at a time {len(part) / sum(slow):.2f} clips/s "
            f"({tokens} tokens for {len(part)} clips), "
            f"pipeline {len(clips) / fast:.2f} clips/s, ratio {ratios[-1]:.1f}"
        )
    print(f"median ratio {statistics.median(ratios):.1f} (at least 8 is claimed)")


if __name__ == "__main__":
    main()
