"""Every encoder: stock numbers on one clip, the same numbers in a padded batch, lengths as counted."""

import pytest
import torch
from speechllm.configuration.encoder_specs import ENCODER_SPECS, encoder_spec
from speechllm.configuration.speech_lengths import chain_length
from speechllm.modeling.encoders.encoder_table import ENCODERS
from speechllm.processing.speech_features import FEATURES, extract_features
from tiny_bases import ENCODER_NAMES
from transformers import AutoFeatureExtractor, AutoModel, SpeechT5ForSpeechToText, WhisperModel


@pytest.fixture(params=ENCODER_NAMES)
def encoder(request, bases):
    """`(tower, feature extractor, folder)` of one family."""
    folder = bases / f"tiny--{request.param}"
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    kind = AutoModel.from_pretrained(folder).config.model_type
    tower_class = ENCODERS[kind]
    options = {"key_mapping": tower_class.KEY_MAPPING} if tower_class.KEY_MAPPING else {}
    return tower_class.from_pretrained(folder, **options).eval(), extractor, folder


def encode(tower, extractor, waveforms):
    features, mask = extract_features(extractor, waveforms)
    return tower(features, mask.sum(-1)).last_hidden_state, mask.sum(-1)


@torch.no_grad()
def test_padded_batch_gives_each_clip_what_it_gets_alone(encoder, clips):
    tower, extractor, _ = encoder
    together, lengths = encode(tower, extractor, clips)
    frames = chain_length(lengths, encoder_spec(tower.config).frame_steps(tower.config))
    for row, clip in enumerate(clips):
        alone, _ = encode(tower, extractor, [clip])
        assert alone.shape[1] == frames[row]
        torch.testing.assert_close(together[row, : frames[row]], alone[0], atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_one_clip_gives_what_the_stock_model_gives(encoder, clips):
    tower, extractor, folder = encoder
    features, mask = extract_features(extractor, [clips[3]])
    if tower.config.model_type == "whisper":
        pytest.skip("stock Whisper refuses anything but 30 s; see the test of pad_to_maximum")
    if tower.config.model_type == "speecht5":
        stock = SpeechT5ForSpeechToText.from_pretrained(folder).eval().speecht5.encoder
    else:
        stock = AutoModel.from_pretrained(folder).eval()
    expected = stock(features, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(
        tower(features, mask.sum(-1)).last_hidden_state, expected, atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_whisper_padded_to_the_maximum_is_stock_whisper(bases, clips):
    folder = bases / "tiny--whisper"
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    tower_class = ENCODERS["whisper"]
    tower = tower_class.from_pretrained(folder, key_mapping=tower_class.KEY_MAPPING).eval()
    stock = WhisperModel.from_pretrained(folder).eval().encoder
    features, mask = extract_features(extractor, clips)
    expected = stock(
        extractor(clips, sampling_rate=16000, return_tensors="pt").input_features
    ).last_hidden_state
    states = tower(features, mask.sum(-1), pad_to_maximum=True).last_hidden_state
    torch.testing.assert_close(states, expected[:, : states.shape[1]], atol=1e-4, rtol=1e-4)


def test_whisper_features_are_the_first_frames_of_the_stock_ones(bases, clips):
    extractor = AutoFeatureExtractor.from_pretrained(bases / "tiny--whisper")
    features, mask = extract_features(extractor, clips)
    stock = extractor(clips, sampling_rate=16000, return_tensors="pt").input_features
    for row, frames in enumerate(mask.sum(-1).tolist()):
        torch.testing.assert_close(features[row, :, :frames], stock[row, :, :frames], atol=1e-5, rtol=1e-5)


def test_lengths_are_those_of_the_real_features_and_states(encoder, clips):
    tower, extractor, _ = encoder
    spec = encoder_spec(tower.config)
    states, inputs = encode(tower, extractor, clips)
    samples = torch.tensor([len(clip) for clip in clips])
    assert (
        chain_length(samples, spec.feature_steps(extractor)).tolist()
        == (inputs if spec.feature_steps(extractor) else samples).tolist()
    )
    assert states.shape[1] == chain_length(inputs, spec.frame_steps(tower.config)).max()


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_frozen_towers_do_not_mask_or_drop_while_the_adapter_trains(name, compose, clips):
    """The tiny towers ask for masking, layerdrop and dropout, as published ones do."""
    model, processor = compose(name)
    inputs = dict(processor(clips))
    expected = model.get_audio_features(**inputs).last_hidden_state
    model.train()
    states = model.get_audio_features(**inputs).last_hidden_state
    model.eval()
    assert torch.equal(states, expected)


def test_tables_of_encoders_agree():
    assert set(ENCODERS) == set(ENCODER_SPECS)


def test_every_tiny_encoder_has_a_way_to_its_features(bases):
    extractors = {
        type(AutoFeatureExtractor.from_pretrained(bases / f"tiny--{n}")).__name__ for n in ENCODER_NAMES
    }
    assert extractors == set(FEATURES)
