"""Training from a feature cache is training with the encoder in the loop."""

import pytest
import torch
from cached_runs import cached, cached_batch, heard_batch, loss_and_gradients, write_clips
from speechllm.modeling.adapters.adapter_table import ADAPTERS
from speechllm.training.collator import bank_languages
from speechllm.training.feature_cache.cached_collator import CachedCollator
from speechllm.training.feature_cache.storage import STORAGES

ROWS = [4, 1, 3, 0]


@pytest.fixture()
def utterances(clips, tmp_path):
    return write_clips(tmp_path / "sounds", clips)


def assert_same_training(model, in_loop, from_cache, closeness):
    """Loss and every gradient; what is compared must not be zero."""
    expected, wanted = loss_and_gradients(model, in_loop)
    loss, gradients = loss_and_gradients(model, from_cache)
    assert loss == pytest.approx(expected, rel=closeness, abs=0)
    assert gradients.keys() == wanted.keys() and gradients
    for name, gradient in wanted.items():
        difference = (gradients[name] - gradient).norm() / gradient.norm().clamp(min=1e-12)
        assert difference < 50 * closeness, name
    assert max(float(gradient.norm()) for gradient in wanted.values()) > 1e-3


@pytest.mark.parametrize("padding", ["longest", "max_length"])
@pytest.mark.parametrize("encoder", ["whisper", "hubert_base", "wav2vec2_bert"])
def test_bridge_trains_the_same_from_a_cache(compose, utterances, tmp_path, encoder, padding):
    if encoder != "whisper" and padding == "max_length":
        pytest.skip("this encoder has no maximum to pad to")
    model, processor = compose(encoder, "llama", encoder_padding=padding)
    dataset = cached(model, processor, utterances, tmp_path / "cache")
    in_loop, from_cache = heard_batch(processor, utterances, ROWS), cached_batch(processor, dataset, ROWS)
    assert "input_features" not in from_cache and from_cache["encoder_states"].dtype == torch.float32
    for name in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(in_loop[name], from_cache[name])
    assert_same_training(model, in_loop, from_cache, 1e-5)


@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
def test_every_bridge_hears_nothing_beyond_a_cached_clip(compose, utterances, tmp_path, adapter):
    model, processor = compose("whisper", "llama", adapter)
    dataset = cached(model, processor, utterances, tmp_path / "cache")
    model.eval()
    with torch.no_grad():
        batch = heard_batch(processor, utterances, ROWS)
        expected = model(**batch).loss
        assert torch.allclose(
            model(**cached_batch(processor, dataset, ROWS)).loss, expected, rtol=1e-5, atol=0
        )


@pytest.mark.parametrize("padding", ["longest", "max_length"])
def test_whisper_trains_the_same_from_a_cache(compose_whisper, utterances, tmp_path, padding):
    model, processor = compose_whisper("dual_attention", encoder_padding=padding)
    dataset = cached(model, processor, utterances, tmp_path / "cache")
    in_loop, from_cache = heard_batch(processor, utterances, ROWS), cached_batch(processor, dataset, ROWS)
    # The silence up to 30 s is attended to, so it belongs to the clip.
    assert (from_cache["encoder_states"].shape[1] == 1500) == (padding == "max_length")
    assert_same_training(model, in_loop, from_cache, 1e-5)


@pytest.mark.parametrize(("storage", "error"), [("float16", 1e-3), ("int8", 1e-2)])
def test_smaller_formats_come_close_and_are_smaller(compose, utterances, tmp_path, storage, error):
    model, processor = compose("whisper", "llama")
    exact = cached(model, processor, utterances, tmp_path / "exact")
    small = cached(model, processor, utterances, tmp_path / "small", storage=storage)
    batch, rounded = cached_batch(processor, exact, ROWS), cached_batch(processor, small, ROWS)
    states, close = batch["encoder_states"], rounded["encoder_states"].float()
    assert 0 < float((close - states).norm() / states.norm()) < error
    expected, loss = loss_and_gradients(model, batch)[0], loss_and_gradients(model, rounded)[0]
    assert loss == pytest.approx(expected, rel=error)
    wide, narrow = (dataset[0]["encoder_states"].nbytes for dataset in (exact, small))
    assert wide == narrow * 4 // STORAGES[storage].kind().itemsize


def test_states_that_float16_cannot_hold_are_refused_and_not_made_infinite(compose, utterances, tmp_path):
    model, processor = compose("whisper", "llama")
    with torch.no_grad():
        model.model.audio_tower.layer_norm.weight.mul_(1e6)
    with pytest.raises(ValueError, match=r"do not fit into float16: store float32 or int8"):
        cached(model, processor, utterances, tmp_path / "cache", storage="float16")


def test_bank_of_the_decoder_is_routed_by_language_from_a_cache(compose, utterances, tmp_path):
    bank = {"en": {"decoder": {"r": 2}}, "it": {"decoder": {"r": 2}}}
    model, processor = compose("whisper", "llama", lora_bank=bank)
    dataset = cached(model, processor, utterances, tmp_path / "cache")
    batch = CachedCollator(processor, bank_languages(model.config))([dataset[0], dataset[1]])
    assert batch["routing_weights"].tolist() == [[1.0, 0.0], [1.0, 0.0]]
    _, gradients = loss_and_gradients(model, batch)
    moved = {name for name, gradient in gradients.items() if ".lora_B." in name and gradient.any()}
    assert moved and all(".lora_B.en" in name for name in moved)


def test_bridge_writes_the_same_from_cached_states(compose, utterances, tmp_path):
    model, processor = compose("whisper", "llama")
    dataset = cached(model, processor, utterances, tmp_path / "cache")
    model.eval()
    in_loop, from_cache = heard_batch(processor, utterances, ROWS), cached_batch(processor, dataset, ROWS)
    expected, ids = model.generate(**in_loop), model.generate(**from_cache)
    # As long as each clip's duration allows: the budgets are reckoned from the cached lengths.
    assert torch.equal(ids, expected) and ids.shape[1] > 20


@pytest.mark.parametrize("padding", ["longest", "max_length"])
def test_whisper_writes_the_same_from_cached_states(compose_whisper, utterances, tmp_path, padding):
    model, processor = compose_whisper("cross_attention", encoder_padding=padding)
    dataset = cached(model, processor, utterances, tmp_path / "cache")
    model.eval()
    in_loop, from_cache = heard_batch(processor, utterances, ROWS), cached_batch(processor, dataset, ROWS)
    expected, ids = model.generate(**in_loop), model.generate(**from_cache)
    assert torch.equal(ids, expected) and ids.shape[1] > 5


def test_logits_of_labelled_positions_alone_give_the_same_loss(compose, utterances):
    model, processor = compose("whisper", "llama")
    model.freeze_bases()
    batch = heard_batch(processor, utterances, ROWS)
    size, first = batch["labels"].shape[1], int((batch["labels"] != -100).any(0).nonzero()[0])
    expected, wanted = loss_and_gradients(model, batch)
    loss, gradients = loss_and_gradients(model, {**batch, "logits_to_keep": torch.arange(first - 1, size)})
    assert first > 1 and loss == pytest.approx(expected, rel=1e-6)
    assert all(torch.allclose(gradients[name], gradient, atol=1e-6) for name, gradient in wanted.items())
