"""Clips a second of the pipeline, against the same model fed one clip at a time, fp32, padded to 30 s.

    python benchmarks/throughput.py

The adapter is fresh, so the text means nothing; what is compared is the work. In both ways every clip is
written the same number of tokens (3.5 a second of speech and 4 more, about what English takes), ends are
not looked for.

    python benchmarks/throughput.py --profile

times the parts of the pipeline alone, and what the matrix products in them take by themselves (the floor).
It printed, in seconds for the 64 clips (two cores, bf16):

    features              .1
    encoder and adapter  1.0    floor  .7
    prompt of the LM     2.2    floor 1.3
    47 decoding steps    1.6    floor  .4

Above the floor are attention, small operations between the products, and padding. A third of the prompt is
the same text in every row, which is computed for each: that is what is left to gain most.
"""

import argparse
import functools
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


def median_seconds(call, rounds: int = 3) -> float:
    """Median time of `call`, after one call to warm up."""
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def print_profile(model, processor, clips, batch_size: int) -> None:
    """Seconds of the pipeline's parts, each timed alone, beside the floor of its matrix products."""
    tower, decoder = model.model.audio_tower, model.model.language_model
    layers = {
        name: sum(p.numel() for p in m.layers.parameters()) for name, m in (("tower", tower), ("lm", decoder))
    }
    square = torch.randn(1024, 1024, dtype=model.dtype)
    flops = 2 * 1024**3 / median_seconds(lambda: square @ square, 9)
    head = model.lm_head.weight
    row = torch.randn(1, head.shape[1], dtype=model.dtype)
    bandwidth = head.numel() * head.element_size() / median_seconds(lambda: row @ head.T, 9)
    parts = dict.fromkeys(("features", "encoder and adapter", "prompt of the LM", "decoding"), 0.0)
    frames = positions = steps = 0
    clips = sorted(clips, key=len, reverse=True)
    for start in range(0, len(clips), batch_size):
        batch = clips[start : start + batch_size]
        request = processor.apply_transcription_request(batch)
        speech = {k: request[k] for k in ("input_features", "input_features_mask")}
        embeds, _ = model.model.embed_prompt(request["input_ids"], **speech)
        prompt = {"inputs_embeds": embeds, "attention_mask": request["attention_mask"], "use_cache": True}
        last = torch.tensor([-1])
        times = [
            median_seconds(functools.partial(processor.apply_transcription_request, batch)),
            median_seconds(functools.partial(model.get_audio_features, **speech)),
            median_seconds(functools.partial(model, **prompt, logits_to_keep=last)),
        ]
        whole = median_seconds(functools.partial(model.generate, **request, stop_loops=False))
        for name, seconds in zip(parts, [*times, whole - times[1] - times[2]], strict=True):
            parts[name] += seconds
        inputs = request["input_features_mask"].sum(-1)
        frames += len(batch) * int(model.config.encoder_frames(inputs).max())
        positions += embeds.shape[0] * embeds.shape[1]
        steps += int(model.token_budgets(model.speech_seconds(**speech)).max())
    weights = sum(p.numel() * p.element_size() for p in decoder.parameters())
    floors = [
        0.0,
        2 * frames * layers["tower"] / flops,
        2 * positions * layers["lm"] / flops,
        steps * weights / bandwidth,
    ]
    for (name, seconds), floor in zip(parts.items(), floors, strict=True):
        print(f"{name:20} {seconds:5.2f} s, floor {floor:5.2f} s")
    print(
        f"{frames} frames, {positions} prompt positions, {steps} steps; "
        f"{flops / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.0f} GB/s"
    )


def main() -> None:
    from speechllm import SpeechLLMPipeline

    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--profile", action="store_true", help="time the pipeline's parts instead")
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
    if options.profile:
        with torch.no_grad():
            print_profile(ours, processor, clips, options.batch_size)
        return
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
