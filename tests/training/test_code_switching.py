"""Speech that changes its language: made, found again, scored, drawn."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from speechllm.modeling.router.frame_routing import LanguageSegment
from speechllm.training.data.utterances import Utterance, read_manifest, write_manifest
from speechllm.training.routing.code_switching import SWITCH_KINDS, Switching, write_switched
from speechllm.training.routing.switch_metrics import (
    score_switches,
    switch_latencies,
    time_right,
    truth_of,
    word_error_rise,
)
from speechllm.training.routing.switch_picture import draw_switches
from speechllm.training.routing.switch_sounds import LEVEL, Piece, joined_with_fades, quietest, split_words

RATE = 16000
PITCHES = {"hi": 300.0, "it": 900.0, "te": 2500.0}


def spoken(language: str, words: int, loudness: float) -> np.ndarray:
    """Words of .3 s at the language's pitch, with silence of .1 s after each."""
    time = np.arange(int(0.3 * RATE)) / RATE
    word = loudness * np.sin(2 * np.pi * PITCHES[language] * time) * np.hanning(len(time)) ** 0.25
    return np.tile(np.concatenate([word, np.zeros(int(0.1 * RATE))]), words).astype(np.float32)


@pytest.fixture(scope="module")
def manifests(tmp_path_factory) -> dict:
    """For each language six utterances of 4 to 9 words, every language at a loudness of its own."""
    root, paths = tmp_path_factory.mktemp("corpora"), {}
    for loudness, language in zip((0.02, 0.3, 0.9), PITCHES, strict=True):
        folder = root / language
        folder.mkdir()
        utterances = []
        for index in range(6):
            words = 4 + index
            soundfile.write(folder / f"{index}.wav", spoken(language, words, loudness), RATE)
            text = " ".join(f"{language}{index}{number}" for number in range(words))
            utterances.append(
                Utterance(str(folder / f"{index}.wav"), text, language, id=f"{language}-{index}")
            )
        paths[language] = folder / "manifest.jsonl"
        write_manifest(paths[language], utterances)
    return paths


def loudest_pitch(samples: np.ndarray) -> str:
    """The language whose pitch has the most energy."""
    time = np.arange(len(samples)) / RATE
    energy = {name: abs(np.exp(-2j * np.pi * pitch * time) @ samples) for name, pitch in PITCHES.items()}
    return max(energy, key=energy.get)


@pytest.mark.parametrize("kind", SWITCH_KINDS)
def test_manifest_says_what_is_heard(kind, manifests, tmp_path):
    written = write_switched(manifests, tmp_path, Switching(kind, count=6))
    again = read_manifest(tmp_path / "manifest.jsonl")
    assert again == written and len(again) == 6
    for utterance in again:
        samples, rate = soundfile.read(utterance.audio, dtype="float32")
        assert rate == RATE and len(samples) / RATE == pytest.approx(utterance.seconds)
        segments = utterance.extra["segments"]
        assert segments[0]["start"] == 0 and segments[-1]["end"] == pytest.approx(utterance.seconds, abs=1e-3)
        assert utterance.extra["boundaries"] == [segment["start"] for segment in segments[1:]]
        for left, right in zip(segments, segments[1:], strict=False):
            assert left["language"] != right["language"] and left["end"] <= right["start"]
        for segment in segments:
            heard = samples[round(segment["start"] * RATE) : round(segment["end"] * RATE)]
            assert loudest_pitch(heard) == segment["language"]
            # By loudness the sources differ 45-fold.
            assert np.sqrt(np.mean(heard**2)) == pytest.approx(LEVEL, rel=0.3)
            assert all(word.startswith(segment["language"]) for word in segment["text"].split())
        assert utterance.text == " ".join(segment["text"] for segment in segments if segment["text"])


def test_texts_of_whole_utterances_are_exact_and_those_of_parts_say_that_they_are_estimated(
    manifests, tmp_path
):
    texts = {item.id: item.text for path in manifests.values() for item in read_manifest(path)}
    for kind in SWITCH_KINDS:
        for utterance in write_switched(manifests, tmp_path / kind, Switching(kind, count=8)):
            segments = utterance.extra["segments"]
            for segment in segments:
                if not segment["text_is_estimated"]:
                    assert segment["text"] == texts[segment["source"]]
            if kind == "inter":
                assert not any(segment["text_is_estimated"] for segment in segments)
            if kind == "intra":
                assert [segment["text_is_estimated"] for segment in segments] == [True, False, True]
                host = f"{segments[0]['text']} {segments[2]['text']}"
                assert host.split() == texts[segments[0]["source"]].split()
            if kind == "rapid":
                assert all(segment["end"] - segment["start"] < 1.7 for segment in segments)
                assert len(segments) >= 4


def test_cuts_lie_in_the_silence_between_words(manifests, tmp_path):
    for utterance in write_switched(manifests, tmp_path, Switching("intra", count=8)):
        cut = utterance.extra["boundaries"][0]
        within = cut % 0.4
        assert within > 0.28 or within < 0.02


def test_known_times_of_words_make_the_texts_of_parts_exact(manifests, tmp_path):
    timed = []
    for item in read_manifest(manifests["hi"]):
        words = [[word, 0.4 * place, 0.4 * place + 0.3] for place, word in enumerate(item.text.split())]
        timed.append(Utterance(item.audio, item.text, id=item.id, extra={"words": words}))
    written = write_switched({"hi": timed, "it": manifests["it"]}, tmp_path, Switching("rapid", count=6))
    phrases = [part for item in written for part in item.extra["segments"] if part["language"] == "hi"]
    assert phrases and not any(part["text_is_estimated"] for part in phrases)
    for part in phrases:
        assert len(part["text"].split()) == round((part["end"] - part["start"] + 0.05) / 0.4)


def test_clips_depend_on_their_seed_and_number_alone(manifests, tmp_path):
    few = write_switched(manifests, tmp_path / "few", Switching("rapid", count=2))
    many = write_switched(manifests, tmp_path / "many", Switching("rapid", count=4))
    other = write_switched(manifests, tmp_path / "other", Switching("rapid", count=2, seed=1))
    for left, right in zip(few, many, strict=False):
        assert (tmp_path / "few" / f"{left.id}.wav").read_bytes() == Path(right.audio).read_bytes()
        assert left.extra == right.extra
    assert [item.extra for item in few] != [item.extra for item in other]


def test_joints_do_not_click():
    time = np.arange(RATE) / RATE
    loud = Piece(np.cos(2 * np.pi * 5 * time).astype(np.float32), "a", "", "")
    for pause in (0.0, 0.2):
        samples, spans = joined_with_fades([loud, loud, loud], [pause, pause], 0.02)
        assert np.abs(np.diff(samples)).max() < 0.01
        assert np.abs(samples).max() <= 1.0 + 1e-6
        assert spans[1][0] == pytest.approx(0.99 if pause == 0 else 1.2, abs=1e-3)
    assert samples[int(1.1 * RATE)] == 0


def test_loud_mixtures_do_not_clip(tmp_path):
    impulses = np.zeros(RATE, dtype=np.float32)
    impulses[::4000] = 1.0
    soundfile.write(tmp_path / "a.wav", impulses, RATE)
    sources = {name: [Utterance(str(tmp_path / "a.wav"), "tick")] for name in ("hi", "it")}
    (clip,) = write_switched(sources, tmp_path / "out", Switching(count=1))
    peak = np.abs(soundfile.read(clip.audio)[0]).max()
    assert 0.98 < peak < 0.995


def test_quietest_point_is_in_the_pause_and_within_the_bounds():
    samples = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)
    samples[int(1.2 * RATE) : int(1.4 * RATE)] = 0
    assert 1.22 < quietest(samples, 0.5, 1.9) / RATE < 1.38
    assert 0.5 <= quietest(samples, 0.5, 1.0) / RATE <= 1.02
    assert split_words("a b c d", None, 0.5, 9.0) == ("a b", "c d")
    assert split_words("", [["a", 0, 1], ["b", 1, 2]], 0.9, 1.2) == ("a", "b")


def test_unusable_sources_are_refused_in_one_line(manifests, tmp_path):
    there = str(manifests["hi"].parent / "0.wav")
    faults = [
        ({"hi": manifests["hi"]}, "at least 2 languages, not \\['hi'\\]"),
        ({**manifests, "xx": []}, "the manifest of xx holds no utterances"),
        ({**manifests, "xx": [Utterance(there, " ", id="u1")]}, "1 utterances without text, u1 first"),
        ({**manifests, "xx": [Utterance("gone.wav", "a")]}, "1 utterances without audio, gone.wav first"),
        ({**manifests, "xx": [Utterance("", "a", id="u2")]}, "1 utterances without audio, u2 first"),
    ]
    for sources, message in faults:
        with pytest.raises(ValueError, match=message) as caught:
            write_switched(sources, tmp_path / "out", Switching(count=1))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="no utterance of .. is as short as 0.6 s"):
        write_switched(manifests, tmp_path / "out", Switching(count=1, turns=(2, 2), longest_seconds=2))
    with pytest.raises(ValueError, match="no kind of switching 'slow'; there are inter, intra, rapid"):
        Switching("slow")
    with pytest.raises(ValueError, match="turns=\\(1, 2\\) must be at least 2"):
        Switching(turns=(1, 2))


TRUTH = [LanguageSegment(0.0, 1.0, "a"), LanguageSegment(1.0, 2.0, "b"), LanguageSegment(2.0, 3.0, "a")]
ENDS = [round(0.5 + 0.1 * window, 1) for window in range(26)]


def test_latency_counts_from_the_change_to_the_end_of_the_first_stable_right_window():
    labels = (
        ["a"] * 8 + ["b"] * 10 + ["a"] * 8
    )  # windows that end at 1.3 and 2.3 are the first of their label
    assert switch_latencies(labels, ENDS, TRUTH) == pytest.approx([0.3, 0.3])
    flickering = [*labels[:6], "b", "a", "a", "b", "b", "b", *labels[12:]]
    assert switch_latencies(flickering, ENDS, TRUTH)[0] == pytest.approx(0.4)
    assert switch_latencies(["a"] * 26, ENDS, TRUTH) == [None, pytest.approx(0.1)]
    assert switch_latencies(["b"] * 26, ENDS, TRUTH) == [pytest.approx(0.1), None]


def test_segment_shorter_than_stability_needs_all_its_windows():
    truth = [TRUTH[0], LanguageSegment(1.0, 1.2, "b"), LanguageSegment(1.2, 3.0, "a")]
    for heard, expected in (("bb", 0.1), ("ba", None), ("ab", None)):
        labels = ["a"] * 6 + list(heard) + ["a"] * 18
        first = switch_latencies(labels, ENDS, truth)[0]
        assert first == (None if expected is None else pytest.approx(expected))


def test_scores_count_changes_in_time_late_and_missed():
    found = [LanguageSegment(0.0, 1.3, "a"), LanguageSegment(1.3, 3.0, "b")]
    assert time_right(found, TRUTH) == (pytest.approx(1.7), 3.0)
    scores = score_switches([[0.3, None], [0.9, 0.1]], [found, TRUTH], [TRUTH, TRUTH])
    assert (scores.boundaries, scores.found_in_time, scores.missed) == (4, 0.5, 0.25)
    assert scores.median_latency == 0.3 and scores.mean_latency == pytest.approx(1.3 / 3)
    assert scores.time_accuracy == pytest.approx(4.7 / 6)
    nothing = score_switches([[]], [TRUTH[:1]], [TRUTH[:1]])
    assert nothing.found_in_time is None and nothing.time_accuracy == 1.0


def test_rise_of_word_errors_is_absolute_and_relative():
    single = (["a b c d", "e f g h i j"], ["a b c d", "e f g h i x"])  # 1 of 10
    switched = (["a b c d e"], ["a x c d e"])  # 1 of 5
    rise = word_error_rise(single, switched)
    assert (rise.single, rise.switched) == (pytest.approx(0.1), pytest.approx(0.2))
    assert (rise.absolute, rise.relative) == (pytest.approx(0.1), pytest.approx(1.0))
    assert word_error_rise((["a"], ["a"]), switched).relative is None
    with pytest.raises(ValueError, match="1 references and 0 hypotheses do not pair up"):
        word_error_rise((["a"], []), switched)


def test_truth_is_read_from_the_manifest(manifests, tmp_path):
    (clip,) = write_switched(manifests, tmp_path, Switching("intra", count=1))
    truth = truth_of(clip.extra)
    assert len(truth) == 3 and truth[0].label == truth[2].label != truth[1].label
    with pytest.raises(ValueError, match="no segments in extra"):
        truth_of({"kind": "intra"})


def test_picture_of_the_decisions_is_drawn_over_the_whole_clip(tmp_path):
    borders = [0.0, *[0.3 + 0.1 * window for window in range(25)], 3.0]
    probabilities = np.zeros((26, 2))
    probabilities[:, 0] = np.linspace(1, 0, 26)
    probabilities[:, 1] = 1 - probabilities[:, 0]
    with_sound, without = tmp_path / "sound.png", tmp_path / "plain.png"
    arguments = (probabilities, borders, TRUTH[:2], TRUTH, ["a", "b"])
    draw_switches(with_sound, *arguments, samples=np.sin(np.arange(3 * RATE)), title="clip")
    draw_switches(without, *arguments)
    for path in (with_sound, without):
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10000
