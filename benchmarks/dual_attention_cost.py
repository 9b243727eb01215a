"""What a second, gated cross-attention costs, and how its gate and branches begin to move.

python benchmarks/dual_attention_cost.py
"""

import statistics
import time
from typing import Any

import torch
from conditions import ENCODER, print_conditions, speech_clips
from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMProcessor
from speechllm.configuration.configuration_adapters import adapter_config
from speechllm.modeling.adapters.adapter_dual_attention import DualAttentionAdapter
from speechllm.modeling.base_loading import load_base
from torch import nn
from transformers import WhisperConfig, WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperDecoderLayer

SIZES = {"small": (768, 12, 12), "medium": (1024, 16, 24), "large": (1280, 20, 32)}
FORMS: dict[str, dict[str, Any]] = {
    "plain": {"adapter": "cross_attention"},
    "dual, token": {"adapter": "dual_attention"},
    "dual, head": {"adapter": "dual_attention", "gate": "head"},
    "dual, rank 16": {"adapter": "dual_attention", "rank": 16},
}
STARTS: dict[str, dict[str, Any]] = {"exact": {}, "published": {"init": "published"}}
# Whisper as transformers has it. "plain" is the same Whisper in our decoder, where the forms stand.
STOCK = "stock"
BATCHES = (1, 8)
# Frames that are attended: 30 s, which stock Whisper always has, and a clip of 5 s at its real length.
FRAMES = (1500, 250)
DTYPES = (torch.float32, torch.bfloat16)
ROUNDS, TOKENS = 5, 16
STEPS = (1, 2, 5, 10)


def main() -> None:
    torch.set_num_threads(1)
    print_conditions(f"dual attention on {ENCODER}: time of one core, and the first steps of training")
    print_parameters()
    for dtype in DTYPES:
        print_cost(dtype)
    print_first_steps()


def print_parameters() -> None:
    """Added parameters of the published form and of the low-rank one."""
    for name, (width, heads, layers) in SIZES.items():
        config = WhisperConfig(d_model=width, decoder_attention_heads=heads, decoder_layers=layers)
        with torch.device("meta"):
            base = nn.ModuleList([WhisperDecoderLayer(config, index) for index in range(layers)])
            forms = [
                adapter_config("dual_attention", **fields) for fields in ({"init": "published"}, {"rank": 16})
            ]
            adapters = [DualAttentionAdapter(form, config, base) for form in forms]
        full, low = (sum(one.numel() for one in adapter.parameters()) for adapter in adapters)
        print(f"{name:7} adds {full:12,} parameters, at rank 16 {low:11,} ({100 * low / full:.1f} %)")


def print_cost(dtype: torch.dtype) -> None:
    """Milliseconds of one core a decoded token, with caches; the forms take turns."""
    models: dict[str, Any] = {
        STOCK: load_base(WhisperForConditionalGeneration.from_pretrained, ENCODER).eval()
    }
    for name, form in FORMS.items():
        models[name] = SpeechLLMForConditionalGeneration.from_bases(ENCODER, **form)
    for model in models.values():
        model.to(dtype)
    for batch in BATCHES:
        speech = {frames: torch.randn(batch, frames, 512, dtype=dtype) for frames in FRAMES}
        times: dict[tuple[str, int], list[float]] = {(name, size): [] for name in models for size in FRAMES}
        for _ in range(ROUNDS):
            for (name, frames), runs in times.items():
                runs.append(milliseconds_per_token(models[name], speech[frames]))
        for (name, frames), runs in times.items():
            compared = {
                "stock": (STOCK, frames),
                "plain": ("plain", frames),
                f"stock on {max(FRAMES)}": (STOCK, max(FRAMES)),
            }
            ratios = [f"to {other} {median_ratio(runs, times[key]):.2f}" for other, key in compared.items()]
            own = f"{statistics.median(runs):6.1f} ms a token; {', '.join(ratios)}"
            print(f"{str(dtype)[6:]}, batch {batch}, {frames:4} frames, {name:14} {own}")


def median_ratio(some: list[float], others: list[float]) -> float:
    """Of runs that took turns."""
    return statistics.median(one / other for one, other in zip(some, others, strict=True))


@torch.inference_mode()
def milliseconds_per_token(model, states: torch.Tensor) -> float:
    """Of single tokens after a prompt of four, as greedy decoding takes them."""
    options = {} if isinstance(model, WhisperForConditionalGeneration) else {"token_steps": True}
    ids = torch.full((len(states), 4), 50258)
    output = model(encoder_outputs=(states,), decoder_input_ids=ids, use_cache=True)
    # Of this process, not of the clock: other work on the machine does not count.
    start = time.process_time()
    for _ in range(TOKENS):
        output = model(
            encoder_outputs=(states,),
            decoder_input_ids=ids[:, :1],
            past_key_values=output.past_key_values,
            use_cache=True,
            **options,
        )
    return 1000 * (time.process_time() - start) / TOKENS


def print_first_steps() -> None:
    """How far branches part, of the way they go, where primary and secondary are trained alike."""
    clips = speech_clips(4, (1, 3))
    texts = ["please hold the line", "press one to go on", "thank you for calling", "goodbye for now"]
    for name, fields in STARTS.items():
        torch.manual_seed(0)
        model = SpeechLLMForConditionalGeneration.from_bases(ENCODER, adapter="dual_attention", **fields)
        processor = SpeechLLMProcessor.from_bases(ENCODER, adapter="dual_attention", **fields)
        batch = processor.apply_training_request(audio=clips, target=texts, language="en")
        curve = [f"{step}: {apart:.4f}, {gate:.1e}" for step, apart, gate in first_steps(model, batch)]
        print(f"start {name!r}, step: distance of branches, gate's movement | {' | '.join(curve)}")


def first_steps(model, batch) -> list[tuple[int, float, float]]:
    """Step, distance of the values' projections over the primary's way, and movement of the gate."""
    decoder, adapter = model.model.language_model, model.model.adapter
    primaries = [layer.encoder_attn for layer in decoder.layers]
    for primary in primaries:
        primary.requires_grad_(True)
    start = [primary.v_proj.weight.detach().clone() for primary in primaries]
    heads = [own.gate.head.weight.detach().clone() for own in adapter.layers]
    model.train()
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-5)
    curve = []
    for step in range(1, max(STEPS) + 1):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
        if step in STEPS:
            values = [own.attention.v_proj.weight for own in adapter.layers]
            apart = distance(values, [one.v_proj.weight for one in primaries])
            gone = distance([one.v_proj.weight for one in primaries], start)
            moved = distance([own.gate.head.weight for own in adapter.layers], heads)
            curve.append((step, apart / gone, moved))
    return curve


def distance(some, others) -> float:
    """Euclidean, over all layers."""
    return (
        sum(float((one - other).detach().square().sum()) for one, other in zip(some, others, strict=True))
        ** 0.5
    )


if __name__ == "__main__":
    main()
