"""Every encoder with every adapter: batches, lengths, gradients, checkpoints. Derived from the tables."""

import numpy as np
import pytest
import torch
from gliding_tones import glide
from safetensors.torch import load_file
from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMPipeline
from speechllm.modeling.adapters.adapter_table import ADAPTERS
from speechllm.processing.speech_features import extract_features
from tiny_bases import ENCODER_NAMES
from transformers import AutoFeatureExtractor


@pytest.fixture(
    params=[(e, a) for e in ENCODER_NAMES for a in ADAPTERS], ids=lambda pair: "-".join(pair), scope="module"
)
def bridge(request, compose, bases):
    """`(model, features of some clips)` of one encoder and one adapter."""
    encoder, adapter = request.param
    model, _ = compose(encoder, "llama_tied", adapter)
    extractor = AutoFeatureExtractor.from_pretrained(bases / f"tiny--{encoder}")
    return model, lambda clips: dict(
        zip(("input_features", "input_features_mask"), extract_features(extractor, clips), strict=True)
    )


@torch.no_grad()
def test_a_clip_in_a_batch_gives_the_text_it_gives_alone(bridge, clips):
    model, features = bridge
    together = model.generate(**features(clips), max_new_tokens=12)
    speech = model.get_audio_features(**features(clips))
    rows = speech.pooler_output.split(speech.lengths.tolist())
    for row, clip in enumerate(clips):
        torch.testing.assert_close(
            model.get_audio_features(**features([clip])).pooler_output, rows[row], atol=2e-5, rtol=1e-4
        )
        alone = model.generate(**features([clip]), max_new_tokens=12)[0]
        assert together[row, : len(alone)].tolist() == alone.tolist()


@torch.no_grad()
def test_lengths_agree_between_arithmetic_and_adapter(bridge, clips):
    model, features = bridge
    inputs = features(clips)
    counted = model.config.speech_tokens(inputs["input_features_mask"].sum(-1))
    assert model.get_audio_features(**inputs).lengths.tolist() == counted.tolist()


def test_only_the_bridge_trains_and_bases_stay_in_eval(bridge):
    model, _ = bridge
    model.train()
    trained = {name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"adapter", "speech_norm"}
    assert model.model.adapter.training
    assert not any(module.training for module in model.model.audio_tower.modules())
    assert not any(module.training for module in model.model.language_model.modules())
    model.eval()


def test_checkpoint_holds_the_bridge_alone_and_comes_back_bit_for_bit(bridge, clips, bases, tmp_path):
    model, features = bridge
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    trained = sum(t.numel() * t.element_size() for t in saved.values())
    assert {name.split(".")[1] for name in saved} == {"adapter", "speech_norm"}
    assert (tmp_path / "model.safetensors").stat().st_size <= trained + 64 * 1024
    again = SpeechLLMForConditionalGeneration.from_pretrained(tmp_path, bases=bases)
    with torch.no_grad():
        ids, mask = model.default_prompt(**features(clips))
        expected = model(input_ids=ids, attention_mask=mask, **features(clips)).logits
        assert torch.equal(again(input_ids=ids, attention_mask=mask, **features(clips)).logits, expected)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_32_clips_of_a_third_to_29_seconds_give_the_same_text_in_one_batch(compose, encoder):
    generator = np.random.default_rng(11)
    clips = [glide(seconds, generator) for seconds in generator.permutation(np.linspace(0.3, 29.0, 32))]
    model, processor = compose(encoder, "llama_tied", "mlp")
    asr = SpeechLLMPipeline(model, processor, device="cpu", max_new_tokens=8)
    together = [result["text"] for result in asr(clips, batch_size=32)]
    assert together == [asr(clip, batch_size=1)["text"] for clip in clips]
    assert len(set(together)) > 3
