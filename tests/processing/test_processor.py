"""The processor: audio and text in, model inputs out, text back; and what stock code expects of it."""

import json

import numpy as np
import pytest
import soundfile
import torch
from speechllm import SpeechLLMProcessor
from speechllm.configuration.configuration_prompt import AUDIO_TOKEN
from speechllm.configuration.configuration_speechllm import SpeechLLMConfig
from speechllm.modeling.adapters.adapter_table import ADAPTERS
from speechllm.modeling.base_loading import LOADING_ARGUMENTS
from speechllm.processing.clip_requests import BridgeRequests
from speechllm.processing.processing_speechllm import MINIMUM_SECONDS, MODEL_ARGUMENTS
from tiny_bases import DECODERS, ENCODER_NAMES
from transformers import AutoProcessor

RATE = 16000
# Around the shortest clip, around hops and strides, and odd ones.
LENGTHS = [1, 159, 399, 400, 401, 1599, 1600, 1601, 1759, 1760, 4000, 7919, 8000, 15999, 16000, 16001, 33333]


@pytest.fixture(scope="module")
def processor(parts):
    return parts[1]


# --- lengths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("encoder", ENCODER_NAMES)
@torch.no_grad()
def test_placeholders_are_counted_as_they_are_made(compose, encoder, adapter):
    model, processor = compose(encoder, adapter=adapter)
    lengths = LENGTHS if adapter == "mlp" else LENGTHS[::4]
    noise = 0.1 * np.random.default_rng(0).standard_normal(max(lengths)).astype(np.float32)
    inputs = processor.apply_transcription_request([noise[:length] for length in lengths])
    made = (inputs["input_ids"] == processor.audio_token_id).sum(-1).tolist()
    assert [processor.num_audio_tokens(length) for length in lengths] == made
    speech = model.get_audio_features(inputs["input_features"], inputs["input_features_mask"])
    assert speech.lengths.tolist() == made
    assert min(made) > 0
    assert speech.pooler_output.isfinite().all()


def test_the_longest_clip_of_whisper_fits(parts):
    model, processor = parts
    inputs = processor.apply_transcription_request(np.ones(30 * RATE, np.float32) * 0.1)
    assert inputs["input_features_mask"].sum() == 3000
    assert model.generate(**inputs, max_new_tokens=1).shape[0] == 1


def test_clips_that_are_too_short_are_followed_by_silence(processor, clips):
    whole = round(MINIMUM_SECONDS * RATE)
    short = clips[0][: whole // 3]
    padded = np.pad(short, (0, whole - len(short)))
    assert processor(short)["input_features"].equal(processor(padded)["input_features"])
    assert processor.num_audio_tokens(1) == processor.num_audio_tokens(whole) > 0


def test_batch_holds_the_features_each_clip_has_alone(processor, clips):
    together = processor(clips)
    for row, clip in enumerate(clips):
        alone = processor(clip)
        frames = int(alone["input_features_mask"].sum())
        assert together["input_features_mask"][row].sum() == frames
        torch.testing.assert_close(
            together["input_features"][row, :, :frames], alone["input_features"][0, :, :frames]
        )


# --- calls ----------------------------------------------------------------------------------------------


def test_clips_are_anything_that_holds_sound(processor, clips, tmp_path):
    soundfile.write(tmp_path / "clip.wav", clips[1], RATE, subtype="FLOAT")
    expected = processor(clips[1])["input_features"]
    forms = (
        tmp_path / "clip.wav",
        str(tmp_path / "clip.wav"),
        torch.tensor(clips[1]),
        list(clips[1]),
        clips[1].tolist(),
        {"array": clips[1], "sampling_rate": RATE},
    )
    for form in forms:
        assert processor(form)["input_features"].equal(expected)
        assert processor([form])["input_features"].equal(expected)
    narrow = processor(clips[1][::2], sampling_rate=8000)
    assert narrow["input_features"].shape == expected.shape


def test_text_alone_audio_alone_and_both(processor, clips):
    assert set(processor(clips[0])) == {"input_features", "input_features_mask"}
    assert set(processor(text="hello")) == {"input_ids", "attention_mask"}
    both = processor(clips[:2], text=[f"a {AUDIO_TOKEN}", f"{AUDIO_TOKEN} b"])
    assert set(both) == set(processor.model_input_names)
    counts = (both["input_ids"] == processor.audio_token_id).sum(-1).tolist()
    assert counts == [processor.num_audio_tokens(len(clip)) for clip in clips[:2]]
    one = processor(clips[:2], text=f"{AUDIO_TOKEN} and {AUDIO_TOKEN}")
    assert (one["input_ids"] == processor.audio_token_id).sum() == sum(counts)


def test_padding_is_on_the_side_that_is_asked_for(processor):
    left = processor(text=["a", "bcd"])
    right = processor(text=["a", "bcd"], padding_side="right")
    assert left["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]
    assert right["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert left["input_ids"][0].flip(0).tolist() == right["input_ids"][0].tolist()


def test_numpy_is_returned_where_asked_for(processor, clips):
    inputs = processor.apply_transcription_request(clips[0], return_tensors="np")
    assert all(isinstance(value, np.ndarray) for value in inputs.values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, clips: p(), "pass audio, text or both"),
        (lambda p, clips: p([]), "no clips to process"),
        (lambda p, clips: p(clips[0], sampling_rte=8000), "no field 'sampling_rte'"),
        (lambda p, clips: p(clips[:2], text=AUDIO_TOKEN), "2 clips for 1 audio slots"),
        (lambda p, clips: p(clips[0], text="no slot"), "1 clips for 0 audio slots"),
        (lambda p, clips: p(text=AUDIO_TOKEN), "0 clips for 1 audio slots"),
        (lambda p, clips: p("nowhere.wav"), "nowhere.wav: no such file"),
        (lambda p, clips: p.apply_transcription_request([]), "no clips to process"),
        (
            lambda p, clips: p.apply_transcription_request(clips[:3], language=["it"]),
            "1 languages for 3 clips",
        ),
        (lambda p, clips: p.apply_transcription_request(clips[:1], task=["a", "b"]), "2 tasks for 1 clips"),
        (lambda p, clips: p.apply_transcription_request(clips[:2], prompt=["a"]), "1 prompts for 2 clips"),
        (lambda p, clips: p.apply_training_request(clips[:2], ["a"]), "1 targets for 2 clips"),
        (lambda p, clips: p.apply_training_request(clips[:2], "a"), "1 targets for 2 clips"),
    ],
)
def test_what_does_not_fit_together_is_refused(processor, clips, call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call(processor, clips)
    assert "\n" not in str(caught.value)


# --- training -------------------------------------------------------------------------------------------


def test_labels_are_the_answer_and_its_end_alone(processor, clips):
    targets = ["one", "seventeen", ""]
    batch = processor.apply_training_request(clips[:3], targets)
    end = processor.tokenizer.eos_token_id
    for row, target in enumerate(targets):
        ids, labels, mask = (batch[name][row] for name in ("input_ids", "labels", "attention_mask"))
        answer = [*processor.tokenizer(target, add_special_tokens=False).input_ids, end]
        assert labels[labels != -100].tolist() == answer
        assert ids[labels != -100].tolist() == answer
        # Right padding: real tokens first, and the answer is the last of them.
        real = int(mask.sum())
        assert mask.tolist() == [1] * real + [0] * (len(mask) - real)
        assert (labels[: real - len(answer)] == -100).all()
        assert (labels[real:] == -100).all()
        assert (labels[ids == processor.audio_token_id] == -100).all()


@pytest.mark.parametrize("decoder", DECODERS)
def test_loss_is_finite_for_every_decoder(compose, clips, decoder):
    model, processor = compose(decoder=decoder)
    model.train()
    loss = model(**processor.apply_training_request(clips[:3], ["a", "bc", "def"])).loss
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.model.adapter.parameters())


def test_padding_of_a_training_batch_changes_no_loss(parts, clips):
    model, processor = parts
    model.eval()
    targets = ["one", "a longer one"]
    together = processor.apply_training_request(clips[:2], targets)
    with torch.no_grad():
        loss = model(**together).loss * (together["labels"] != -100).sum()
        alone = sum(
            model(**batch).loss * (batch["labels"] != -100).sum()
            for batch in (
                processor.apply_training_request(*pair) for pair in zip(clips, targets, strict=False)
            )
        )
    torch.testing.assert_close(loss, alone)


def test_two_clips_can_be_learnt_by_heart(compose, clips):
    # A random decoder of this size can't be steered through its inputs alone: LoRA helps the adapter.
    model, processor = compose(lora_config={"decoder": {"r": 8}})
    targets = ["yes", "no way"]
    batch = processor.apply_training_request(clips[1:3], targets)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    model.train()
    for _ in range(150):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    model.eval()
    inputs = processor.apply_transcription_request(clips[1:3])
    new = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
    assert processor.batch_decode(new) == targets


# --- what stock code expects ----------------------------------------------------------------------------


def test_transformers_serve_gets_new_tokens_and_text(parts, clips):
    model, processor = parts
    rate = processor.feature_extractor.sampling_rate
    assert rate == processor.sampling_rate == RATE
    inputs = processor(clips[2], sampling_rate=rate, return_tensors="pt").to(model.device)
    assert "input_features" in inputs
    new = model.generate(**inputs)
    asked = processor.apply_transcription_request(clips[2])
    whole = model.generate(**asked)
    assert whole[0, asked["input_ids"].shape[1] :].tolist() == new[0].tolist()
    assert whole[0, : asked["input_ids"].shape[1]].tolist() == asked["input_ids"][0].tolist()
    text = processor.batch_decode(new, skip_special_tokens=True)[0]
    assert text == processor.decode(new[0])


@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_features_have_one_name_whatever_the_encoder(compose, clips, encoder):
    model, processor = compose(encoder)
    inputs = processor(clips[0], sampling_rate=RATE, return_tensors="pt")
    assert set(inputs) == {"input_features", "input_features_mask"}
    assert model.generate(**inputs, max_new_tokens=2).shape == (1, 2)


def test_prompts_padded_on_either_side_give_the_same_text(parts, clips):
    model, processor = parts
    texts = [processor.apply_transcription_request(clip) for clip in clips[:3]]
    prompts = BridgeRequests(processor).texts(3, None, None, None)
    rows = []
    for side in ("left", "right"):
        inputs = processor(clips[:3], text=prompts, padding_side=side)
        rows.append(model.generate(**inputs, max_new_tokens=8)[:, inputs["input_ids"].shape[1] :].tolist())
    assert rows[0] == rows[1]
    for row, alone in zip(rows[0], texts, strict=True):
        new = model.generate(**alone, max_new_tokens=8)[0, alone["input_ids"].shape[1] :].tolist()
        assert row[: len(new)] == new


def test_evaluating_trainer_gets_new_tokens_for_a_training_batch(parts, clips):
    model, processor = parts
    batch = processor.apply_training_request(clips[:3], ["one", "seventeen", "x"], language="it")
    new = model.generate(**batch, max_new_tokens=8)
    asked = processor.apply_transcription_request(clips[:3], language="it")
    expected = model.generate(**asked, max_new_tokens=8)[:, asked["input_ids"].shape[1] :]
    assert new.tolist() == expected.tolist()


def test_ids_become_text_without_special_tokens(processor):
    tokenizer = processor.tokenizer
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in ("ab<|im_end|>", "c")]
    assert processor.decode(ids[0]) == "ab"
    assert processor.decode(ids[0], skip_special_tokens=False) == "ab<|im_end|>"
    padded = torch.tensor([ids[0], ids[1] + [tokenizer.pad_token_id] * (len(ids[0]) - 1)])
    assert processor.batch_decode(padded) == ["ab", "c"]
    assert processor.batch_decode(padded, skip_special_tokens=True) == ["ab", "c"]


# --- construction and files -----------------------------------------------------------------------------


def test_arguments_of_the_model_alone_are_those_of_the_model():
    assert MODEL_ARGUMENTS == LOADING_ARGUMENTS


def test_config_without_bases_gives_no_processor():
    with pytest.raises(ValueError, match="names no base: build it with from_bases") as refusal:
        SpeechLLMProcessor.from_config(SpeechLLMConfig())
    assert "\n" not in str(refusal.value)


def test_from_bases_takes_the_arguments_of_the_model(bases):
    names = ("tiny/whisper", "tiny/llama_tied", "mlp")
    plain = SpeechLLMProcessor.from_bases(*names, bases=bases, stack_factor=2)
    same = SpeechLLMProcessor.from_bases(
        *names, bases=bases, stack_factor=2, dtype=torch.bfloat16, device_map="cpu",
        attn_implementation="eager", token=None, local_files_only=True,
    )  # fmt: skip
    assert same.input_steps == plain.input_steps
    assert plain.num_audio_tokens(RATE) == 25
    with pytest.raises(ValueError, match="no field 'stack_faktor'; did you mean 'stack_factor'"):
        SpeechLLMProcessor.from_bases(*names, bases=bases, stack_faktor=2)


@pytest.mark.parametrize("decoder", ["llama_tied", "gpt2"])
@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_saved_processor_comes_back(compose, clips, tmp_path, encoder, decoder):
    model, processor = compose(
        encoder, decoder, prompt_config={"system": "Write.", "language": " ({language})"}
    )
    processor.save_pretrained(tmp_path)
    expected = processor.apply_transcription_request(clips[:2], language="it")
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["prompt"] == {**saved["prompt"], "system": "Write.", "language": " ({language})"}
    assert saved["input_steps"] == processor.input_steps
    assert saved["auto_map"] == {"AutoProcessor": "processing_speechllm.SpeechLLMProcessor"}
    again = SpeechLLMProcessor.from_pretrained(tmp_path)
    again.check_matches(model.config)
    inputs = again.apply_transcription_request(clips[:2], language="it")
    assert all(inputs[name].equal(expected[name]) for name in expected)
    assert again.num_audio_tokens(12345) == processor.num_audio_tokens(12345)
    again.save_pretrained(tmp_path / "again")
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_stock_class_loads_the_processor_beside_its_model(parts, clips, tmp_path):
    model, processor = parts
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is SpeechLLMProcessor
    expected = processor.apply_transcription_request(clips[0])
    assert again.apply_transcription_request(clips[0])["input_ids"].equal(expected["input_ids"])


def test_steps_that_cannot_be_followed_are_refused(processor):
    with pytest.raises(ValueError, match="is not a length step"):
        SpeechLLMProcessor(processor.feature_extractor, processor.tokenizer, input_steps=[["stack", 4]])


def test_audio_token_of_another_model_is_refused(parts, processor):
    other = SpeechLLMProcessor(
        processor.feature_extractor, processor.tokenizer, feature_steps=processor.feature_steps,
        input_steps=processor.input_steps,
    )  # fmt: skip
    other.check_matches(parts[0].config)
    other.audio_token_id += 1
    with pytest.raises(ValueError, match=r"audio token is \d+, the model's \d+: they are not of one"):
        other.check_matches(parts[0].config)


def test_processor_of_a_base_is_none_of_ours(bases, compose, clips):
    _, processor = compose()
    with pytest.raises(ValueError, match="no processor of a speech LLM"):
        SpeechLLMProcessor(processor.feature_extractor, processor.tokenizer)
    with pytest.raises(ValueError, match="a target holds the audio slot"):
        processor.apply_training_request(clips[0], "so <|audio|> said")
