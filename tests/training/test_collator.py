"""Batches depend on their clips alone."""

import numpy as np
import pytest
import torch
from speechllm.training.augmentation.augmentation import build_augmentation
from speechllm.training.collator import SpeechCollator


def item(audio, text, **fields):
    return {
        "audio": audio,
        "text": text,
        "id": text,
        "language": None,
        "task": None,
        "prompt": None,
        **fields,
    }


def test_augmentation_of_a_clip_does_not_depend_on_its_neighbours_but_on_the_epoch(compose, clips):
    _, processor = compose("hubert_large", "llama")
    collator = SpeechCollator(processor, build_augmentation({"gain": {"probability": 1.0}}, 3))
    first, second = item(clips[1], "ab"), item(clips[2], "c")
    other = SpeechCollator(processor, collator.augmentation)
    together, alone = collator.heard(first).waveform, other.heard(first).waveform
    collator([second, first])
    assert np.array_equal(together, alone) and np.array_equal(together, collator.heard(first).waveform)
    collator.set_epoch(1)
    assert not np.array_equal(together, collator.heard(first).waveform)


def test_each_clip_is_routed_to_the_adapter_of_its_language(compose, clips):
    _, processor = compose("whisper", "llama")
    collator = SpeechCollator(processor, bank={"italian": "it", "hi": "hi"})
    batch = collator([item(clips[1], "ab", language="hi"), item(clips[2], "c", language="it")])
    assert torch.equal(batch["routing_weights"], torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    with pytest.raises(
        ValueError, match=r"clip ab has language 'fr', for which the bank has no adapter; it has"
    ):
        collator([item(clips[1], "ab", language="fr")])
    assert torch.equal(SpeechCollator(processor, bank={"x": "it"}).routed(item(clips[1], "a")), torch.ones(1))


def test_a_branch_for_noise_hears_what_was_mixed_in_and_learns_from_it(compose_whisper, clips):
    model, processor = compose_whisper("dual_attention", noise_loss_weight=0.5)
    noise = build_augmentation({"noise": {"probability": 1.0, "snr_db": [5, 5], "kinds": ["white"]}}, 3)
    collator = SpeechCollator(processor, noise, tells_noise=True)
    items = [item(clip, "ab", language="it") for clip in clips[:2]]
    batch = collator(items)
    assert batch["noise_features"].shape == batch["input_features"].shape
    assert batch["snr_db"].tolist() == pytest.approx([5, 5], abs=0.1)
    model.train()
    model(**batch).loss.backward()
    told = model(**batch).loss
    untold = model.eval()(**{key: value for key, value in batch.items() if key != "noise_features"}).loss
    assert told > untold
    assert model.model.adapter.noise_heads[0].weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="name an augmentation that mixes some in"):
        SpeechCollator(processor, tells_noise=True)
