"""What a pipeline makes of speech that switches, in numbers that follow what it does."""

import numpy as np
import pytest
import torch
from speechllm import SpeechLLMPipeline
from speechllm.training.data.sounds import read_sound
from speechllm.training.data.utterances import read_manifest
from speechllm.training.routing.code_switching import Switching, write_switched
from speechllm.training.routing.router_recipe import RouterRecipe, train_model_router
from speechllm.training.routing.router_training import RouterTraining
from speechllm.training.routing.switch_scoring import heard_windows, score_switching
from tone_languages import write_corpus

# Layer 0: what the layers of a random encoder make of a tone says little about its pitch.
ROUTER = {"labels": ["it", "fr"], "hidden_sizes": [16], "layer": 0}
TRAINING = RouterTraining(
    learning_rate=1e-2, max_epochs=20, patience=20, batch_size=8, shortest_stretch=12, label_smoothing=0.0
)


@pytest.fixture(scope="module")
def asr(compose_whisper, tmp_path_factory):
    model, processor = compose_whisper(encoder_padding="longest")
    folder = tmp_path_factory.mktemp("tones")
    train, development = (write_corpus(folder / str(seed), 32, seed, 6.0) for seed in range(2))
    train_model_router(model, processor, train, development, recipe=RouterRecipe(ROUTER, TRAINING))
    return SpeechLLMPipeline(model=model, processor=processor, device="cpu", max_new_tokens=4)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("single") / "clips", 12, 5)


@pytest.fixture(scope="module")
def switched(single, tmp_path_factory):
    """A manifest of clips of 2 or 3 whole utterances."""
    folder = tmp_path_factory.mktemp("switched")
    clips = read_manifest(single)
    by_language = {name: [clip for clip in clips if clip.language == name] for name in ("it", "fr")}
    write_switched(by_language, folder, Switching("inter", count=8))
    return folder / "manifest.jsonl"


def test_changes_are_found_and_words_are_counted(asr, switched, single):
    facts = score_switching(asr, switched, single)
    boundaries = sum(len(item.extra["boundaries"]) for item in read_manifest(switched))
    found = facts["switches"]
    assert facts["clips"] == 8 and found["boundaries"] == boundaries >= 8
    assert found["missed"] < 0.2 and found["time_accuracy"] > 0.85
    assert found["found_in_time"] > 0.2 and 0 <= found["median_latency"] < 0.8
    # A random decoder gets no word right, so nothing is lost by switching.
    assert facts["words"]["single"] >= 1 and facts["words"]["clips"] == 8
    assert facts["words"]["normaliser"].startswith("basic/")
    assert "words" not in score_switching(asr, switched)


def test_router_that_hears_one_language_only_finds_no_change(asr, switched):
    bias = asr.model.speech_model.router.head.classifier[-1].bias
    before = bias.detach().clone()
    with torch.no_grad():
        bias[0] += 100.0
    try:
        found = score_switching(asr, switched)["switches"]
    finally:
        with torch.no_grad():
            bias.copy_(before)
    seconds = {name: 0.0 for name in ("it", "fr")}
    for item in read_manifest(switched):
        for part in item.extra["segments"]:
            seconds[part["language"]] += part["end"] - part["start"]
    to_italian = [
        part["language"] == "it" for item in read_manifest(switched) for part in item.extra["segments"][1:]
    ]
    assert found["missed"] == pytest.approx(1 - np.mean(to_italian))
    assert found["time_accuracy"] == pytest.approx(seconds["it"] / sum(seconds.values()), abs=1e-3)


def test_what_is_scored_is_what_the_pipeline_does(asr, switched):
    sound = read_sound(read_manifest(switched)[0])
    names, ends, segments = heard_windows(asr, sound)
    assert len(names) == len(ends) and ends == sorted(ends)
    chunks = asr(sound, routing="segments")["chunks"]
    assert [chunk["language"] for chunk in chunks] == [segment.label for segment in segments]
    starts = [chunk["timestamp"][0] for chunk in chunks]
    assert starts == pytest.approx([segment.start for segment in segments], abs=1e-3)


def test_what_cannot_be_scored_is_refused(asr, compose_whisper, single, switched, tmp_path):
    with pytest.raises(ValueError, match="no segments in extra"):
        score_switching(asr, single)
    clips = read_manifest(single)
    by_language = {name: [clip for clip in clips if clip.language == name] for name in ("it", "fr")}
    rapid = write_switched(by_language, tmp_path, Switching("rapid", count=2))
    with pytest.raises(ValueError, match="every switched clip has a text that is estimated"):
        score_switching(asr, rapid, single)
    model, processor = compose_whisper()
    with pytest.raises(ValueError, match="has no router, whose switching could be scored"):
        score_switching(SpeechLLMPipeline(model=model, processor=processor, device="cpu"), switched)
