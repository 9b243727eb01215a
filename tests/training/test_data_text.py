"""Normalisers, label clean-up and splits keep their promises about text."""

import pytest
from speechllm.training.data.cleaning import RULES, check_rules, clean_text
from speechllm.training.data.normalisers import NORMALISERS, normaliser
from speechllm.training.data.splits import prove_disjoint, shared, split, split_by_speaker, split_by_text
from speechllm.training.data.utterances import Utterance


def test_basic_lowers_and_takes_punctuation_off():
    assert (
        normaliser("basic")(" Hello,  WORLD! It’s 3\u00a0o'clock — «qui» co-op ")
        == "hello world its 3 oclock qui co op"
    )


@pytest.mark.parametrize("text", ["किताबें", "ਪੰਜਾਬੀ", "తెలుగు", "বাংলা", "தமிழ்"])
def test_indic_vowel_marks_are_kept(text):
    assert normaliser("basic")(text + "।") == text


def test_the_same_letter_written_two_ways_is_the_same():
    assert normaliser("basic")("cafe\u0301") == normaliser("basic")("CAF\u00c9")
    assert normaliser("basic")("क\u200dष") == normaliser("basic")("कष")


def test_arabic_diacritics_go_and_letters_stay():
    assert normaliser("arabic")("مُحَمَّدٌ، كـــتاب ٣") == "محمد كتاب 3"
    assert normaliser("arabic")("أحمد") == "أحمد"
    assert "\u064f" in normaliser("basic")("مُ")


def test_chinese_is_joined_for_cer():
    assert normaliser("chinese")("今天 天气，很 好！") == "今天天气很好"


def test_turkic_letters_i_stay_two():
    assert normaliser("turkic")("ISTI İSTİ") == "ıstı isti"
    assert normaliser("basic")("İki") == "iki"


def test_english_writes_contractions_and_numbers_one_way():
    assert normaliser("english")("He won't pay twenty dollars!") == normaliser("english")(
        "he will not pay $20"
    )


def test_every_normaliser_is_named_versioned_and_changes_nothing_twice():
    for name, item in NORMALISERS.items():
        assert str(item) == f"{name}/{item.version}" and normaliser(str(item)) is item
        for text in ("Ünï, co-op won't  5 %!", "مُحَمَّد", "今天 天", "किताबें", "İI"):
            assert item(item(text)) == item(text)


def test_unknown_normalisers_and_versions_are_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"unknown normaliser 'whisper'; there are \['arabic/1', 'basic/1'"):
        normaliser("whisper")
    with pytest.raises(ValueError, match="there is basic/1"):
        normaliser("basic/9")


@pytest.mark.parametrize(
    ("rules", "text", "cleaned"),
    [
        (["noise_tags"], "[laughs] yes <unk> I *cough* do", "yes I do"),
        (["gigaspeech_signs", "noise_tags"], "WELL <COMMA> YES <PERIOD> <SIL>", "WELL, YES."),
        (["lower"], "CHAPTER ONE", "chapter one"),
        (["bare_words"], "'Don’t,' she said: \"l'eau!\"", "don't she said l'eau"),
        (["bare_words"], "क्या, हाँ।", "क्या हाँ"),
        (["join_chinese"], "今天 天气 nice day 好 的", "今天天气 nice day 好的"),
        (["one_side_quotes"], '"Ja, gut."', "Ja, gut."),
        ([], "  two   spaces ", "two spaces"),
    ],
)
def test_rules_clean_labels(rules, text, cleaned):
    assert clean_text(text, rules) == (cleaned, None)


def test_damaged_and_refused_labels_say_why():
    assert clean_text("caf\ufffd")[1] == "damaged text"
    assert clean_text("dot (.)", ["refuse_brackets"])[1] == "refused text"
    with pytest.raises(ValueError, match="unknown text rules"):
        check_rules(["lower", "upper"])
    assert set(check_rules(RULES)) == set(RULES)


def corpus(sentences=400, speakers=20):
    return [
        Utterance(f"{index}.wav", f"Sentence {index % sentences}.", speaker=f"s{index % speakers}")
        for index in range(3 * sentences)
    ]


def test_no_sentence_is_in_two_splits_however_it_is_written():
    utterances = corpus() + [Utterance("x.wav", f"sentence {index}!") for index in range(400)]
    splits = split_by_text(utterances)
    assert not shared(splits, "text")
    assert sum(map(len, splits.values())) == len(utterances)
    assert [round(len(items) / len(utterances), 1) for items in splits.values()] == [0.8, 0.1, 0.1]


def test_a_corpus_that_grows_moves_no_clip():
    small, large = split_by_text(corpus(200)), split_by_text(corpus(400))
    for name, items in small.items():
        assert {item.text for item in items} <= {item.text for item in large[name]}


def test_silences_are_divided_too():
    splits = split_by_text([Utterance(f"{index}.wav", "") for index in range(300)])
    assert all(splits.values())


def test_no_speaker_is_in_two_splits_and_every_split_has_one():
    for speakers in (3, 4, 20, 57):
        utterances = corpus(speakers=speakers)
        splits = split_by_speaker(utterances)
        assert not shared(splits, "speaker") and all(splits.values())
        assert sum(map(len, splits.values())) == len(utterances)
    assert 0.7 < len(splits["train"]) / len(utterances) < 0.85
    assert not split_by_speaker(corpus(speakers=2), (0.9, 0.0, 0.1))["validation"]


def test_the_proof_names_what_two_splits_share():
    one, other = [Utterance("a.wav", "Yes.", speaker="x")], [Utterance("b.wav", "yes", speaker="x")]
    with pytest.raises(ValueError, match=r"test and train share 1 of text, among them \['yes'\]"):
        prove_disjoint({"train": one, "test": other})
    with pytest.raises(ValueError, match="share 1 of speaker"):
        prove_disjoint({"train": one, "test": other}, "speaker")
    prove_disjoint({"train": one, "test": [Utterance("b.wav", "no", speaker="x")]})


def test_impossible_splits_are_refused():
    with pytest.raises(ValueError, match="names no speaker"):
        split([Utterance("a.wav", "x")], "speaker")
    with pytest.raises(ValueError, match="2 speakers cannot fill 3 splits"):
        split(corpus(speakers=2), "speaker")
    with pytest.raises(ValueError, match="add up to 1"):
        split(corpus(), "text", (0.8, 0.1, 0.2))
    with pytest.raises(ValueError, match="unknown split by 'hour'"):
        split(corpus(), "hour")
