"""Of several ways to write a clip down, the one of words that there are."""

import pytest
import torch
from speechllm import SpeechLLMPipeline
from speechllm.processing.word_list import UNKNOWN, WordList, plain_words

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
    """`(text, score)` of every beam, as `generate` by itself gives them."""
    with torch.no_grad():
        inputs = recognizer.processor.apply_transcription_request([clip])
        options = {
            **recognizer._chosen({}).generate_kwargs,
            "num_return_sequences": 4,
            "return_dict_in_generate": True,
            "output_scores": True,
        }
        outputs = recognizer.model.generate(**inputs, **options)
    ids = recognizer.requests.new_ids(outputs, inputs)
    texts = [text.strip() for text in recognizer.processor.batch_decode(ids)]
    return list(zip(texts, outputs["sequences_scores"].tolist(), strict=True))


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
        ("", 0),
    ],
)
def test_unknown_words_are_counted(text, unknown):
    words = ["una", "Papallona", "l'hivern", "vint", "i", "dos", "don't", "पानी", "caf\u00e9"]
    assert WordList(words).unknown(text) == unknown


def test_vowel_signs_belong_to_their_word():
    assert list(plain_words("«पानी», Ël's. ...")) == ["पानी", "ël's", ""]


def test_an_unknown_word_has_to_be_much_likelier():
    words = WordList(["gos"])
    for gap, best in ((UNKNOWN - 0.1, 1), (UNKNOWN + 0.1, 0)):
        # Scores are means over four tokens, the price is that of the whole text.
        assert words.best(["gors", "gos"], [-1.0, -1.0 - gap / 4], [4, 4]) == best
    assert words.best(["gors", "gols"], [-1.0, -2.0], [4, 4]) == 0
    assert words.best(["gos", "Gos."], [-1.0, -1.0], [0, 0]) == 0


def test_the_text_of_known_words_is_taken(recognizer, clips, tmp_path):
    alone = [recognizer(clip)["text"] for clip in clips]
    ways = [ways_to_write(recognizer, clip) for clip in clips]
    for place in range(1, 4):
        wanted = [texts[place][0] for texts in ways]
        path = written(tmp_path / f"{place}.txt", [word for text in wanted for word in text.split()])
        words, taken = WordList.read(path), [r["text"] for r in recognizer(clips, word_list=path)]
        # A batch and a clip by itself say the same, and no other beam has fewer unknown words.
        assert taken == [recognizer(clip, word_list=path)["text"] for clip in clips]
        assert all(text in dict(texts) for text, texts in zip(taken, ways, strict=True))
        known = [words.unknown(text) for text in taken]
        assert sum(known) < sum(map(words.unknown, alone)) and taken != alone


def test_words_and_times_are_those_of_the_text_that_is_taken(compose_whisper, clips, tmp_path):
    asr = spelling(*compose_whisper())
    second = [ways_to_write(asr, clip)[1][0] for clip in clips[3:]]
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
    assert [(one["num_beams"], one["num_return_sequences"]) for one in seen] == [(5, 5), (2, 2)]


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
    with pytest.raises(ValueError, match="word_list chooses among beams"):
        asr(clips[0], word_list=written(tmp_path / "words.txt", ["a"]), num_beams=1)
