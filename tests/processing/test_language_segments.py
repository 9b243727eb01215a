"""Code-switching in the pipeline: cut where the language changes, each part with its own adapter."""

import itertools

import numpy as np
import pytest
import torch
from sounds import RATE
from speechllm import SpeechLLMPipeline
from speechllm.modeling.router.segment_routing import SpokenSegment
from speechllm.processing.audio_segments import Segment
from speechllm.processing.language_segments import language_parts
from speechllm.training.routing.router_recipe import RouterRecipe, train_model_router
from speechllm.training.routing.router_training import RouterTraining
from tone_languages import spoken, write_corpus

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
BANK = {"it": {"decoder": LORA}, "fr": {"encoder": LORA, "decoder": LORA}}
# Layer 0: what the layers of a random encoder make of a tone says little about its pitch.
ROUTER = {"labels": ["it", "fr"], "hidden_sizes": [16], "layer": 0}
TRAINING = RouterTraining(
    learning_rate=1e-2, max_epochs=30, patience=30, batch_size=8, shortest_stretch=12, label_smoothing=0.0
)
TURNS = [("it", 2.0), ("fr", 1.5), ("it", 1.0)]


def switched(turns, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.concatenate([spoken(language, seconds, generator) for language, seconds in turns])


def with_router(model, processor, folder):
    """The model with loud adapters and a router that tells low tones from high ones."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    # Positions are a part of what a router at layer 0 hears: clips are as long as those that are cut.
    train, development = (
        write_corpus(folder / name, 32, seed, 5.0) for seed, name in enumerate(("train", "dev"))
    )
    facts = train_model_router(model, processor, train, development, recipe=RouterRecipe(ROUTER, TRAINING))
    assert facts["development"]["accuracy"] == 1.0
    return SpeechLLMPipeline(model=model, processor=processor, device="cpu", max_new_tokens=10)


@pytest.fixture(scope="module")
def asr(compose_whisper, tmp_path_factory):
    parts = compose_whisper(lora_bank=BANK, encoder_padding="longest")
    return with_router(*parts, tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def bridge(compose, tmp_path_factory):
    model, processor = compose("whisper", lora_bank=BANK)
    with torch.no_grad():
        # Or its positions would drown what it hears.
        for convolution in (model.model.audio_tower.conv1, model.model.audio_tower.conv2):
            convolution.weight.mul_(8.0)
    return with_router(model, processor, tmp_path_factory.mktemp("bridge"))


def languages_and_times(result) -> list:
    return [(chunk["language"], chunk["timestamp"]) for chunk in result["chunks"]]


def test_languages_and_their_times_are_found(asr):
    result = asr(switched(TURNS), routing="segments")
    found = languages_and_times(result)
    assert [language for language, _ in found] == ["it", "fr", "it"]
    times = [time for _, time in found]
    assert times[0][0] == 0.0 and times[-1][1] == 4.5
    assert [after[0] for after in times[1:]] == [before[1] for before in times[:-1]]
    assert [start for start, _ in times[1:]] == pytest.approx([2.0, 3.5], abs=0.25)
    assert result["language"] == "it" and result["language_scores"]["it"] > result["language_scores"]["fr"]
    assert asr(switched([("it", 1.0), ("fr", 2.0)]), routing="segments")["language"] == "fr"


@pytest.mark.parametrize("family", ["asr", "bridge"])
def test_every_part_says_what_it_says_alone_in_its_language(family, request):
    pipeline = request.getfixturevalue(family)
    sound = switched(TURNS)
    result = pipeline(sound, routing="segments")
    assert [chunk["language"] for chunk in result["chunks"]] == ["it", "fr", "it"]
    others = 0
    for chunk in result["chunks"]:
        start, end = (round(time * RATE) for time in chunk["timestamp"])
        alone = {name: pipeline(sound[start:end], language=name)["text"] for name in ("it", "fr")}
        assert chunk["text"] == alone.pop(chunk["language"])
        others += chunk["text"] != alone.popitem()[1]
    assert others >= 2  # adapters may say the same of a short part
    assert result["text"] == " ".join(chunk["text"] for chunk in result["chunks"])


def test_a_batch_of_clips_is_what_each_is_alone(asr):
    sounds = [
        switched(TURNS, 1),
        switched([("fr", 1.2)], 2),
        switched([("fr", 0.8), ("it", 2.5)], 3),
        np.zeros(RATE, np.float32),
        switched([("it", 0.4)], 4),
    ]
    together = asr(sounds, routing="segments", batch_size=3)
    assert [len(result["chunks"]) for result in together] == [3, 1, 2, 1, 1]
    for sound, result in zip(sounds, together, strict=True):
        alone = asr(sound, routing="segments", batch_size=1)
        assert result.get("language_scores") == pytest.approx(alone.get("language_scores"), abs=1e-5)
        assert {**result, "language_scores": None} == {**alone, "language_scores": None}
    assert together[3] == {
        "text": "",
        "chunks": [{"text": "", "timestamp": (0.0, 1.0)}],
        "language": None,
        "guarded": [{"timestamp": (0.0, 1.0), "reason": "silence"}],
    }


def test_parts_share_batches_and_no_sound_is_left_in_memory(asr, monkeypatch):
    batches = []
    forward = asr._forward
    monkeypatch.setattr(
        asr, "_forward", lambda batch, options: batches.append(batch) or forward(batch, options)
    )
    asr([switched(TURNS, seed) for seed in range(3)], routing="segments", batch_size=4)
    assert [len(batch) for batch in batches] == [4, 4, 1]
    assert len({piece.language for piece in batches[0]}) == 2
    assert all(not len(piece.segment.waveform) for batch in batches for piece in batch)


def test_long_audio_is_cut_first_and_its_times_go_on(asr):
    sound = switched(TURNS * 3, 5)
    result = asr(sound, routing="segments", chunk_length_s=4.0, max_new_tokens=3)
    times = [chunk["timestamp"] for chunk in result["chunks"]]
    assert times[0][0] == 0.0 and times[-1][1] == pytest.approx(len(sound) / RATE, abs=1e-3)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(times))
    truth = np.repeat([language for language, _ in TURNS * 3], [round(10 * s) for _, s in TURNS * 3])
    heard = [
        next(c for c in result["chunks"] if c["timestamp"][1] > t / 10 + 0.05) for t in range(len(truth))
    ]
    assert np.mean([chunk["language"] == true for chunk, true in zip(heard, truth, strict=True)]) > 0.9


def test_parts_are_all_of_a_segment_and_silent_ones_are_left_out():
    sound = np.concatenate([np.ones(1000), np.zeros(2000), np.ones(1001)]).astype(np.float32)
    frames = [(0.0, 0.0625, "it"), (0.0625, 0.1875, "fr"), (0.1875, 0.24, "it")]
    segments = [SpokenSegment(*frame, frame[2], {}, None) for frame in frames]
    parts = language_parts(Segment(sound, 10.0, 10.0 + 4001 / RATE), segments, RATE)
    assert [part.guarded for part in parts] == [None, "silence", None]
    assert [len(parts[0].segment.waveform), len(parts[2].segment.waveform)] == [1000, 1001]
    assert [part.timestamp for part in parts] == [(10.0, 10.062), (10.062, 10.188), (10.188, 10.25)]
    assert [part.language for part in parts] == ["it", "fr", "it"]


def test_words_stand_within_the_parts_and_have_their_language(asr):
    sound = switched(TURNS)
    borders = asr(sound, routing="segments")["chunks"]
    words = asr(sound, routing="segments", return_timestamps="word")["chunks"]
    assert len(words) > len(borders)
    for word in words:
        start, end = word["timestamp"]
        own = [part for part in borders if part["language"] == word["language"]]
        assert any(part["timestamp"][0] <= start <= end <= part["timestamp"][1] for part in own)


def test_decoders_timestamps_stand_within_the_parts(asr):
    sound = switched(TURNS)
    parts = asr(sound, routing="segments")["chunks"]
    fine = asr(sound, routing="segments", return_timestamps=True)["chunks"]
    borders = [part["timestamp"] for part in parts]
    for chunk in fine:
        start, end = chunk["timestamp"]
        within = [index for index, border in enumerate(borders) if border[0] <= start <= end <= border[1]]
        assert chunk["language"] in [parts[index]["language"] for index in within]
    assert len(fine) > len(parts)


def test_parts_the_router_is_unsure_of_are_left_to_the_base(asr):
    sounds = [switched([(language, 1.0 + seed)], seed) for seed in range(3) for language in ("it", "fr")]
    config = asr.model.config.router_config
    sure = asr(sounds, routing="segments")
    config.floor = 1.0
    try:
        unsure = asr(sounds, routing="segments")
    finally:
        config.floor = 0.0
    for sound, result in zip(sounds, unsure, strict=True):
        assert result["text"] == asr(sound, language=result["language"], routing="base")["text"]
    assert [result["language"] for result in sure] == [result["language"] for result in unsure]
    assert sum(one["text"] != other["text"] for one, other in zip(sure, unsure, strict=True)) >= 3


def test_router_without_adapters_tells_the_base_the_language_of_each_part(asr, compose_whisper):
    model, processor = compose_whisper(encoder_padding="longest")
    model.set_router(asr.model.speech_model.router)
    plain = SpeechLLMPipeline(model=model, processor=processor, device="cpu", max_new_tokens=10)
    sound = switched(TURNS)
    result = plain(sound, routing="segments")
    assert [chunk["language"] for chunk in result["chunks"]] == ["it", "fr", "it"]
    for chunk in result["chunks"]:
        start, end = (round(time * RATE) for time in chunk["timestamp"])
        assert chunk["text"] == plain(sound[start:end], language=chunk["language"])["text"]


def test_what_cannot_be_cut_is_refused_at_once_in_one_line(asr, compose_whisper):
    with pytest.raises(ValueError, match="finds the languages by itself: leave language='it' out") as told:
        asr(iter([]), routing="segments", language="it")
    assert "\n" not in str(told.value)
    model, processor = compose_whisper(lora_bank=BANK)
    with pytest.raises(ValueError, match="routing='segments' needs a router, which this checkpoint has not"):
        SpeechLLMPipeline(model=model, processor=processor, device="cpu", routing="segments")
    with pytest.raises(ValueError, match="has no router, which finds where the language changes"):
        model.language_segments(torch.zeros(1, 80, 100))
