"""Words with their times: cut as stock Whisper cuts them, in order, inside their recording."""

import json

import numpy as np
import pytest
from moved_parameters import move
from sounds import RATE
from speechllm import SpeechLLMPipeline
from speechllm.processing.word_times import timed_words, words_of
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import _combine_tokens_into_words

TEXTS = {
    "en": [
        " Please press 1 to mute, or 2 (the \"pound\" key) to exit. It's state-based, isn't it?",
        " Well... costs $5 or 50%! Don't. 'Tis – naïve: über-cool / e-mail, and so on;",
        "No space before this one, [yes]",
    ],
    "it": [" L'elenco è più lungo: «prego», digiti il numero; perché? Così, 3,5 euro."],
    "chinese": ["我们今天，去北京。好吗？「是」", " 你好"],
    "ja": ["今日は、いい天気ですね。"],
    "th": ["สวัสดีครับ"],
    "ko": [" 안녕하세요, 여러분."],
}


@pytest.fixture(scope="module")
def tokenizer():
    """A Whisper's, with pieces of words, of characters, and of several marks."""
    byte_pairs = Tokenizer(models.BPE())
    byte_pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    byte_pairs.train_from_iterator([text for texts in TEXTS.values() for text in texts] * 3, trainer)
    merges = [tuple(pair) for pair in json.loads(byte_pairs.to_str())["model"]["merges"]]
    vocabulary = {token: place for place, token in enumerate(sorted(byte_pairs.get_vocab()))}
    end = "<|endoftext|>"
    made = WhisperTokenizer(vocab={**vocabulary, end: len(vocabulary)}, merges=merges)
    made.add_special_tokens({"extra_special_tokens": ["<|startoftranscript|>", "<|notimestamps|>"]})
    return made


@pytest.mark.parametrize(("language", "text"), [(name, text) for name in TEXTS for text in TEXTS[name]])
def test_words_are_those_of_stock_whisper(tokenizer, language, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    known = {"en": "english", "it": "italian", "ja": "japanese", "th": "thai", "ko": "korean"}
    words, _, places = _combine_tokens_into_words(tokenizer, ids, known.get(language, language))
    found = words_of(tokenizer, ids, language)
    assert [word.text for word in found] == words
    assert [list(range(word.first, word.end)) for word in found] == places
    assert 1 < len(found) < len(ids)


def test_words_are_all_of_the_text_whatever_bytes_a_model_writes(tokenizer):
    generator = np.random.default_rng(5)
    for language in ("it", "zh", None):
        ids = generator.integers(0, tokenizer.eos_token_id, 60).tolist()
        words = words_of(tokenizer, ids, language)
        assert "".join(word.text for word in words) == tokenizer.decode(ids)
        borders = [0, *(word.end for word in words)]
        assert [word.first for word in words] == borders[:-1] and borders[-1] == len(ids)


def test_special_tokens_are_in_no_word_and_end_one(tokenizer):
    ids = tokenizer("one two", add_special_tokens=False).input_ids
    stamp = len(tokenizer) + 7
    words = words_of(tokenizer, [stamp, *ids, stamp, stamp + 3, *ids, tokenizer.eos_token_id], "en")
    assert [word.text for word in words] == ["one", " two", "one", " two"]
    assert words_of(tokenizer, [stamp, tokenizer.eos_token_id]) == []


def test_times_are_those_of_a_words_tokens_and_end_with_the_clip(tokenizer):
    ids = tokenizer("Yes, sir.", add_special_tokens=False).input_ids
    size = len(ids)
    times = [[0.1 * place + 0.0004, 0.1 * place + 0.1] for place in range(size)]
    seconds = 0.1 * size - 0.047
    yes, sir = timed_words(tokenizer, ids, times, [-1.0] * size, "en", seconds)
    # A transcript without the space that Whisper begins with gets it.
    assert (yes.text, sir.text) == (" Yes,", " sir.")
    assert (yes.start, sir.start, sir.end) == (0.0, yes.end, seconds)
    assert yes.confidence == pytest.approx(np.exp(-1.0))
    assert timed_words(tokenizer, ids, times, None, "chinese", seconds)[0].text[0] == "Y"
    assert timed_words(tokenizer, ids, times, None, "en", seconds)[0].confidence is None


# --- the pipeline ---------------------------------------------------------------------------------------

ASKED = {"return_timestamps": "word", "language": "it", "max_new_tokens": 20}


@pytest.fixture(
    scope="module",
    params=[("cross_attention", "max_length"), ("cross_attention", "longest"), ("dual_attention", "longest")],
    ids="-".join,
)
def whisper(request, compose_whisper):
    adapter, padding = request.param
    model, processor = compose_whisper(adapter, encoder_padding=padding)
    move(model.model.adapter.parameters(), 0.2, seed=3)
    return SpeechLLMPipeline(model, processor, device="cpu")


def times_of(result: dict, seconds: float) -> list[float]:
    """Starts and ends of words, which are in order and inside their recording."""
    times = [time for chunk in result["chunks"] for time in chunk["timestamp"]]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= seconds + 0.001
    return times


def check(result: dict, seconds: float) -> None:
    """So are they, and they make the text."""
    times_of(result, seconds)
    chunks = result["chunks"]
    assert "".join("".join(chunk["text"] for chunk in chunks).split()) == "".join(result["text"].split())
    assert all(chunk["text"].strip() for chunk in chunks)


def test_a_clip_has_its_words_in_a_batch_and_alone(whisper, clips):
    results = whisper(clips, batch_size=4, **ASKED)
    for clip, result in zip(clips, results, strict=True):
        check(result, len(clip) / RATE)
        assert whisper(clip, **ASKED) == result
        assert {key for chunk in result["chunks"] for key in chunk} == {"text", "timestamp"}
        assert all(isinstance(chunk["timestamp"], tuple) for chunk in result["chunks"])
    assert len(results[-1]["chunks"]) > 1


def test_words_are_the_text_with_timestamps_or_without(whisper, clips):
    result = whisper(clips[4], **ASKED)
    assert result["text"] == whisper(clips[4], **{**ASKED, "return_timestamps": True})["text"]
    plainly = whisper(clips[4], **ASKED, generate_kwargs={"return_timestamps": False})
    check(plainly, len(clips[4]) / RATE)
    assert plainly["text"] == whisper(clips[4], **{**ASKED, "return_timestamps": False})["text"]
    assert plainly["text"] != result["text"]


def test_words_of_a_long_recording_lie_in_their_windows(whisper, clips):
    sound = np.concatenate(clips)
    result = whisper(sound, chunk_length_s=3.0, **ASKED)
    check(result, len(sound) / RATE)
    segments = [part.segment for part in whisper._pieces(sound, whisper._chosen({"chunk_length_s": 3.0}))]
    assert len(segments) > 3
    for segment in segments:
        begin, stop = round(segment.start * RATE), round(segment.end * RATE)
        alone = whisper(sound[begin:stop], **ASKED)["chunks"]
        starts = [round(segment.start + chunk["timestamp"][0], 3) for chunk in alone]
        found = [c["timestamp"][0] for c in result["chunks"]]
        assert set(starts) <= set(found)


def test_no_word_is_in_silence(whisper, clips):
    quiet = np.zeros(RATE, np.float32)
    spoken = len(clips[4]) / RATE
    times = times_of(whisper(np.concatenate([quiet, clips[4], quiet]), **ASKED), spoken + 2)
    assert times[0] >= 0.96 and times[-1] <= 1.04 + spoken
    pause = whisper(np.concatenate([clips[4], quiet, clips[4]]), chunk_length_s=8, **ASKED)
    assert not any(spoken + 0.04 < time < spoken + 0.96 for time in times_of(pause, 2 * spoken + 1))
    silent = whisper(np.zeros(2 * RATE, np.float32), **ASKED)
    assert (silent["text"], silent["chunks"], silent["guarded"][0]["reason"]) == ("", [], "silence")


def test_words_have_their_own_confidence(whisper, clips):
    result = whisper(clips[5], return_confidence=True, **ASKED)
    sure = [chunk["confidence"] for chunk in result["chunks"]]
    assert all(0 < one <= 1 for one in sure) and len(set(sure)) > 1
    beams = whisper(clips[5], return_confidence=True, num_beams=2, **ASKED)
    check(beams, len(clips[5]) / RATE)
    assert {chunk["confidence"] for chunk in beams["chunks"]} == {None}


def test_languages_that_the_model_finds_are_those_of_the_words(whisper, clips):
    for beams in (1, 2):
        result = whisper(clips[3], **{**ASKED, "language": None}, return_language=True, num_beams=beams)
        assert {chunk["language"] for chunk in result["chunks"]} == {result["language"]} != {None}


@pytest.mark.parametrize("routing", [None, "oracle", "base"])
def test_words_are_timed_in_any_routing(compose_whisper, clips, routing):
    lora = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    parts = compose_whisper(lora_bank={"it": {"decoder": lora}}, encoder_padding="longest")
    asr = SpeechLLMPipeline(*parts, device="cpu", return_timestamps="word")
    for clip, result in zip(clips[2:], asr(clips[2:], language="it", routing=routing), strict=True):
        check(result, len(clip) / RATE)
