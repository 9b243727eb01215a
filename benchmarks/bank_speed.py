"""A bank of ten LoRA adapters on Whisper base against the merged model and the bare one.

    python benchmarks/bank_speed.py

One process, the variants in turn within every round, medians of the rounds' ratios. The encoder hears 32
clips of 3 s; the decoder says one token for each, with its cache of the encoder's states.
"""

import copy
import statistics
import time

import torch
from conditions import ENCODER, print_conditions
from torch import nn
from transformers import WhisperForConditionalGeneration

ROWS, ADAPTERS, RANK, FRAMES = 32, 10, 8, 150
ROUNDS = {"encoder": 3, "decoder": 60}
DTYPES = (torch.float32, torch.bfloat16)


def main() -> None:
    from speechllm.configuration.base_resolution import load_base

    print_conditions(f"bank: {ADAPTERS} adapters of rank {RANK} on q_proj and v_proj, batch {ROWS}")
    for dtype in DTYPES:
        stock = load_base(WhisperForConditionalGeneration.from_pretrained, ENCODER, dtype=dtype).eval()
        with torch.no_grad():
            compare(stock, str(dtype).removeprefix("torch."))


def compare(stock, label: str) -> None:
    """Print every ratio for one dtype."""
    from speechllm.configuration.configuration_lora import lora_bank
    from speechllm.modeling.lora_bank import LoraBank

    banked = copy.deepcopy(stock)
    slots = {"encoder": banked.model.encoder, "decoder": banked.model.decoder}
    lora = {"r": RANK}
    bank = LoraBank(lora_bank({f"l{i}": {"encoder": lora, "decoder": lora} for i in range(ADAPTERS)}), slots)
    for name in bank.names:
        for parameter in bank.parameters_of(name):
            nn.init.normal_(parameter, std=0.02)
    banked.eval()
    mixed = torch.eye(ADAPTERS)[torch.arange(ROWS) % ADAPTERS]
    one = torch.eye(ADAPTERS)[[3] * ROWS]
    soft = torch.full((ROWS, ADAPTERS), 1 / ADAPTERS)
    merged = merge(stock, banked, "l3")
    variants = {
        "stock": (stock, None),
        "merged": (merged, None),
        "bank unused": (banked, None),
        "bank, one language": (banked, one),
        "bank, ten languages": (banked, mixed),
        "bank, soft over ten": (banked, soft),
    }
    for part, work in (("encoder", encode), ("decoder", decode)):
        times = measure(variants, bank, work, ROUNDS[part])
        for variant, against in PAIRS:
            ratios = [a / b for a, b in zip(times[variant], times[against], strict=True)]
            print(
                f"{label:9} {part:8} {variant:20} / {against:7} {statistics.median(ratios):6.3f}   "
                f"({statistics.median(times[variant]) * 1e3:.1f} ms)",
                flush=True,
            )
    for what, weights in (("one language, first time", one), ("ten languages", mixed)):
        print(
            f"{label:9} `use` for {what}: {statistics.median(preparing(bank, weights)) * 1e3:.1f} ms a batch"
        )


PAIRS = (
    ("bank unused", "stock"),
    ("bank, one language", "merged"),
    ("bank, ten languages", "merged"),
    ("bank, soft over ten", "merged"),
)


def merge(stock, banked, name: str):
    """A stock model with one adapter added to its weights."""
    from speechllm.modeling.lora_layers import LoraLinear

    merged = copy.deepcopy(stock)
    for path, layer in banked.named_modules():
        if isinstance(layer, LoraLinear):
            delta = layer.lora_B[name] @ layer.lora_A[name] * layer.scaling[name]
            merged.get_submodule(path).weight += delta.to(stock.dtype)
    return merged


def encode(model):
    """The layers of the encoder on clips of 3 s, without convolutions; a call for `measure`."""
    states = torch.randn(ROWS, FRAMES, model.config.d_model, dtype=model.dtype)

    def run():
        hidden = states
        for layer in model.model.encoder.layers:
            hidden = layer(hidden, None)
        return hidden

    return run


def decode(model):
    """One token of every row, its keys and values of the encoder cached; a call for `measure`."""
    states = torch.randn(ROWS, FRAMES, model.config.d_model, dtype=model.dtype)
    tokens = torch.full((ROWS, 1), 50258)
    cache = model.model.decoder(tokens, encoder_hidden_states=states, use_cache=True).past_key_values

    def run():
        model.model.decoder(
            tokens, encoder_hidden_states=states, past_key_values=cache, use_cache=True
        ).last_hidden_state.sum()
        # Only the token just said: what the encoder said stays.
        cache.self_attention_cache.crop(-1)

    return run


def measure(variants, bank, work, rounds: int) -> dict[str, list[float]]:
    """Seconds of every variant in every round; within a round each runs once, the next round reversed."""
    calls = {}
    for name, (model, weights) in variants.items():
        bank.use(weights)
        calls[name] = work(model)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name in list(variants) if turn % 2 else reversed(variants):
            bank.use(variants[name][1])
            start = time.perf_counter()
            calls[name]()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def preparing(bank, weights) -> list[float]:
    """Seconds of `use`, with nothing kept from before."""
    times = []
    for _ in range(10):
        bank.release()
        start = time.perf_counter()
        bank.use(weights)
        times.append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
