"""Errors are those of jiwer, intervals those of a bootstrap, and normalisers what their versions say."""

import hashlib
import time

import jiwer
import numpy as np
import pytest
from speechllm.training.data.normalisers import NORMALISERS
from speechllm.training.data.utterances import Utterance
from speechllm.training.evaluation.alignments import (
    columns_of,
    drawn_alignment,
    shown_width,
    worst_clips,
)
from speechllm.training.evaluation.bootstrap import drawn_sums, paired_difference, rate_interval, rates
from speechllm.training.evaluation.evaluation import compared
from speechllm.training.evaluation.evaluation_settings import EvaluationSettings
from speechllm.training.evaluation.identification import identification
from speechllm.training.evaluation.provider_base import Heard, short_language
from speechllm.training.evaluation.running import Run
from speechllm.training.evaluation.scoring import (
    Normalisers,
    clip_counts,
    errors_of,
    groups_by_language,
    groups_by_length,
    joined,
    judge_run,
    said_of,
    score,
)
from speechllm.training.recognition_errors import edit_counts

WORDS = ("the", "a", "cat", "dog", "sat", "ran", "on", "mat", "again", "not")
# Of every normaliser what it makes of these. A new digest is a new version: old results say the old one.
STRINGS = (
    " Hello,  WORLD! It\u2019s 3\u00a0o'clock \u2014 \u00abqui\u00bb co-op ",
    "He won't pay $20.50, um, will he? Mr. Smith's colour",
    "\u0130stanbul ISTI, \u0131l\u0131k",
    "\u0645\u064f\u062d\u064e\u0645\u0651\u064e\u062f\u064c\u060c \u0643\u0640\u062a\u0627\u0628 \u0663",
    "\u4eca\u5929 \u5929\u6c14\uff0c\u5f88 \u597d\uff01",
    "\u0915\u093f\u0924\u093e\u092c\u0947\u0902\u0964 \u0a2a\u0a70\u0a1c\u0a3e\u0a2c\u0a40",
    "cafe\u0301 \u00adna\u00efve \u200d\ufeffend",
)
DIGESTS = {
    "plain/1": "8cf49f1527fa",
    "basic/1": "e941c63a0379",
    "arabic/1": "161f8b6b5650",
    "turkic/1": "59f9a3bdeed0",
    "chinese/1": "5f36b30f09d7",
    "english/1": "fbcdd3dbcee0",
}


def sentences(count: int, seed: int) -> list[str]:
    """Random sentences, some of them empty."""
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, size=int(length))) for length in draw.integers(0, 9, size=count)]


def judged(said, heard, languages=None, seconds=None):
    """Judged clips of texts that need no normalising."""
    languages = languages or ["en"] * len(said)
    items = [
        Utterance(f"{n}.wav", text, lang) for n, (text, lang) in enumerate(zip(said, languages, strict=True))
    ]
    answers = tuple(one if isinstance(one, Heard) else Heard(one) for one in heard)
    run = Run(answers, tuple(seconds or [1.0] * len(said)), 1.0, {}, {})
    return judge_run(items, run, Normalisers.named(["plain"]))


@pytest.mark.parametrize("unit", ["words", "characters"])
def test_errors_of_a_set_are_those_of_jiwer_and_of_its_clips_one_by_one(unit):
    said, heard = [text or "silence" for text in sentences(60, 1)], sentences(60, 2)
    counts = clip_counts(heard, said, unit)
    process = {"words": jiwer.process_words, "characters": jiwer.process_characters}[unit]
    whole = process(said, heard)
    for column, name in enumerate(("hits", "substitutions", "deletions", "insertions")):
        assert counts[:, column].sum() == getattr(whole, name)
    rate = whole.wer if unit == "words" else whole.cer
    assert rates(errors_of(counts).sum(), said_of(counts).sum()) == pytest.approx(rate, abs=1e-15)
    for place in range(0, 60, 7):
        alone = process([said[place]], [heard[place]])
        assert errors_of(counts)[place] == alone.substitutions + alone.deletions + alone.insertions


def test_counts_with_silent_clips_are_those_of_training():
    said, heard = sentences(80, 3), sentences(80, 4)
    for unit in ("words", "characters"):
        names = ("hits", "substitutions", "deletions", "insertions")
        assert dict(
            zip(names, clip_counts(heard, said, unit).sum(axis=0).tolist(), strict=True)
        ) == edit_counts(heard, said, unit)


def test_what_is_heard_in_silence_is_inserted_and_counted():
    found = score(judged(["one two", "", ""], ["one two", "thank you", ""]), 100, 0)
    assert (found.insertions, found.silent_clips, found.words_in_silence) == (2, 2, 2)
    assert found.wer == 1.0 and found.empty_rate == 0.0
    assert score(judged(["", ""], ["", "x"]), 100, 0).wer == 1.0
    assert score(judged(["", ""], ["", ""]), 100, 0).wer == 0.0


def test_failed_clips_are_counted_and_in_no_rate():
    found = score(judged(["one two", "three four"], ["one", Heard(error="no answer")]), 100, 0)
    assert (found.clips, found.failed, found.wer, found.said_words) == (1, 1, 0.5, 2)
    nothing = score(judged(["one"], [Heard(error="no answer")]), 100, 0)
    assert nothing.wer is None and nothing.wer_interval is None and nothing.failed == 1


def test_an_interval_is_the_percentiles_of_rates_of_clips_drawn_again():
    draw = np.random.default_rng(5)
    said = draw.integers(1, 12, size=40)
    errors = draw.binomial(said, 0.3)
    found = rate_interval(errors, said, 4000, seed=1)
    # The same, drawn one by one and by another generator.
    again = np.random.default_rng(99)
    slow = []
    for _ in range(4000):
        rows = again.integers(40, size=40)
        slow.append(errors[rows].sum() / said[rows].sum())
    assert [found.low, found.high] == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.006)
    assert rate_interval(errors, said, 4000, seed=1) == found
    assert rate_interval(errors, said, 4000, seed=2) != found
    assert rate_interval(errors[:1], said[:1], 100, 0) is None


def test_intervals_cover_the_true_rate_about_as_often_as_they_say():
    draw, covered = np.random.default_rng(8), 0
    for trial in range(200):
        said = draw.integers(3, 15, size=80)
        found = rate_interval(draw.binomial(said, 0.2), said, 300, seed=trial)
        covered += found.low <= 0.2 <= found.high
    assert 0.88 < covered / 200 <= 1.0


def test_draws_in_blocks_are_the_draws_in_one_and_large_sets_take_little_time(monkeypatch):
    from speechllm.training.evaluation import bootstrap

    columns = np.random.default_rng(0).integers(0, 9, size=(500, 2))
    whole = drawn_sums(columns, 64, seed=3)
    monkeypatch.setattr(bootstrap, "BLOCK", 3000)
    assert np.array_equal(drawn_sums(columns, 64, seed=3), whole)
    assert whole[:, 0].mean() == pytest.approx(columns[:, 0].sum(), rel=0.02)
    monkeypatch.undo()
    begin = time.process_time()
    drawn_sums(np.ones((20000, 2)), 1000, seed=0)
    assert time.process_time() - begin < 5


def test_a_real_difference_is_significant_and_chance_is_not():
    draw = np.random.default_rng(6)
    said = draw.integers(4, 12, size=150)
    reference, better = draw.binomial(said, 0.35), draw.binomial(said, 0.2)
    found = paired_difference(better, reference, said, 2000, 0)
    assert found.difference < 0 and found.interval.high < 0 and found.p < 0.002
    assert found.p >= 2 / 2001  # so many draws can know no more
    alike = paired_difference(draw.binomial(said, 0.35), reference, said, 2000, 0)
    assert alike.p > 0.05 and alike.interval.low < 0 < alike.interval.high
    assert paired_difference(reference, reference, said, 500, 0).p == 1.0
    swapped = paired_difference(reference, better, said, 2000, 0)
    assert swapped.difference == -found.difference and swapped.p == found.p


def test_pairs_know_more_than_two_intervals_do():
    """Two systems that err in the same clips: their intervals overlap, their difference is certain."""
    draw = np.random.default_rng(7)
    said = draw.integers(5, 10, size=100)
    hard = draw.random(100) < 0.3
    reference = np.where(hard, said - 1, 0)
    better = np.maximum(reference - hard, 0)
    one, other = (rate_interval(errors, said, 2000, 0) for errors in (reference, better))
    assert other.high > one.low
    assert paired_difference(better, reference, said, 2000, 0).p < 0.01


def test_false_alarms_are_as_rare_as_p_says():
    draw, alarms = np.random.default_rng(11), 0
    for trial in range(200):
        said = draw.integers(3, 12, size=60)
        pair = draw.binomial(said, 0.25), draw.binomial(said, 0.25)
        alarms += paired_difference(*pair, said, 300, trial).p < 0.05
    assert alarms <= 22


def test_a_comparison_takes_the_clips_that_both_answered():
    said = ["one two", "three four", "five six"]
    one = judged(said, ["one two", Heard(error="x"), "five"])
    other = judged(said, ["one", "three", Heard(error="y")])
    found = compared(one, other, EvaluationSettings(resamples=100))
    assert found.clips == 1 and found.difference == -0.5


def test_groups_are_languages_and_lengths_and_nothing_is_lost():
    clips = judged(
        ["a b", "c", "d e", "f"], ["a", "c", "d x", "f"], ["en", "it", "en", None], [1.0, 2.0, 31, 7]
    )
    groups = groups_by_language(clips)
    assert {name: rows.tolist() for name, rows in groups.items()} == {"en": [0, 2], "it": [1], "unknown": [3]}
    lengths = {name: rows.tolist() for name, rows in groups_by_length(clips).items()}
    assert lengths == {"0-2 s": [0], "2-5 s": [1], "5-10 s": [3], "over 30 s": [2]}
    assert score(clips.take(groups["en"]), 50, 0).wer == 0.5
    twice = joined([clips, clips])
    assert len(twice) == 8 and score(twice, 50, 0).wer == score(clips, 50, 0).wer


def test_languages_without_spaces_are_read_in_characters():
    ways = Normalisers.named(["basic", "zh=chinese"])
    item = Utterance("x.wav", "\u4eca\u5929\u5929\u6c14\u5f88\u597d", "zh")
    run = Run((Heard("\u4eca\u5929 \u5929\u6c14 \u4e0d\u597d"),), (1.0,), 1.0, {}, {})
    found = score(judge_run([item], run, ways), 50, 0)
    assert found.measure == "cer" and found.rate == pytest.approx(1 / 6)
    assert ways.facts() == {
        "default": {"name": "basic", "version": 1},
        "zh": {"name": "chinese", "version": 1},
    }
    assert str(ways) == "basic/1, zh: chinese/1"
    assert judged(["x"], ["y"]).unspaced is False


def test_alignments_say_what_the_counts_say():
    said, heard = "please press the one key now", "please press one keys now and then"
    columns = columns_of(said, heard)
    marks = [column.mark for column in columns]
    counts = clip_counts([heard], [said], "words")[0]
    assert [marks.count(mark) for mark in ("S", "D", "I")] == counts[1:].tolist()
    assert [column.said for column in columns if column.said] == said.split()
    assert [column.heard for column in columns if column.heard] == heard.split()
    rows = drawn_alignment(columns).split("\n")
    assert rows[0].index("key") == rows[1].index("keys") == rows[2].index("S")
    assert all(column.mark == "I" for column in columns_of("", "uh oh"))


def test_long_alignments_are_broken_and_wide_signs_keep_columns():
    drawn = drawn_alignment(columns_of(" ".join(WORDS * 8), " ".join(WORDS * 8)))
    assert max(map(len, drawn.split("\n"))) <= 110 and drawn.count("said ") > 2
    assert shown_width("\u4eca\u5929") == 4 and shown_width("e\u0301") == 1
    rows = drawn_alignment(columns_of("\u4eca \u5929 b", "\u4eca \u6c14 b")).split("\n")
    assert shown_width(rows[0].split("b")[0]) == shown_width(rows[1].split("b")[0])


def test_worst_clips_are_those_with_most_errors_and_never_faultless_or_failed_ones():
    said = ["a", "a b c d e f", "a b c d", "a b", "a b"]
    heard = ["a", "x y z d e f", "x y z d", Heard(error="gone"), "a x"]
    assert worst_clips(judged(said, heard), 10) == [2, 1, 4]
    assert worst_clips(judged(said, heard), 1) == [2]


def test_languages_found_are_compared_with_those_spoken():
    heard = [Heard("x", "en"), Heard("x", "English"), Heard("x", "fr"), Heard("x"), Heard(error="gone")]
    found = identification(judged(["x"] * 5, heard, ["en", "en", "it", "it", "en"]))
    assert found.clips == 3 and found.accuracy == pytest.approx(2 / 3)
    assert found.confusion == {"en": {"en": 2}, "it": {"fr": 1}}
    assert found.accuracy_by_language == {"en": 1.0, "it": 0.0}
    assert identification(judged(["x"], ["x"])) is None


@pytest.mark.parametrize(
    ("name", "short"),
    [("en-US", "en"), ("en_uk", "en"), ("English", "en"), ("it", "it"), ("xx", "xx"), ("", None)],
)
def test_services_name_languages_in_many_ways(name, short):
    assert short_language(name) == short


def test_a_normaliser_that_changes_what_it_does_needs_a_new_version():
    def digest(item):
        return hashlib.sha256("\n".join(map(item, STRINGS)).encode()).hexdigest()[:12]

    found = {str(item): digest(item) for item in NORMALISERS.values()}
    assert found == DIGESTS, "raise its version in NORMALISERS, and put the new digest here"
