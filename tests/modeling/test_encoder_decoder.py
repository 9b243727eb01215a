"""Whisper as a whole: exactly stock where nothing was trained, on the clips' own length where it was."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from speechllm import (
    SpeechLLMConfig,
    SpeechLLMForConditionalGeneration,
    SpeechLLMPipeline,
    SpeechLLMProcessor,
)
from speechllm.configuration.whisper_tokens import WhisperTokens
from speechllm.modeling.adapters.adapter_table import DECODER_ADAPTERS
from subprocesses import run_python
from transformers import AutoModel, GenerationConfig, WhisperForConditionalGeneration

KINDS = sorted(DECODER_ADAPTERS)
RATE = {"sampling_rate": 16000}
ASR = "tiny/whisper_asr"


@pytest.fixture(scope="module")
def stock(bases):
    return WhisperForConditionalGeneration.from_pretrained(bases / "tiny--whisper_asr").eval()


@pytest.fixture(scope="module", params=KINDS)
def parts(request, compose_whisper):
    return compose_whisper(request.param)


@pytest.fixture(scope="module")
def plain(compose_whisper):
    return compose_whisper()


@pytest.fixture(scope="module")
def short(compose_whisper):
    return compose_whisper(encoder_padding="longest")


def stock_features(processor, clips):
    """The stock extractor's features of 30 s."""
    return processor.feature_extractor(list(clips), sampling_rate=16000, return_tensors="pt").input_features


@torch.no_grad()
def test_logits_are_the_stock_models_bit_for_bit(parts, stock, clips):
    model, processor = parts
    features = stock_features(processor, clips)
    ids = torch.randint(0, 300, (len(clips), 7))
    assert torch.equal(
        model(input_features=features, decoder_input_ids=ids).logits,
        stock(features, decoder_input_ids=ids).logits,
    )


@torch.no_grad()
def test_states_of_the_encoder_may_be_given_with_their_mask(short, clips):
    model, processor = short
    request = processor(clips[2:5])
    features = {name: request[name] for name in ("input_features", "input_features_mask")}
    speech, mask = model.model.family.encode(model.model, **features)
    given = {"encoder_outputs": (speech,), "encoder_attention_mask": mask}
    ids = torch.randint(0, 300, (3, 7))
    hidden = model.model(**features, decoder_input_ids=ids).last_hidden_state
    assert torch.equal(model.model(**given, decoder_input_ids=ids).last_hidden_state, hidden)
    logits = model(**features, decoder_input_ids=ids).logits
    assert torch.equal(model(**given, decoder_input_ids=ids).logits, logits)
    # Without it the shorter clips hear their padding.
    unmasked = model(encoder_outputs=(speech,), decoder_input_ids=ids).logits
    assert [torch.allclose(*rows, atol=1e-6) for rows in zip(unmasked, logits, strict=True)] == [
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"task": "translate"}])
def test_text_is_the_stock_models(plain, stock, clips, settings):
    model, processor = plain
    asked = {"language": "it", "task": "transcribe", "max_new_tokens": 20, **settings}
    features = stock_features(processor, clips)
    expected = stock.generate(features, **asked)
    new = model.generate(features, **asked, stop_loops=False)
    # The stock method leaves the end token out of what it returns.
    assert new[:, : expected.shape[1]].tolist() == expected.tolist()
    assert len({token for row in new.tolist() for token in row}) > 1


def test_timestamps_stand_among_the_ids_as_the_stock_model_writes_them(plain, stock, clips):
    model, processor = plain
    features = stock_features(processor, clips)
    asked = {"language": "it", "task": "transcribe", "return_timestamps": True}
    new = model.generate(features, **asked, max_new_tokens=15)
    # The stock method goes on behind the first window, from where its last timestamp is.
    assert new[:, :9].tolist() == stock.generate(features, **asked, max_new_tokens=15)[:, :9].tolist()
    assert (new > stock.generation_config.no_timestamps_token_id).any()


def test_features_of_the_clips_length_give_the_text_of_30_s(plain, stock, clips):
    model, processor = plain
    inputs = processor.apply_transcription_request(clips, language="it", task="transcribe", **RATE)
    assert inputs["input_features"].shape[2] < 500
    expected = stock.generate(
        stock_features(processor, clips), language="it", task="transcribe", max_new_tokens=12
    )
    new = model.generate(**inputs, max_new_tokens=12, stop_loops=False)
    assert processor.batch_decode(new) == processor.batch_decode(expected)


def test_the_language_that_the_stock_model_detects(plain, stock, clips):
    model, processor = plain
    features = stock_features(processor, clips)
    expected = [processor.tokenizer.decode(one) for one in stock.detect_language(features)]
    found = model.generate(features, max_new_tokens=2, return_dict_in_generate=True).language
    assert [f"<|{code}|>" for code in found] == expected


def test_languages_may_differ_by_clip_and_be_left_open(plain, clips):
    model, processor = plain
    features = stock_features(processor, clips[:3])
    mixed = model.generate(
        features, language=["it", None, "Greek"], max_new_tokens=9, return_dict_in_generate=True
    )
    assert mixed.language[0] == "it" and mixed.language[1] in ("en", "it", "fr", "be", "el")
    for row, language in enumerate(mixed.language):
        alone = model.generate(features[row : row + 1], language=language, max_new_tokens=9)[0]
        assert mixed.sequences[row, : len(alone)].tolist() == alone.tolist()


@torch.no_grad()
def test_a_clip_in_a_short_batch_gives_the_text_it_gives_alone(short, clips):
    model, processor = short
    together = model.generate(
        **processor.apply_transcription_request(clips, language="fr", **RATE), max_new_tokens=15
    )
    for row, clip in enumerate(clips):
        inputs = processor.apply_transcription_request(clip, language="fr", **RATE)
        alone = model.generate(**inputs, max_new_tokens=15)[0]
        assert together[row, : len(alone)].tolist() == alone.tolist()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_is_hidden_from_the_decoder(compose_whisper, clips, attention):
    model, processor = compose_whisper(encoder_padding="longest")
    model.causal_lm.config._attn_implementation = attention
    clips = [clips[0], clips[5]]
    batch = processor.apply_training_request(clips, ["ab", "c"], language="it", **RATE)
    together = model(**batch).logits
    for row, (clip, text) in enumerate(zip(clips, ["ab", "c"], strict=True)):
        alone = model(**processor.apply_training_request(clip, text, language="it", **RATE)).logits[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_with_and_without_the_cache_the_text_is_the_same(short, clips):
    model, processor = short
    inputs = processor.apply_transcription_request(clips, language="be", **RATE)
    cached = model.generate(**inputs, max_new_tokens=12, num_beams=2)
    assert torch.equal(cached, model.generate(**inputs, max_new_tokens=12, num_beams=2, use_cache=False))


@torch.no_grad()
def test_words_that_may_occur_come_before_the_start(plain, stock, clips):
    model, processor = plain
    features = stock_features(processor, clips[:2])
    words = torch.tensor(processor.tokenizer(" pound key", add_special_tokens=False).input_ids)
    before = torch.cat([torch.tensor([stock.generation_config.prev_sot_token_id]), words])
    asked = {"language": "it", "task": "transcribe", "max_new_tokens": 8}
    new = model.generate(features, prompt_ids=words, **asked, stop_loops=False).tolist()
    assert new == stock.generate(features, prompt_ids=before, **asked).tolist()
    assert new != model.generate(features, **asked, stop_loops=False).tolist()


def test_training_rows_carry_the_stock_prefix_once_and_train_the_end(plain, clips):
    _, processor = plain
    batch = processor.apply_training_request(clips[:2], ["abc", "d"], language=["it", "el"], **RATE)
    text = processor.tokenizer.batch_decode(batch["decoder_prompt_ids"])
    assert text == [f"<|startoftranscript|><|{code}|><|transcribe|><|notimestamps|>" for code in ("it", "el")]
    assert processor.tokenizer.decode(batch["labels"][0]) == "abc<|endoftext|>"
    assert (batch["labels"][1] == -100).sum() == 2


def test_a_processor_and_a_generation_config_make_the_same_prompts(plain):
    model, processor = plain
    ours = WhisperTokens.from_tokenizer(processor.tokenizer)
    models = WhisperTokens.from_generation_config(model.generation_config)
    for asked in ({"language": "it"}, {"language": "French", "task": "translate"}, {"timestamps": True}):
        assert ours.prompt(**asked) == models.prompt(**asked)


def test_loss_is_the_stock_loss_over_the_transcript(plain, stock, clips):
    model, processor = plain
    batch = processor.apply_training_request(clips[:3], ["abc", "d", ""], language="it", **RATE)
    prompt, labels = batch["decoder_prompt_ids"], batch["labels"]
    whole = torch.cat([torch.full_like(prompt[:, 1:], -100), labels], dim=1)
    ids = torch.cat([prompt, labels[:, :-1].masked_fill(labels[:, :-1] == -100, 0)], dim=1)
    features = stock_features(processor, clips[:3])
    expected = stock(features, decoder_input_ids=ids, labels=whole).loss
    batch["input_features"], batch["input_features_mask"] = features, None
    torch.testing.assert_close(model(**batch).loss, expected)
    count = (labels != -100).sum()
    torch.testing.assert_close(model(**batch, num_items_in_batch=2 * count).loss, expected / 2)


def test_evaluating_trainer_gets_new_tokens_in_the_clips_language(plain, clips):
    model, processor = plain
    batch = processor.apply_training_request(clips[:3], ["ab", "c", "d"], language=["it", "el", "fr"], **RATE)
    asked = processor.apply_transcription_request(clips[:3], language=["it", "el", "fr"], **RATE)
    expected = model.generate(**asked, max_new_tokens=6)
    assert model.generate(**batch, max_new_tokens=6).tolist() == expected.tolist()


def test_contexts_of_different_lengths_do_not_disturb_each_other(short, clips):
    model, processor = short
    words = ["one two three", None]
    batch = processor.apply_training_request(clips[:2], ["ab", "cd"], language="it", prompt=words, **RATE)
    assert batch["decoder_prompt_mask"].sum(-1).tolist() != [batch["decoder_prompt_ids"].shape[1]] * 2
    with torch.no_grad():
        together = model(**batch).logits
        for row in range(2):
            one = processor.apply_training_request(
                clips[row], ["ab", "cd"][row], language="it", prompt=words[row], **RATE
            )
            torch.testing.assert_close(together[row], model(**one).logits[0], atol=2e-5, rtol=1e-4)


def test_recordings_longer_than_the_encoder_go_through_the_stock_algorithm(plain, stock, clips):
    model, processor = plain
    long = np.concatenate(list(clips) * 4)
    features = processor.feature_extractor(
        [long], sampling_rate=16000, truncation=False, padding="longest", return_tensors="pt",
        return_attention_mask=True,
    )  # fmt: skip
    asked = {"language": "it", "task": "transcribe", "return_timestamps": True, "max_new_tokens": 20}
    new = model.generate(features.input_features, features.attention_mask, **asked)
    assert torch.equal(new, stock.generate(**features, **asked))


def test_the_pipeline_gives_times_in_the_recording_and_languages(plain, clips):
    asr = SpeechLLMPipeline(*plain)
    long = {"array": np.concatenate(list(clips) * 3), "sampling_rate": 16000}
    result = asr(long, return_timestamps=True, return_language=True, max_new_tokens=12)
    times = [time for chunk in result["chunks"] for time in chunk["timestamp"]]
    assert times == sorted(times) and times[-1] <= len(long["array"]) / 16000 + 0.001
    assert result["language"] in ("en", "it", "fr", "be", "el")
    assert asr(long, language="it", return_language=True, max_new_tokens=4)["language"] == "it"


@pytest.mark.parametrize("included", [False, True])
def test_three_generations_write_the_same_bytes_and_files(parts, bases, tmp_path, clips, included):
    model, processor = parts
    inputs = processor.apply_transcription_request(clips[:2], language="it", **RATE)
    expected = model.generate(**inputs, max_new_tokens=6)
    held = []
    for generation in range(3):
        folder = tmp_path / str(generation)
        model.save_pretrained(folder, include_bases=included)
        processor.save_pretrained(folder)
        held.append({path.name: path.read_bytes() for path in folder.iterdir()})
        model = SpeechLLMForConditionalGeneration.from_pretrained(folder, bases=bases)
        processor = SpeechLLMProcessor.from_pretrained(folder)
    assert set(held[0]) == set(held[2])
    assert held[0]["model.safetensors"] == held[2]["model.safetensors"]
    assert torch.equal(model.generate(**inputs, max_new_tokens=6), expected)
    assert model.generation_config.to_dict() == GenerationConfig.from_pretrained(folder).to_dict()
    if not included:
        assert not any(
            key.startswith("model.language_model") for key in load_file(folder / "model.safetensors")
        )


def test_the_model_without_a_head_loads_from_the_same_folder(plain, bases, tmp_path, clips):
    model, processor = plain
    model.save_pretrained(tmp_path)
    body = AutoModel.from_pretrained(tmp_path, bases=bases)
    features = stock_features(processor, clips[:1])
    ids = torch.tensor([[300, 5, 6]])
    with torch.no_grad():
        hidden = body(input_features=features, decoder_input_ids=ids).last_hidden_state
        expected = model(input_features=features, decoder_input_ids=ids).logits
        torch.testing.assert_close(model.lm_head(hidden), expected)


LOAD = """
import os, sys
import numpy as np
from transformers import pipeline
asr = pipeline("automatic-speech-recognition", model=os.environ["CHECKPOINT"], trust_remote_code=True)
assert "speechllm" not in sys.modules
print(repr(asr(np.sin(np.arange(16000) / 9).astype("float32"), language="it", max_new_tokens=6)["text"]))
"""


@pytest.mark.slow
def test_checkpoint_loads_where_speechllm_is_not_installed(parts, bases, tmp_path):
    model, processor = parts
    model.save_pretrained(tmp_path / "ck")
    processor.save_pretrained(tmp_path / "ck")
    environment = {"CHECKPOINT": str(tmp_path / "ck"), "SPEECHLLM_BASES": str(bases)}
    out = run_python(LOAD, environment, without_package=True)
    tone = np.sin(np.arange(16000) / 9).astype("float32")
    assert out.strip().splitlines()[-1] == repr(
        SpeechLLMPipeline(model, processor)(tone, language="it", max_new_tokens=6)["text"]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tiny/hubert_base", None, "cross_attention"), "such as whisper, not in a hubert"),
        ((ASR, "tiny/llama", "cross_attention"), "lives inside one encoder-decoder"),
        ((ASR, None, "mlp"), "bridges into a language model: name one as decoder"),
        ((ASR, ASR, "mlp"), "must be a causal language model"),
    ],
)
def test_bases_of_the_wrong_family_are_refused(bases, arguments, message):
    with pytest.raises(ValueError, match=message):
        SpeechLLMConfig.from_bases(*arguments, bases=bases)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"language": "tlh"}, "no language 'tlh'; there are be, el, en, fr, it"),
        ({"language": ["it"]}, "1 languages for 2 clips"),
        ({"task": "sing"}, "no task 'sing'; there are transcribe, translate"),
        ({"prompt_ids": [5] * 460}, "leaves no room for text"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(plain, clips, asked, message):
    model, processor = plain
    with pytest.raises(ValueError, match=message):
        model.generate(stock_features(processor, clips[:2]), max_new_tokens=2, **asked)


def test_a_target_without_its_language_is_refused(plain, clips):
    _, processor = plain
    with pytest.raises(ValueError, match="a target needs its language"):
        processor.apply_training_request(clips[0], "a", **RATE)
