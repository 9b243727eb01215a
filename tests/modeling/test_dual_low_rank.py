"""A low-rank second attention reads the first one's keys and values while it decodes, and says the same."""

import copy

import pytest
import torch
from moved_parameters import move
from speechllm.modeling.adapters.dual_low_rank import LowRankSecondaryAttention
from transformers import BitsAndBytesConfig, TorchAoConfig, WhisperForConditionalGeneration

try:
    import bitsandbytes
except ImportError:
    bitsandbytes = None
try:
    from torchao.quantization import Int8WeightOnlyConfig
except ImportError:
    Int8WeightOnlyConfig = None

TOKENS = torch.tensor([[257, 258, 264, 268, 70, 80, 90], [257, 258, 264, 268, 71, 81, 91]])
RANK = 2
PROMPT = 4


@pytest.fixture(scope="module")
def features(compose_whisper, clips) -> dict:
    """Clips of 1.7 and 3.1 s: the shorter one has padding, which is hidden."""
    _, processor = compose_whisper()
    request = processor([clips[2], clips[4]])
    return {name: request[name] for name in ("input_features", "input_features_mask")}


@pytest.fixture
def joined_calls(monkeypatch) -> list[int]:
    """One entry for each time that both attentions were read together."""
    calls: list[int] = []
    read_both = LowRankSecondaryAttention.read_both

    def counted(self, *arguments):
        calls.append(self.primary_slot)
        return read_both(self, *arguments)

    monkeypatch.setattr(LowRankSecondaryAttention, "read_both", counted)
    return calls


def trained(compose_whisper, **fields):
    """A model whose branches have gone apart."""
    model, _ = compose_whisper("dual_attention", rank=RANK, encoder_padding="longest", **fields)
    move(model.model.adapter.parameters(), 0.3)
    return model


@torch.no_grad()
def first(model, features, ids=TOKENS):
    return model(**features, decoder_input_ids=ids[:, :PROMPT], use_cache=True).past_key_values


@torch.no_grad()
def stepwise(model, features, ids=TOKENS, size: int = 1) -> torch.Tensor:
    """Logits behind the prompt, of so many tokens a call."""
    cache, logits = first(model, features, ids), []
    for start in range(PROMPT, ids.shape[1], size):
        output = model(
            **features,
            decoder_input_ids=ids[:, start : start + size],
            past_key_values=cache,
            use_cache=True,
        )
        logits.append(output.logits)
    return torch.cat(logits, dim=1)


@torch.no_grad()
def whole(model, features, ids=TOKENS) -> torch.Tensor:
    return model(**features, decoder_input_ids=ids, use_cache=False).logits[:, PROMPT:]


def near(found, wanted, tolerance: float = 1e-5) -> bool:
    return torch.allclose(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("gate", ["token", "head", "channel"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_cached_step_is_the_uncached_pass(compose_whisper, features, joined_calls, gate, attention):
    model = trained(compose_whisper, gate=gate, attn_implementation=attention)
    wanted = whole(model, features)
    assert not joined_calls
    assert near(stepwise(model, features), wanted)
    assert joined_calls == [0, 1] * 3


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_hidden_frames_are_not_read(compose_whisper, joined_calls, attention):
    model = trained(compose_whisper, attn_implementation=attention)
    states = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(2))
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[0, 8:] = 0
    louder = torch.where(mask.bool()[..., None], states, 30.0)

    def logits(states, **mask) -> torch.Tensor:
        return stepwise(model.causal_lm, {"encoder_outputs": (states,), **mask})

    wanted = logits(states, encoder_attention_mask=mask)
    assert joined_calls and near(logits(louder, encoder_attention_mask=mask), wanted)
    assert not near(logits(louder), wanted, 1e-2)


def test_several_tokens_behind_a_cache_are_the_uncached_pass(compose_whisper, features, joined_calls):
    model = trained(compose_whisper)
    assert near(stepwise(model, features, size=3), whole(model, features))
    assert not joined_calls


def test_beams_that_change_places_are_the_uncached_pass(compose_whisper, features):
    model = trained(compose_whisper)
    places = torch.tensor([1, 1, 0, 0])
    # Two beams a clip, which then swap their clips too.
    beams = {name: given.repeat_interleave(2, dim=0) for name, given in features.items()}
    cache = first(model, beams, TOKENS.repeat_interleave(2, dim=0))
    cache.reorder_cache(torch.tensor([2, 3, 0, 1]))
    moved = {name: given[places] for name, given in features.items()}
    ids = torch.cat([TOKENS[places, :PROMPT], torch.tensor([[70], [71], [72], [73]])], dim=1)
    with torch.no_grad():
        found = model(**moved, decoder_input_ids=ids[:, -1:], past_key_values=cache, use_cache=True).logits
    assert near(found, whole(model, moved, ids))


def test_the_cache_keeps_no_second_keys_and_values(compose_whisper, features):
    layers = first(trained(compose_whisper), features).cross_attention_cache.layers
    assert len(layers) == 4
    frames = layers[0].keys.shape[2]
    for primary, secondary in zip(layers[:2], layers[2:], strict=True):
        assert primary.keys.shape == primary.values.shape == (2, 4, frames, 8)
        # Of a width of 32.
        assert secondary.keys.shape == secondary.values.shape == (2, 1, frames, RANK)


def test_untrained_it_begins_a_cache_as_the_base_bit_for_bit(compose_whisper, bases, clips, joined_calls):
    model, processor = compose_whisper("dual_attention", rank=RANK)
    stock = WhisperForConditionalGeneration.from_pretrained(bases / "tiny--whisper_asr").eval()
    given = processor([clips[2], clips[4]])["input_features"]
    floor = given.amax(dim=(1, 2), keepdim=True) - 2.0
    silence = floor.expand(-1, given.shape[1], 3000 - given.shape[2])
    padded = {"input_features": torch.cat([given, silence], dim=2)}
    with torch.no_grad():
        wanted = stock(**padded, decoder_input_ids=TOKENS, use_cache=True).logits
        found = model(**padded, decoder_input_ids=TOKENS, use_cache=True).logits
    assert torch.equal(found, wanted) and not joined_calls
    assert near(stepwise(model, padded), wanted[:, PROMPT:]) and joined_calls


def test_who_waits_for_the_primarys_calls_gets_them(compose_whisper, features):
    model = trained(compose_whisper, gate="head")
    wanted, lengths = whole(model, features), []
    taps = [
        layer.encoder_attn.register_forward_hook(lambda *call: lengths.append(call[2][0].shape[1]))
        for layer in model.model.language_model.layers
    ]
    assert near(stepwise(model, features), wanted)
    for tap in taps:
        tap.remove()
    assert lengths == [PROMPT] * 2 + [1] * 6


@pytest.mark.parametrize("size", [1, 3])
def test_maps_of_decoding_are_those_of_the_uncached_pass(compose_whisper, features, size):
    model = trained(compose_whisper)
    with model.model.adapter.noting(maps=True) as alone:
        whole(model, features)
    with model.model.adapter.noting(maps=True) as notes:
        stepwise(model, features, size=size)
    for branch in ("primary", "secondary"):
        assert near(notes.maps(branch), alone.maps(branch))
    assert not near(notes.maps("primary"), notes.maps("secondary"), 1e-2)
    assert near(notes.gates(), alone.gates())


LORA = {"r": 2, "target_modules": [f"encoder_attn.{name}_proj" for name in ("q", "k", "v", "out")]}


def test_lora_around_the_primary_reaches_the_secondary(compose_whisper, features, joined_calls):
    model = trained(compose_whisper, lora_config={"decoder": LORA})
    before = whole(model, features)
    move([one for name, one in model.named_parameters() if "lora_B" in name], 0.3)
    wanted = whole(model, features)
    assert near(stepwise(model, features), wanted) and joined_calls
    assert not near(wanted, before, 1e-2)


def test_each_row_reads_with_its_own_adapter_of_a_bank(compose_whisper, clips, joined_calls):
    bank = {"it": {"decoder": LORA}, "fr": {"decoder": LORA}}
    model, processor = compose_whisper("dual_attention", rank=RANK, encoder_padding="longest", lora_bank=bank)
    move(model.model.adapter.parameters(), 0.3)
    move([one for name, one in model.named_parameters() if "lora_B" in name], 0.5)

    def written(numbers: list[int], **options) -> list:
        request = processor.apply_transcription_request(
            [clips[number] for number in numbers],
            language=[("it", "fr")[number % 2] for number in numbers],
            sampling_rate=16000,
        )
        return model.generate(**request, max_new_tokens=8, **{"routing": "oracle", **options}).tolist()

    together = written([2, 3])
    assert joined_calls
    assert together == [written([2])[0], written([3])[0]]
    # The stock loop, which can do without a cache.
    assert written([2, 3], num_beams=2) == written([2, 3], num_beams=2, use_cache=False)
    assert together != written([2, 3], routing="base")


QUANTIZATIONS = {
    "torchao_int8": (Int8WeightOnlyConfig, lambda: TorchAoConfig(Int8WeightOnlyConfig())),
    "bnb_8bit": (bitsandbytes, lambda: BitsAndBytesConfig(load_in_8bit=True)),
}


@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_a_quantized_base_lends_its_linears(compose_whisper, features, joined_calls, kind):
    library, settings = QUANTIZATIONS[kind]
    if library is None:
        pytest.skip("the library is not installed")
    model = trained(compose_whisper, quantization_config=settings())
    assert type(model.model.language_model.layers[0].encoder_attn.q_proj.weight) is not torch.nn.Parameter
    assert near(stepwise(model, features), whole(model, features)) and joined_calls


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_step_by_step_as_at_once(compose_whisper, features, joined_calls, dtype):
    exact = trained(compose_whisper)
    wanted = whole(exact, features)
    half = copy.deepcopy(exact)
    half.model.language_model.to(dtype)
    half.causal_lm.to(dtype)
    narrow = {**features, "input_features": features["input_features"].to(dtype)}
    at_once = (whole(half, narrow).float() - wanted).square().mean().sqrt()
    by_step = (stepwise(half, narrow).float() - wanted).square().mean().sqrt()
    assert joined_calls and 0 < by_step < 1.5 * at_once


def test_training_behind_a_cache_reaches_every_part_of_the_secondary(compose_whisper, features, joined_calls):
    model = trained(compose_whisper).train()
    cache = model(**features, decoder_input_ids=TOKENS[:, :PROMPT], use_cache=True).past_key_values
    output = model(**features, decoder_input_ids=TOKENS[:, 4:5], past_key_values=cache, use_cache=True)
    output.logits.square().sum().backward()
    for name, parameter in model.model.adapter.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert not joined_calls
