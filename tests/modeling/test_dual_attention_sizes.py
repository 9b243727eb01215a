"""Dual attention in the shape of every published Whisper, and in compiled decoding with a static cache."""

import pytest
import torch
from moved_parameters import move
from speechllm import SpeechLLMConfig, SpeechLLMForConditionalGeneration
from speechllm.modeling.decoders.family_table import decoder_family
from transformers import WhisperConfig, WhisperForConditionalGeneration

# Heads, layers of encoder and decoder, mel bands: as published; heads of 8 channels and not 64.
SIZES = {
    "tiny": (6, 4, 4, 80),
    "base": (8, 6, 6, 80),
    "small": (12, 12, 12, 80),
    "medium": (16, 24, 24, 80),
    "large-v2": (20, 32, 32, 80),
    "large-v3": (20, 32, 32, 128),
    "large-v3-turbo": (20, 32, 4, 128),
}
FORMS = [{}, {"init": "published"}, {"rank": 4}, {"gate": "head"}, {"gate": "channel"}]
POSITIONS = 30


def whisper_of(size: str) -> WhisperForConditionalGeneration:
    """A random stock Whisper in the proportions of a published one."""
    heads, encoder_layers, decoder_layers, mel = SIZES[size]
    torch.manual_seed(1)
    config = WhisperConfig(
        d_model=8 * heads, encoder_attention_heads=heads, decoder_attention_heads=heads,
        encoder_layers=encoder_layers, decoder_layers=decoder_layers, encoder_ffn_dim=32 * heads,
        decoder_ffn_dim=32 * heads, num_mel_bins=mel, vocab_size=60, max_source_positions=POSITIONS,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3, suppress_tokens=None,
        begin_suppress_tokens=None,
    )  # fmt: skip
    stock = WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        # Louder than at its start, so that what is heard reaches the logits.
        for layer in stock.model.decoder.layers:
            for parameter in layer.encoder_attn.parameters():
                parameter.mul_(4.0).add_(0.05)
    return stock


SLOW = ("medium", "large-v2", "large-v3")


@torch.no_grad()
@pytest.mark.parametrize(
    "size", [pytest.param(size, marks=pytest.mark.slow if size in SLOW else ()) for size in SIZES]
)
def test_untrained_it_is_the_base_bit_for_bit_in_every_size(size, tmp_path):
    stock = whisper_of(size)
    stock.save_pretrained(tmp_path / f"tiny--{size}")
    mel = stock.config.num_mel_bins
    features, ids = torch.randn(2, mel, 2 * POSITIONS), torch.randint(4, 60, (2, 7))
    wanted = stock(features, decoder_input_ids=ids).logits
    assert not torch.equal(wanted, stock(-features, decoder_input_ids=ids).logits)
    base: dict = {"audio_config": stock.config, "encoder_id": f"tiny/{size}", "decoder_id": f"tiny/{size}"}
    parts = None
    for form in FORMS:
        config = SpeechLLMConfig(adapter_config={"model_type": "dual_attention", **form}, **base)
        parts = parts or decoder_family(config).load(config, tmp_path, {}, True)
        model = SpeechLLMForConditionalGeneration(config, *parts).eval()
        found = model(input_features=features, decoder_input_ids=ids).logits
        assert torch.equal(found, wanted), form


def parted(compose_whisper, **fields):
    """A model whose branches have gone apart."""
    model, processor = compose_whisper(**fields)
    move(model.model.adapter.parameters(), 0.3)
    return model, processor


@pytest.mark.parametrize("fields", [{}, {"rank": 2}, {"gate": "head"}], ids=["token", "low_rank", "head"])
def test_beams_in_a_static_cache_are_beams_in_one_that_grows(compose_whisper, clips, fields):
    model, processor = parted(compose_whisper, adapter="dual_attention", encoder_padding="longest", **fields)
    request = processor.apply_transcription_request(clips[2:4], language="en", sampling_rate=16000)
    asked = {**request, "num_beams": 2, "max_new_tokens": 8}
    wanted = model.generate(**asked).tolist()
    assert model.generate(**asked, cache_implementation="static").tolist() == wanted
    assert model.generate(**asked, use_cache=False).tolist() == wanted


# The head gate is not among them: it listens at the primary's last projection by a hook.
COMPILED = [
    {"adapter": "cross_attention"},
    {"adapter": "dual_attention"},
    {"adapter": "dual_attention", "gate": "channel"},
    {"adapter": "dual_attention", "rank": 2},
]


@pytest.mark.slow
@pytest.mark.parametrize("fields", COMPILED, ids=lambda fields: "_".join(map(str, fields.values())))
def test_decoding_with_a_static_cache_is_one_graph(compose_whisper, clips, fields):
    """As `torch.compile(model.forward, fullgraph=True)` of stock Whisper; the graph is run as it is."""
    model, processor = parted(compose_whisper, encoder_padding="longest", **fields)
    request = processor.apply_transcription_request(clips[2:4], language="en", sampling_rate=16000)
    wanted = model.generate(**request, max_new_tokens=5, stop_loops=False).tolist()
    torch._dynamo.reset()
    model.causal_lm.forward = torch.compile(model.causal_lm.forward, backend="eager", fullgraph=True)
    found = model.generate(**request, max_new_tokens=5, stop_loops=False, cache_implementation="static")
    torch._dynamo.reset()
    assert found.tolist() == wanted
