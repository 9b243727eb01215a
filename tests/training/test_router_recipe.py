"""From manifests to a checkpoint that routes: trained on what generation hears, saved whole, and honest."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMProcessor
from speechllm.modeling.length_masks import input_lengths
from speechllm.modeling.router.language_router import LanguageRouter
from speechllm.modeling.router.row_routing import heard_languages
from speechllm.training.data.sounds import read_sound
from speechllm.training.data.utterances import read_manifest
from speechllm.training.routing import router_recipe
from speechllm.training.routing.router_recipe import RouterRecipe, train_checkpoint_router, train_model_router
from speechllm.training.routing.router_scores import clip_logits
from speechllm.training.routing.router_states import hear
from speechllm.training.routing.router_training import RouterTraining
from tone_languages import RATE, write_corpus

LORA = {"r": 2, "target_modules": ["q_proj"]}
BANK = {"it": {"encoder": LORA}, "fr": {"decoder": LORA}}
# Layer 0: what the layers of a random encoder make of a tone says little about its pitch.
ROUTER = {"labels": ["it", "fr"], "hidden_sizes": [16], "layer": 0}
TRAINING = RouterTraining(learning_rate=1e-2, max_epochs=8, batch_size=8)


@pytest.fixture(scope="module")
def manifests(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tones")
    sizes = {"train": 24, "development": 12, "test": 12}
    return {name: write_corpus(root / name, count, seed) for seed, (name, count) in enumerate(sizes.items())}


@pytest.fixture(scope="module")
def trained(manifests, compose_whisper, bases, tmp_path_factory):
    """`(folder, facts)` of a checkpoint without a router that was given one."""
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in compose_whisper(lora_bank=BANK, encoder_padding="longest"):
        part.save_pretrained(folder)
    recipe = RouterRecipe(ROUTER, TRAINING)
    return folder, train_checkpoint_router(folder, **manifests, recipe=recipe, bases=bases)


def test_checkpoint_learns_to_route_and_says_how_well(trained):
    folder, facts = trained
    assert facts["development"]["accuracy"] == facts["test"]["accuracy"] == 1.0
    assert facts["test"]["confusion"] == {"it": {"it": 6, "fr": 0}, "fr": {"it": 0, "fr": 6}}
    assert set(facts["test"]["by_duration"]) == {"below 1 s", "1 to 5 s"}
    assert facts["train"]["clips_by_label"] == {"it": 12, "fr": 12}
    assert facts["temperature"] != 1.0
    test = facts["test"]
    assert test["calibration_error_before"] != test["calibration_error"]
    assert facts["epochs"][-1]["loss"] < facts["epochs"][0]["loss"]
    assert json.loads((folder / "router.json").read_text()) == json.loads(json.dumps(facts))


@torch.no_grad()
def test_reloaded_checkpoint_routes_what_it_never_heard(trained, manifests, bases):
    folder, facts = trained
    model = SpeechLLMForConditionalGeneration.from_pretrained(folder, bases=bases)
    processor = SpeechLLMProcessor.from_pretrained(folder)
    assert model.config.router_config is model.speech_model.router.config
    assert model.config.router_config.temperature == facts["temperature"]
    utterances = read_manifest(manifests["test"])
    inputs = processor.apply_transcription_request([read_sound(item) for item in utterances])
    out = model.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True)
    assert out.language == [item.language for item in utterances]
    confidences = [
        scores[item.language] for scores, item in zip(out.language_scores, utterances, strict=True)
    ]
    # All are right, so what calibration missed is what they lack of certainty.
    assert 1 - np.mean(confidences) == pytest.approx(facts["test"]["calibration_error"], abs=1e-4)


@pytest.mark.parametrize("padding", ["longest", "max_length"])
@pytest.mark.parametrize("layer", [None, 1])
@pytest.mark.parametrize("pooled", [False, True])
def test_router_is_trained_on_what_generation_hears(compose_whisper, manifests, padding, layer, pooled):
    router_config = {**ROUTER, "layer": layer}
    model, processor = compose_whisper(lora_bank=BANK, router_config=router_config, encoder_padding=padding)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_()
    model.lora_bank.use(torch.tensor([[1.0, 0.0]]))  # what is in use must not be heard
    utterances = read_manifest(manifests["test"])[:5]
    router = model.speech_model.router
    heard = hear(model, processor, router, utterances, "test", batch_size=2, pooled=pooled)
    assert heard.seconds.tolist() == sorted(heard.seconds.tolist())
    by_length = sorted(utterances, key=lambda item: item.seconds)
    features = processor([read_sound(item) for item in by_length])
    lengths = input_lengths(model.config, features["input_features"], features["input_features_mask"])
    expected, _ = heard_languages(model.speech_model, features["input_features"], lengths)
    found = router.calibrated(clip_logits(router, heard.clips))
    torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=1e-4)
    assert [heard.clips.names[label] for label in heard.clips.labels] == [item.language for item in by_length]


def test_what_is_longer_than_the_encoder_hears_is_heard_from_its_beginning(
    compose_whisper, manifests, tmp_path
):
    import soundfile

    model, processor = compose_whisper(router_config=ROUTER, encoder_padding="longest")
    sound = np.random.default_rng(0).uniform(-0.1, 0.1, 33 * RATE).astype(np.float32)
    for name, part in (("long", sound), ("cut", sound[: 30 * RATE])):
        soundfile.write(tmp_path / f"{name}.wav", part, RATE)
    item = read_manifest(manifests["test"])[0]
    clips = [
        hear(
            model, processor, model.speech_model.router, [replace(item, audio=str(tmp_path / name))], "x"
        ).clips
        for name in ("long.wav", "cut.wav")
    ]
    assert clips[0].lengths.tolist() == [1500]
    assert torch.equal(clips[0].states[0], clips[1].states[0])


def test_clips_that_cannot_be_read_are_named_and_left_out(compose_whisper, manifests, tmp_path, caplog):
    model, processor = compose_whisper(router_config=ROUTER, encoder_padding="longest")
    train = read_manifest(manifests["train"])
    (tmp_path / "broken.wav").write_bytes(b"RIFF, it says")
    train[3] = replace(train[3], audio=str(tmp_path / "broken.wav"))
    train[4] = replace(train[4], audio=str(tmp_path / "nowhere.wav"), seconds=None)
    recipe = RouterRecipe(None, replace(TRAINING, max_epochs=1))
    with caplog.at_level(logging.WARNING):
        facts = train_model_router(model, processor, train, manifests["development"], recipe=recipe)
    assert [line.split(":")[0] for line in facts["train"]["unreadable"]] == ["train-4", "train-3"]
    assert facts["train"]["clips_by_label"] == {"it": 11, "fr": 11} and facts["train"]["clips"] == 22
    assert "train clip left out, it cannot be read: train-3: broken.wav: text, not audio" in caplog.text
    lost = [replace(item, audio="nowhere.wav") for item in train]
    with pytest.raises(
        ValueError, match="none of the 24 train clips can be heard: train-4: nowhere.wav: no such file"
    ):
        train_model_router(model, processor, lost, manifests["development"], recipe=recipe)


def changed(manifest, language: str | None, **found):
    """A manifest's utterances with another language where `found` says so."""
    return [
        replace(item, language=language) if item.language == found.get("of", item.language) else item
        for item in read_manifest(manifest)
    ]


@pytest.mark.parametrize(
    ("language", "of", "message"),
    [
        ("de", "it", r"^language 'de' has no label; the router's labels are it, fr$"),
        ("fr", "it", r"^no training clip of it, which the router's labels hold$"),
        (None, "fr", r"^12 utterances have no language, train-1 first$"),
    ],
)
def test_languages_that_do_not_fit_are_refused_and_the_model_stays(
    compose_whisper, manifests, language, of, message
):
    model, processor = compose_whisper(lora_bank=BANK, router_config=ROUTER, encoder_padding="longest")
    before = model.speech_model.router
    with pytest.raises(ValueError, match=message):
        train = changed(manifests["train"], language, of=of)
        train_model_router(model, processor, train, manifests["development"])
    assert model.speech_model.router is before


def test_model_without_bank_or_router_has_to_be_told_the_labels(compose_whisper, manifests):
    model, processor = compose_whisper()
    with pytest.raises(ValueError, match="labels is empty; name what the router tells apart"):
        train_model_router(model, processor, manifests["train"], manifests["development"])


def test_languages_are_those_of_the_adapters_whatever_these_are_called(compose_whisper, manifests):
    bank = {"roma": {**BANK["it"], "language": "it"}, "fr": BANK["fr"]}
    model, processor = compose_whisper(lora_bank=bank, encoder_padding="longest")
    recipe = RouterRecipe(training=replace(TRAINING, max_epochs=1))
    train = changed(manifests["train"], "Italian", of="it")
    facts = train_model_router(model, processor, train, manifests["development"], recipe=recipe)
    assert facts["train"]["clips_by_label"] == {"roma": 12, "fr": 12}
    assert model.config.router_config.labels == ["roma", "fr"]


def test_same_seed_gives_the_same_router_and_a_router_is_trained_afresh(compose_whisper, manifests):
    model, processor = compose_whisper(router_config=ROUTER, encoder_padding="longest")
    weights = []
    for _ in range(2):
        recipe = RouterRecipe(training=replace(TRAINING, max_epochs=2))
        train_model_router(model, processor, manifests["train"], manifests["development"], recipe=recipe)
        weights.append(torch.cat([p.flatten() for p in model.speech_model.router.parameters()]))
        assert model.config.router_config is model.speech_model.router.config
    assert torch.equal(*weights)


def test_save_that_fails_leaves_the_checkpoint_as_it_was(trained, manifests, bases):
    folder, _ = trained
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model = SpeechLLMForConditionalGeneration.from_pretrained(folder, bases=bases)
    processor = SpeechLLMProcessor.from_pretrained(folder)
    recipe = RouterRecipe(training=replace(TRAINING, max_epochs=1, seed=7))
    train_model_router(model, processor, manifests["train"], manifests["development"], recipe=recipe)
    with pytest.raises(TypeError, match="not JSON serializable"):
        router_recipe.save_with_facts(model, processor, {"accuracy": object()}, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    router_recipe.save_with_facts(model, processor, {}, folder)
    assert (folder / "model.safetensors").read_bytes() != before["model.safetensors"]


def test_router_for_other_states_or_labels_is_refused(compose_whisper):
    model, _ = compose_whisper(lora_bank=BANK)
    config = router_recipe.fresh_router(model, RouterRecipe()).config
    with pytest.raises(ValueError, match="a router of 48 channels does not fit an encoder of 32"):
        model.set_router(LanguageRouter(config, 48))
    other = type(config)(labels=["de", "nl"])
    with pytest.raises(ValueError, match="no name in common"):
        model.set_router(LanguageRouter(other, 32))
    assert model.speech_model.router is None and model.config.router_config is None
