"""`data.features`: a run that reads a feature cache trains the model that a run with the encoder trains."""

import pytest
import torch
from safetensors.torch import load_file
from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMProcessor
from speechllm.training.data.utterances import read_manifest
from speechllm.training.feature_cache.caching import CachingSettings, cache_features
from training_runs import TINY_NAMES, tiny_run, write_corpus

PHASES = (
    "phases=[{name: align, loss: contrastive, train: [adapter]}, {name: spell, loss: ctc, train: [adapter]},"
    " {name: write, loss: cross_entropy, train: [adapter]}]"
)


@pytest.fixture(scope="module")
def cache(bases, tmp_path_factory):
    """A folder for runs, with the cache of their training clips."""
    folder = tmp_path_factory.mktemp("cached")
    train, _ = write_corpus(folder / "corpus")
    model = SpeechLLMForConditionalGeneration.from_bases(*TINY_NAMES, bases=bases, dtype=torch.float32)
    processor = SpeechLLMProcessor.from_bases(*TINY_NAMES, bases=bases)
    model.freeze_bases()
    settings = CachingSettings(storage="float32", show_progress=False)
    cache_features(model, processor, read_manifest(train), folder / "features", settings)
    return folder


def weights(model):
    return load_file(model / "model.safetensors")


def test_every_loss_trains_what_it_trains_with_the_encoder_in_the_loop(cache, bases):
    heard = weights(tiny_run(cache / "heard", bases, PHASES))
    remembered = weights(tiny_run(cache / "remembered", bases, PHASES, f"data.features={cache}/features"))
    for name, tensor in heard.items():
        torch.testing.assert_close(remembered[name], tensor, atol=2e-5, rtol=1e-4, msg=name)


def test_a_later_phase_that_can_not_be_cached_is_refused_before_the_first_step(cache, bases):
    phases = (
        "phases=[{name: align, loss: ctc, train: [adapter]},"
        " {name: all, loss: cross_entropy, train: [adapter, encoder]}]"
    )
    with pytest.raises(ValueError, match="phase 'all': the encoder is to be trained"):
        tiny_run(cache / "refused", bases, phases, f"data.features={cache}/features")
    assert not list((cache / "refused").glob("phase-*"))


def test_augmentation_that_would_be_heard_by_nobody_is_refused(cache, bases):
    with pytest.raises(ValueError, match="cache-features --augment"):
        tiny_run(cache / "noisy", bases, "augmentation=noisy", f"data.features={cache}/features")


def test_a_cache_of_another_precision_is_refused(cache, bases):
    with pytest.raises(ValueError, match="precision='float32', but here it is 'bfloat16'"):
        tiny_run(cache / "narrow", bases, "trainer.precision=bfloat16", f"data.features={cache}/features")
