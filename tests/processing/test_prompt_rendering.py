"""The prompt: one layout for training and inference, whatever tokenizer the decoder has."""

import re

import pytest
from speechllm import SpeechLLMConfig, SpeechLLMProcessor
from speechllm.configuration.configuration_prompt import AUDIO_TOKEN, PromptConfig
from tiny_bases import CHAT_TEMPLATE, DECODERS, tiny_tokenizer
from tokenizers.processors import TemplateProcessing

QUESTION = f"{AUDIO_TOKEN}\nTranscribe the speech"
THOUGHT = "<think>\n\n</think>\n\n"


@pytest.fixture(scope="module")
def processor(compose):
    return compose()[1]


def prompts(processor, clips, **slots) -> list[str]:
    """The rendered prompts of `clips`, padding left out and each slot one placeholder wide."""
    inputs = processor.apply_transcription_request(clips, **slots)
    texts = []
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        text = processor.tokenizer.decode(ids[mask.bool()])
        count = text.count(AUDIO_TOKEN)
        assert AUDIO_TOKEN * count in text
        texts.append(text.replace(AUDIO_TOKEN * count, AUDIO_TOKEN))
    return texts


def test_chat_template_wraps_the_question_and_thinking_is_off(processor, clips):
    expected = f"<|im_start|>user\n{QUESTION}.<|im_end|>\n<|im_start|>assistant\n{THOUGHT}"
    assert prompts(processor, clips[:2]) == [expected, expected]


def test_plain_text_where_there_is_no_template(compose, clips):
    assert prompts(compose(decoder="gpt2")[1], clips[:1]) == [f"{QUESTION}.\n"]


def test_plain_text_where_the_layout_asks_for_it(compose, clips):
    plain = compose(prompt_config={"chat": False, "system": "You write."})[1]
    assert prompts(plain, clips[:1]) == [f"You write.\n{QUESTION}.\n"]


def with_start(template=None):
    """A tokenizer that begins whatever it is given with its BOS."""
    tokenizer = tiny_tokenizer(template, pad=True)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
    )
    return tokenizer


@pytest.mark.parametrize("template", [None, CHAT_TEMPLATE], ids=["plain", "chat"])
def test_plain_text_starts_as_the_tokenizer_starts_text(template):
    assert PromptConfig(chat=False).render(tiny_tokenizer(template)) == f"{QUESTION}.\n"
    assert PromptConfig(chat=False).render(with_start(template)) == f"<|endoftext|>{QUESTION}.\n"


def test_start_is_written_once_and_never_before_the_answer(processor, clips):
    tokenizer = with_start()
    own = SpeechLLMProcessor(
        processor.feature_extractor, tokenizer, feature_steps=processor.feature_steps,
        input_steps=processor.input_steps,
    )  # fmt: skip
    start = tokenizer.bos_token_id
    ids = own.apply_transcription_request(clips[0])["input_ids"][0].tolist()
    assert ids[0] == start
    assert ids.count(start) == 1
    # Its BOS is its EOS as well, as with GPT-2: one before the prompt, one behind the answer.
    taught = own.apply_training_request(clips[0], "one")
    assert taught["input_ids"][0].tolist().count(start) == 2
    assert taught["labels"][0, -1] == start
    conversation_text = own.apply_chat_template([{"role": "user", "content": "Hello"}])
    assert conversation_text == "<|endoftext|>Hello\n"


@pytest.mark.parametrize(
    ("slots", "question"),
    [
        ({}, "Transcribe the speech."),
        ({"language": "it"}, "Transcribe the speech in Italian."),
        ({"language": "IT"}, "Transcribe the speech in Italian."),
        ({"language": "Sicilian"}, "Transcribe the speech in Sicilian."),
        ({"task": "translate"}, "Translate the speech into English."),
        ({"task": "translate", "language": "ar"}, "Translate the speech in Arabic into English."),
        ({"task": "describe", "language": "ar"}, "Describe the audio."),
        ({"task": None}, "Transcribe the speech."),
        ({"prompt": "etcd, {braces}"}, "Transcribe the speech. These words may occur: etcd, {braces}."),
    ],
)
def test_slots_are_filled(processor, clips, slots, question):
    assert f"{AUDIO_TOKEN}\n{question}<|im_end|>" in prompts(processor, clips[:1], **slots)[0]


def test_every_clip_may_have_a_language_prompt_and_task_of_its_own(processor, clips):
    slots = {
        "language": ["it", None, "fr"],
        "task": ["transcribe", "describe", "translate"],
        "prompt": [None, None, "Rust"],
    }
    together = prompts(processor, clips[:3], **slots)
    for row, clip in enumerate(clips[:3]):
        alone = prompts(processor, clip, **{name: values[row] for name, values in slots.items()})
        assert [together[row]] == alone
    assert len(set(together)) == 3


def test_every_field_of_the_layout_can_be_set(compose, clips):
    layout = {
        "system": "You are a clerk.",
        "user": "{instruction}{context} {audio}",
        "tasks": {"transcribe": "Scrivi{language}", "minutes": "Take minutes"},
        "language": " in lingua {language}",
        "context": " con {context}",
    }
    own = compose(prompt_config=layout)[1]
    system = "<|im_start|>system\nYou are a clerk.<|im_end|>\n"
    expected = f"{system}<|im_start|>user\nScrivi in lingua Italian con X {AUDIO_TOKEN}<|im_end|>"
    assert prompts(own, clips[:1], language="it", prompt="X")[0].startswith(expected)
    assert f"Take minutes {AUDIO_TOKEN}" in prompts(own, clips[:1], task="minutes")[0]
    with pytest.raises(ValueError, match="no task .zzz.; there are minutes, transcribe"):
        prompts(own, clips[:1], task="zzz")


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"user": "{instruction}"}, "user must hold the slot {audio} exactly once"),
        ({"plain": "{system}"}, "plain must hold the slot {user}"),
        ({"sistem": "x"}, "no field 'sistem'; did you mean 'system'"),
    ],
)
def test_layouts_that_cannot_work_are_refused(compose, layout, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        compose(prompt_config=layout)


def test_training_reads_what_inference_reads(processor, clips):
    slots = {"language": ["it", "fr"], "prompt": ["a", "bb"], "task": ["transcribe", "translate"]}
    asked = processor.apply_transcription_request(clips[:2], **slots)
    taught = processor.apply_training_request(clips[:2], ["one", "two"], **slots)
    for row in range(2):
        prompt = asked["input_ids"][row][asked["attention_mask"][row].bool()].tolist()
        assert taught["input_ids"][row][: len(prompt)].tolist() == prompt
        answer = taught["labels"][row][taught["labels"][row] != -100].tolist()
        assert taught["input_ids"][row][len(prompt) : len(prompt) + len(answer)].tolist() == answer


@pytest.mark.parametrize("decoder", DECODERS)
def test_default_prompt_of_the_model_is_that_of_its_processor(compose, clips, decoder):
    model, processor = compose(decoder=decoder)
    asked = processor.apply_transcription_request(clips[:3])
    ids, mask = model.default_prompt(asked["input_features"], asked["input_features_mask"])
    assert mask.tolist() == asked["attention_mask"].tolist()
    assert (ids * mask).tolist() == (asked["input_ids"] * mask).tolist()


@pytest.mark.parametrize("decoder", DECODERS)
def test_decoders_with_and_without_padding_token_pad(compose, clips, decoder):
    processor = compose(decoder=decoder)[1]
    assert processor.tokenizer.pad_token_id is not None
    inputs = processor.apply_transcription_request(clips[:2])
    short, long = inputs["attention_mask"].sum(-1).tolist()
    assert short < long == inputs["input_ids"].shape[1]
    assert set(inputs["input_ids"][0][: long - short].tolist()) == {processor.tokenizer.pad_token_id}


def test_layout_of_the_config_is_that_of_the_processor(bases):
    arguments = ("tiny/whisper", "tiny/llama_tied")
    config = SpeechLLMConfig.from_bases(*arguments, bases=bases, prompt_config={"system": "Write."})
    processor = SpeechLLMProcessor.from_config(config, bases=bases)
    assert PromptConfig(**processor.prompt).to_dict() == config.prompt_config.to_dict()


# --- conversations --------------------------------------------------------------------------------------


def conversation(clip, **turn):
    return [
        {"role": "system", "content": "Listen."},
        {"role": "user", "content": [{"type": "audio", "audio": clip}, {"type": "text", "text": " what?"}]},
    ]


WRITTEN = f"<|im_start|>system\nListen.<|im_end|>\n<|im_start|>user\n{AUDIO_TOKEN} what?<|im_end|>\n"


def test_conversations_become_text(processor, clips):
    assert processor.apply_chat_template(conversation(clips[0])) == WRITTEN
    several = processor.apply_chat_template(
        [conversation(clip) for clip in clips[:2]], add_generation_prompt=True
    )
    assert several == [f"{WRITTEN}<|im_start|>assistant\n{THOUGHT}"] * 2
    thinking = processor.apply_chat_template(
        conversation(clips[0]), add_generation_prompt=True, enable_thinking=True
    )
    assert thinking == f"{WRITTEN}<|im_start|>assistant\n"


def test_conversations_become_model_inputs(processor, compose, clips):
    model, _ = compose()
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
    several = processor.apply_chat_template([conversation(clip) for clip in clips[:2]], **options)
    assert several["input_features"].shape[0] == several["input_ids"].shape[0] == 2
    placeholders = (several["input_ids"] == processor.audio_token_id).sum(-1)
    assert placeholders.tolist() == [processor.num_audio_tokens(len(clip)) for clip in clips[:2]]
    assert model.generate(**several, max_new_tokens=2).shape[1] == several["input_ids"].shape[1] + 2
    one = processor.apply_chat_template(conversation(clips[1]), **options)
    assert one["input_ids"][0].tolist() == several["input_ids"][1].tolist()
    ids = processor.apply_chat_template(conversation(clips[1]), tokenize=True, add_generation_prompt=True)
    assert ids.tolist() == one["input_ids"].tolist()


def test_audio_of_a_conversation_may_be_a_file_or_an_upload(processor, clips, tmp_path):
    import base64

    import soundfile

    soundfile.write(tmp_path / "clip.wav", clips[0], 16000, subtype="FLOAT")
    upload = "data:audio/wav;base64," + base64.b64encode((tmp_path / "clip.wav").read_bytes()).decode()
    options = {"tokenize": True, "return_dict": True}
    expected = processor.apply_chat_template(conversation(clips[0]), **options)["input_features"]
    for part in (
        {"path": str(tmp_path / "clip.wav")},
        {"url": (tmp_path / "clip.wav").as_uri()},
        {"url": upload},
    ):
        turns = [{"role": "user", "content": [{"type": "audio", **part}]}]
        assert processor.apply_chat_template(turns, **options)["input_features"].equal(expected)
    narrow = processor.apply_chat_template(conversation(clips[0][::2]), sampling_rate=8000, **options)
    assert narrow["input_features"].shape == expected.shape


def test_conversations_without_audio_and_without_template(compose, processor):
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": None}]
    assert set(processor.apply_chat_template(turns, tokenize=True, return_dict=True)) == {
        "input_ids",
        "attention_mask",
    }
    plain = compose(decoder="gpt2")[1]
    assert plain.apply_chat_template([*turns[:1], {"role": "assistant", "content": "Yes"}]) == "Hello\nYes\n"
    own = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    assert plain.apply_chat_template(turns[:1], chat_template=own) == "[Hello]"


def test_parts_that_are_not_understood_are_refused(processor):
    for part, message in (
        ({"type": "image", "url": "a.png"}, "messages hold text and audio, not 'image'"),
        ({"type": "audio", "sound": 1}, "names its sound in audio, path or url"),
    ):
        with pytest.raises(ValueError, match=message):
            processor.apply_chat_template([{"role": "user", "content": [part]}])
