"""Of several ways to write a clip down, the one of words that there are."""

import pytest
import torch
from speechllm import SpeechLLMPipeline
from speechllm.processing.word_list import WordList, plain_words
from transformers import GenerationConfig

BEAMS = {"num_beams": 4, "max_new_tokens": 6}


def spelling(model, processor):
    """A pipeline of four beams that writes letters and nothing else, as weights that are drawn do not."""
    tokenizer = processor.tokenizer
    others = [one for one in range(model.lm_head.out_features) if not tokenizer.decode([one]).isalpha()]
    return SpeechLLMPipeline(model, processor, device="cpu", suppress_tokens=others, **BEAMS)


@pytest.fixture(scope="module", params=["bridge", "whisper"])
def recognizer(request, compose, compose_whisper):
    return spelling(*(compose if request.param == "bridge" else compose_whisper)())


def written(path, words):
    path.write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    return str(path)


def ways_to_write(recognizer, clip):
    """The text of every beam, the likeliest first, as `generate` by itself gives them."""
    with torch.no_grad():
        inputs = recognizer.processor.apply_transcription_request([clip])
        options = {**recognizer._chosen({}).generate_kwargs, "num_return_sequences": 4}
        outputs = recognizer.model.generate(**inputs, **options, return_dict_in_generate=True)
    ids = recognizer.requests.new_ids(outputs, inputs)
    return [text.strip() for text in recognizer.processor.batch_decode(ids)]


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("Una papallona.", 0),
        ("UNA papal·lona", 1),
        ("una papallona d'hivern", 1),
        ("l'hivern, d\u2019una papallona!", 0),
        ("vint-i-dos vint-i-cinc", 1),
        ("don't dont", 1),
        ("1984 2n & x ...", 0),
        ("पानी पान", 1),
        ("cafe\u0301 cafe", 1),
        ("d’acord d'acord dʼacord", 0),
        ("dos—hivern… una…", 1),
        ("", 0),
    ],
)
def test_unknown_words_are_counted(text, unknown):
    words = ["una", "Papallona", "l'hivern", "vint", "i", "dos", "don't", "पानी", "caf\u00e9", "d’acord"]
    assert WordList(words).unknown(text) == unknown


def test_vowel_signs_belong_to_their_word():
    assert list(plain_words("«पानी», Ël's. ...")) == ["पानी", "ël's", ""]


def test_the_fewest_unknown_words_win_and_of_equals_the_first():
    words = WordList(["un", "gos"])
    assert words.best(["un gors", "un gos", "un", "Un gos."]) == 1
    assert words.best(["gors", "gols"]) == 0
    # Nothing has no unknown word either.
    assert words.best(["gors", " ", ""]) == 0 and words.best(["", ""]) == 0


def test_the_text_of_known_words_is_taken(recognizer, clips, tmp_path):
    ways = [ways_to_write(recognizer, clip) for clip in clips]
    for place in range(4):
        wanted = [texts[place] for texts in ways]
        path = written(tmp_path / f"{place}.txt", [word for text in wanted for word in text.split()])
        taken = [result["text"] for result in recognizer(clips, word_list=path)]
        # The first of a clip's texts that the list has, be it another clip's.
        known = {text.casefold() for text in wanted}
        assert taken == [next(text for text in texts if text.casefold() in known) for texts in ways]
        assert taken == [recognizer(clip, word_list=path)["text"] for clip in clips]


def test_clips_that_are_left_to_the_base_choose_too(compose_whisper, clips, tmp_path):
    adapter = {"language": "it", "decoder": {"r": 2, "target_modules": ["q_proj"]}}
    asr = spelling(*compose_whisper(lora_bank={"it": adapter}, encoder_padding="longest"))
    path = written(tmp_path / "words.txt", ["a"])
    listed = {"word_list": path, "language": "it"}
    adapted, base = torch.tensor([[1.0]]), torch.tensor([[0.0]])
    weights = {"routing_weights": torch.cat([adapted, base])}
    together = [one["text"] for one in asr(clips[3:5], **listed, generate_kwargs=weights)]
    # The longer clip comes first in its batch.
    alone = [
        asr(clip, **listed, generate_kwargs={"routing_weights": own})["text"]
        for clip, own in ((clips[3], base), (clips[4], adapted))
    ]
    assert together == alone


def test_words_and_times_are_those_of_the_text_that_is_taken(compose_whisper, clips, tmp_path):
    asr = spelling(*compose_whisper())
    second = [ways_to_write(asr, clip)[1] for clip in clips[3:]]
    path = written(tmp_path / "words.txt", [word for text in second for word in text.split()])
    plainly = asr(clips[3:], word_list=path)
    words = asr(clips[3:], word_list=path, return_timestamps="word")
    assert words == [asr(clip, word_list=path, return_timestamps="word") for clip in clips[3:]]
    # No time is written among the words: they and the segments have theirs all the same.
    segments = asr(clips[3:], word_list=path, return_timestamps=True)
    for timed, whole, alone in zip(words, segments, plainly, strict=True):
        assert timed["text"] == whole["text"] == alone["text"]
        assert "".join(chunk["text"] for chunk in timed["chunks"]).strip() == timed["text"]
        assert [chunk["text"] for chunk in whole["chunks"]] == [alone["text"]]


def test_without_num_beams_there_are_five(asr, clips, tmp_path, monkeypatch):
    seen, generate = [], asr.model.generate
    monkeypatch.setattr(asr.model, "generate", lambda **given: seen.append(given) or generate(**given))
    asr(clips[0], word_list=written(tmp_path / "words.txt", ["a"]))
    asr(clips[0], word_list=tmp_path / "words.txt", num_beams=2)
    asr(clips[0], word_list=tmp_path / "words.txt", generation_config=GenerationConfig(num_beams=3))
    asr(clips[0], word_list=tmp_path / "words.txt", generation_config=GenerationConfig())
    assert [one["num_beams"] for one in seen] == [5, 2, 3, 5]
    assert [one["num_return_sequences"] for one in seen] == [5, 2, 3, 5]


def test_what_cannot_be_read_is_one_line(asr, clips, tmp_path):
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    cases = {"none.txt": "No such file", "bytes.txt": "one word a line, in UTF-8", "": "Is a directory"}
    cases |= {str(written(tmp_path / "empty.txt", ["", "..."])): "one word a line"}
    for name, message in cases.items():
        with pytest.raises(ValueError, match=f"word list .*{message}") as caught:
            asr(clips[0], word_list=str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="word_list is a file with a word a line, not {'a'}"):
        asr(clips[0], word_list={"a"})
    path = written(tmp_path / "words.txt", ["a"])
    for beams in (1, "5", 2.5):
        with pytest.raises(ValueError, match="word_list chooses among beams: num_beams is 2 or more, not"):
            asr(clips[0], word_list=path, num_beams=beams)
    with pytest.raises(ValueError, match="set num_return_sequences to 1"):
        asr(clips[0], word_list=path, num_return_sequences=2)
