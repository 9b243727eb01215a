"""Clips a second of training steps: cached features against the encoder in the loop, padded to 30 s or not.

    python benchmarks/training.py

A step is all that a run does: read the clips of a batch, make inputs, forward, backward, AdamW on the
adapter. All three ways take each batch in turn, so that the machine's mood falls on all of them, and the
medians of the batches' ratios are told. `--work` counts multiplications instead, which no other process
disturbs.
"""

import argparse
import gc
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from conditions import composed, print_conditions, speech_clips
from speechllm.processing.memory_release import release_freed_memory
from torch.utils.flop_counter import FlopCounterMode

# What people say in a second, as a tokenizer sees it.
CHARACTERS_PER_SECOND = 14
WORDS = (
    "please enter the number of the person that you are calling and press the pound key when you are done "
)
WAYS = ("padded", "real", "cached")


def write_corpus(folder: Path, count: int):
    """Real clips of 1-10 s as files, with a text as long as speech of that length has."""
    from speechllm.training.data.utterances import Utterance

    utterances = []
    for number, clip in enumerate(speech_clips(count, (1.0, 10.0))):
        path, seconds = folder / f"{number}.wav", len(clip) / 16000
        soundfile.write(path, clip, 16000)
        text = (WORDS * 2)[: round(CHARACTERS_PER_SECOND * seconds)].strip()
        utterances.append(Utterance(str(path), text, language="en", seconds=seconds, id=f"{number}"))
    return utterances


class Steps:
    """One model, trained in three ways."""

    def __init__(self, utterances, folder: Path, storage: str, dtype: torch.dtype):
        from speechllm.training.collator import SpeechCollator
        from speechllm.training.composition import keep_trained_precise
        from speechllm.training.data.datasets import SpeechDataset
        from speechllm.training.feature_cache.cached_collator import CachedCollator
        from speechllm.training.feature_cache.cached_dataset import CachedFeatures
        from speechllm.training.feature_cache.caching import CachingSettings, cache_features
        from speechllm.training.feature_cache.identity import encoder_identity
        from speechllm.training.losses.cross_entropy import CrossEntropy

        self.model, processor = composed(dtype=dtype)
        keep_trained_precise(self.model)
        self.model.freeze_bases()
        start = time.perf_counter()
        made = cache_features(self.model, processor, utterances, folder, CachingSettings(storage=storage))
        seconds = sum(item.seconds for item in utterances)
        print(
            f"cached {made['rows']} clips in {time.perf_counter() - start:.0f} s: "
            f"{made['bytes'] / seconds / 1e3:.0f} kB a second of speech ({storage})"
        )
        heard = SpeechDataset(utterances), SpeechCollator(processor)
        remembered = CachedFeatures(folder, utterances, encoder_identity(self.model, processor))
        self.ways = {"padded": heard, "real": heard, "cached": (remembered, CachedCollator(processor))}
        self.costs = remembered.costs()
        self.objective = CrossEntropy(self.model, processor, {})
        self.objective.train()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def take(self, way: str, batch: list[int]) -> float:
        """Seconds of one step."""
        dataset, collator = self.ways[way]
        self.model.config.encoder_padding = "max_length" if way == "padded" else "longest"
        start = time.perf_counter()
        inputs = collator([dataset[index] for index in batch])
        with torch.autocast("cpu", torch.bfloat16, enabled=self.model.dtype == torch.bfloat16):
            loss = self.objective(**inputs)["loss"]
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - start

    def work(self, way: str, batch: list[int]) -> float:
        """Billions of floating-point operations of one step, in products and attention."""
        counter = FlopCounterMode(display=False)
        with counter:
            self.take(way, batch)
        return counter.get_total_flops() / 1e9


def peak_megabytes(call) -> float:
    """The most memory that this process held while `call` ran, above what it held before."""
    gc.collect()
    # What the C library keeps would count as held before.
    release_freed_memory()
    Path("/proc/self/clear_refs").write_text("5")
    before = status_megabytes("VmRSS")
    call()
    return status_megabytes("VmHWM") - before


def status_megabytes(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def print_speed(steps: Steps, batches: list[list[int]]) -> None:
    """Clips a second, and ratios batch by batch."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for way in WAYS:
        steps.take(way, batches[0])
    for number, batch in enumerate(batches):
        for place in range(len(WAYS)):
            way = WAYS[(number + place) % len(WAYS)]
            seconds[way].append(steps.take(way, batch))
    clips = sum(map(len, batches))
    for way in WAYS:
        print(f"{way:7} {clips / sum(seconds[way]):6.2f} clips/s")
    for way, claim in (("padded", " (at least 3 is claimed)"), ("real", "")):
        ratios = [slow / fast for slow, fast in zip(seconds[way], seconds["cached"], strict=True)]
        low, high = min(ratios), max(ratios)
        print(f"cached / {way}: median {statistics.median(ratios):.2f}, {low:.2f} to {high:.2f}{claim}")


def print_work(steps: Steps, batches: list[list[int]]) -> None:
    """What the products of a step come to."""
    work = {way: sum(steps.work(way, batch) for batch in batches) for way in WAYS}
    clips = sum(map(len, batches))
    for way in WAYS:
        print(f"{way:7} {work[way] / clips:7.1f} GFLOP a clip, {work[way] / work['cached']:.2f} of cached")


def print_memory(steps: Steps, budget: float) -> None:
    """Peak memory of cached steps on batches of short, middling and long clips, all up to the budget."""
    order = np.argsort(steps.costs[:, 0])
    for name, start in (("short", 0), ("middling", len(order) // 2), ("long", None)):
        rows: list[int] = []
        for index in order[start:] if start is not None else order[::-1]:
            longer = [*rows, int(index)]
            if len(longer) * steps.costs[longer].max(axis=0).sum() > budget:
                break
            rows = longer
        seconds = steps.costs[rows, 0]
        peak = peak_megabytes(lambda rows=rows: steps.take("cached", rows))
        print(
            f"{name:8} {len(rows):3} clips of {seconds.min():.1f}-{seconds.max():.1f} s: peak {peak:6.0f} MB"
        )


def main() -> None:
    from speechllm.training.data.batching import BudgetBatchSampler

    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--budget", type=float, default=24.0, help="seconds of sound and text of a batch")
    parser.add_argument("--storage", default="float16")
    parser.add_argument("--dtype", default="float32", help="of the frozen bases")
    parser.add_argument("--work", action="store_true", help="count operations instead of seconds")
    options = parser.parse_args()
    print_conditions("training: steps on cached features against the encoder in the loop")
    with tempfile.TemporaryDirectory() as name:
        utterances = write_corpus(Path(name), options.clips)
        total = sum(item.seconds for item in utterances)
        print(
            f"{len(utterances)} clips, {total:.0f} s of telephone prompts, 1-10 s each; batches of "
            f"{options.budget:g} s, {options.dtype}, adapter mlp"
        )
        steps = Steps(utterances, Path(name) / "cache", options.storage, getattr(torch, options.dtype))
        batches = [*BudgetBatchSampler(steps.costs, options.budget)][: options.batches]
        (print_work if options.work else print_speed)(steps, batches)
        print_memory(steps, options.budget)


if __name__ == "__main__":
    main()
