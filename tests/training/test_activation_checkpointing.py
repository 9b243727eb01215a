"""Gradient checkpointing reaches frozen bases, and changes no number."""

import pytest
import torch
from speechllm.training.activation_checkpointing import checkpointed_layers
from speechllm.training.losses.cross_entropy import CrossEntropy

LORA = {"encoder": {"r": 2, "lora_dropout": 0.2}, "decoder": {"r": 2, "lora_dropout": 0.2}}


@pytest.mark.parametrize("fields", [{}, {"lora_config": LORA}], ids=["bridge", "lora"])
def test_gradients_are_the_same_and_fewer_tensors_are_kept(compose, clips, fields):
    model, processor = compose("whisper", "llama", **fields)
    objective = CrossEntropy(model, processor, {}).train()
    inputs = dict(processor.apply_training_request(audio=clips[:3], target=["ab", "c", "de"]))
    gradients, kept = [], []
    for wanted in (False, True):
        torch.manual_seed(3)
        model.zero_grad()
        count = 0

        def note(tensor):
            nonlocal count
            count += tensor.numel()
            return tensor

        with checkpointed_layers(model, wanted):
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                loss = objective(**inputs)["loss"]
            kept.append(count)
            loss.backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert set(gradients[0]) == set(gradients[1]) and gradients[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5)
    assert kept[1] < kept[0] / 2
    assert not any("forward" in vars(module) for module in model.modules())


def test_decoding_is_untouched(compose, clips):
    model, processor = compose("whisper", "llama")
    inputs = processor.apply_transcription_request(clips[:2])
    plain = model.generate(**inputs, max_new_tokens=5)
    with checkpointed_layers(model):
        assert torch.equal(model.generate(**inputs, max_new_tokens=5), plain)
