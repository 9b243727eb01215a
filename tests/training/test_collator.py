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
    together, alone = collator.heard(first), SpeechCollator(processor, collator.augmentation).heard(first)
    collator([second, first])
    assert np.array_equal(together, alone) and np.array_equal(together, collator.heard(first))
    collator.set_epoch(1)
    assert not np.array_equal(together, collator.heard(first))


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
