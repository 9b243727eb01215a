"""What the demo's page is made of: checkpoints, windows, pictures, and HTML in which nothing is left raw."""

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from shown_checkpoints import KINDS, page_of, save_checkpoints
from speechllm.cli.main import main
from speechllm.cli.transcript_formats import FORMATS, Transcript
from speechllm.default_checkpoint import NAME as DEFAULT
from speechllm.demo import views
from speechllm.demo.attention import look_inside, words_of
from speechllm.demo.checkpoints import Checkpoint, comparable, find_checkpoints
from speechllm.demo.examples import AUDIO, read_examples
from speechllm.demo.pictures import BANDS, COLUMNS, band_edges, envelope, heat, spectrogram
from speechllm.demo.recognizers import Recognizers
from speechllm.demo.transcription import WINDOWS_AT_ONCE, Hearing, Request, read_sound, transcribe
from speechllm.demo.visits import Visits

RATE = 16000
WINDOW = 2.0
# Few words: what a tiny random model says of a window has no end.
BRIEF = Request(window_seconds=WINDOW, most_tokens=8)


@pytest.fixture(scope="module")
def page(compose_whisper, bases, tmp_path_factory):
    return page_of(save_checkpoints(compose_whisper, tmp_path_factory.mktemp("shown")), bases)


@pytest.fixture(scope="module")
def talk(clips, tmp_path_factory):
    """The clips one after the other, 12 s."""
    path = tmp_path_factory.mktemp("talk") / "a talk.wav"
    soundfile.write(path, np.concatenate(clips), RATE)
    return str(path)


def last(stages):
    return list(stages)[-1]


def heard(page, name, path, request) -> Hearing:
    return last(page.hearings(path, name, request))


def test_given_checkpoints_come_before_shipped_ones_and_names_are_unique(page, tmp_path):
    sources = [checkpoint.source for checkpoint in page.checkpoints.values()]
    namesake = tmp_path / "plain"
    namesake.mkdir()
    (namesake / "config.json").write_bytes((page_folder(page) / "plain" / "config.json").read_bytes())
    found = find_checkpoints([str(namesake)], shipped=page_folder(page))
    assert list(found) == ["plain", "dual", sources[2], "routed"]


def test_a_page_of_shipped_checkpoints_opens_with_the_default(page, tmp_path):
    for name in ("another", DEFAULT, "yet-another"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(
            (page_folder(page) / "plain" / "config.json").read_bytes()
        )
    assert list(find_checkpoints(shipped=tmp_path)) == [DEFAULT, "another", "yet-another"]


def page_folder(page):
    return Path(page.checkpoints["plain"].source).parent


def test_without_any_checkpoint_one_line_says_how_to_get_one(tmp_path):
    with pytest.raises(ValueError, match="--model FOLDER_OR_ID.*speechllm train") as error:
        find_checkpoints([], shipped=tmp_path)
    assert "\n" not in str(error.value)


def test_command_ends_with_one_line_where_a_checkpoint_is_none(tmp_path, capsys):
    assert main(["demo", "--model", str(tmp_path), "--device", "cpu"]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("speechllm demo: ") and str(tmp_path) in lines[0]


def test_password_without_a_name_is_refused(page, capsys):
    source = page.checkpoints["plain"].source
    assert main(["demo", "--model", source, "--auth", "secret", "--device", "cpu"]) == 1
    assert "NAME:PASSWORD" in capsys.readouterr().err


def test_a_checkpoint_offers_only_the_routings_that_it_has(page):
    config = page.checkpoints["routed"].config
    assert page.checkpoints["routed"].routings == ["hard", "soft", "threshold", "segments", "base"]
    assert page.checkpoints["plain"].routings == []
    bank_alone = Checkpoint("bank", "bank", type(config)(**{**config.to_dict(), "router_config": None}))
    assert bank_alone.routings == ["base"]
    assert page.checkpoints["routed"].languages == ["fr", "it", "el"]


def test_example_clips_are_small_licensed_and_each_has_its_row():
    rows = [line for line in (AUDIO / "README.md").read_text().splitlines() if line.startswith("| `")]
    examples = read_examples()
    assert {example.path for example in examples} == {
        path.resolve() for path in AUDIO.iterdir() if path.suffix != ".md"
    }
    assert all(re.search(r"\| (CC-BY(-SA)?-3\.0|GPL-2) \|$", row) for row in rows)
    assert all(example.text and example.path.stat().st_size < 100_000 for example in examples)
    assert all(soundfile.info(example.path).samplerate == RATE for example in examples)


def test_untouched_settings_leave_everything_to_the_checkpoint(page, talk):
    options = Request().pipeline_options()
    assert options["generate_kwargs"] == {} and options["language"] is options["routing"] is None
    sampled = Request(temperature=0.5, beams=3, most_tokens=7).pipeline_options()["generate_kwargs"]
    assert sampled == {
        "num_beams": 3, "do_sample": True, "temperature": 0.5, "top_p": 1.0, "top_k": 50, "max_new_tokens": 7,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["routed", "plain"])
def test_windows_make_the_transcript_that_the_pipeline_makes_of_the_whole_file(page, talk, name):
    pipeline = page.recognizers.get(page.checkpoints[name].source)
    request = BRIEF
    stages = [stage for stage in page.hearings(talk, name, request) if isinstance(stage, Hearing)]
    whole = pipeline(talk, chunk_length_s=WINDOW, **request.pipeline_options())
    found, expected = stages[-1].transcript, Transcript.from_result("a talk.wav", whole)
    assert len(stages[-1].results) > WINDOWS_AT_ONCE
    assert found.text == expected.text and found.language == expected.language
    assert [chunk["timestamp"] for chunk in found.chunks] == [c["timestamp"] for c in expected.chunks]
    assert [chunk["text"] for chunk in found.chunks] == [chunk["text"] for chunk in expected.chunks]
    assert found.confidence == pytest.approx(expected.confidence, rel=1e-4)
    assert stages[-1].scores == pytest.approx(whole.get("language_scores", {}), rel=1e-4)


def test_progress_grows_with_the_windows_and_ends_at_the_whole(page, talk):
    pipeline = page.recognizers.get(page.checkpoints["plain"].source)
    sound = read_sound(pipeline, talk, WINDOW, 60)
    done = [
        (hearing.done, hearing.finished, views.progress(hearing))
        for hearing in transcribe(pipeline, sound, BRIEF, page.recognizers.computing)
    ]
    assert [finished for _, finished, _ in done] == [False] * (len(done) - 1) + [True] and len(done) > 1
    assert 0 < done[0][0] < done[-1][0] == pytest.approx(sound.duration)
    assert f'aria-valuenow="{100 * done[0][0] / sound.duration:.0f}"' in done[0][2]


def test_what_is_left_to_wait_is_told_from_what_it_took_so_far(page, talk):
    hearing = heard(page, "plain", talk, BRIEF)
    shares = [segment.end / hearing.sound.duration for segment in hearing.sound.segments]
    hearing.results, hearing.took = hearing.results[:2], 30.0
    left = 30.0 / shares[1] - 30.0
    assert left > 60 and f"about {views.minutes(left)} to wait" in views.progress(hearing)


@pytest.mark.parametrize(
    "content, words", [(b"no sound at all", "text, not audio"), (b"", "empty"), (None, "file first")]
)
def test_what_cannot_be_heard_is_said_in_one_line(page, tmp_path, content, words):
    path = tmp_path / "<i>bad.wav"
    path.write_bytes(content or b"")
    shown = last(page.transcript(None if content is None else str(path), "plain"))
    assert 'role="alert"' in shown and words in shown and "<i>" not in shown


def test_sound_beyond_the_limit_is_refused_before_anything_is_computed(page, talk):
    shown = last(replace(page, most_minutes=0.1).transcript(talk, "plain"))
    assert "a talk.wav lasts more than 0.1 min" in shown and 'role="alert"' in shown


def test_a_request_that_the_checkpoint_refuses_is_told(page, talk):
    assert "finds the languages by itself" in last(page.transcript(talk, "routed", "it", "segments"))


def test_a_fault_of_the_page_leaves_no_traceback_on_it(page, talk, caplog):
    def broken(source):
        raise KeyError("inner secret")

    shown = last(replace(page, recognizers=Recognizers(broken)).transcript(talk, "plain"))
    assert "has a fault" in shown and "inner secret" not in shown
    assert "inner secret" in caplog.text


@pytest.mark.parametrize("beams", [1, 2])
def test_a_visitor_who_stops_is_rid_of_it_in_the_middle_of_a_window(page, talk, beams):
    stages = page.transcript(talk, "plain", *replace(Request(), beams=beams).__dict__.values(), session="me")
    page.visits.begin("me")
    assert "Listening" in next(stages)
    page.visits.stop("me")
    assert "Stopped" in next(stages) and next(stages, None) is None
    assert not page.recognizers.computing.locked()
    # Others go on, and so does whoever stopped.
    page.visits.begin("me")
    assert "downloads" in last(page.transcript(talk, "plain", session="me"))


def test_a_visitor_who_has_to_wait_for_others_is_known():
    visits = Visits()
    visits.begin("me")
    assert not visits.others("me") and visits.others("you")
    visits.end("me")
    assert not visits.others("you")


def test_the_two_checkpoints_used_last_stay_loaded():
    loaded = []
    recognizers = Recognizers(lambda source: loaded.append(source) or source)
    for source in ("a", "b", "a", "c", "a", "b"):
        assert recognizers.get(source) == source
    assert loaded == ["a", "b", "c", "b"]


def test_downloads_hold_the_formats_of_the_command_line(page, talk):
    shown = last(page.transcript(talk, "plain"))
    links = re.findall(r'<a download="([^"]+)" data-format="(\w+)" href="data:[^,]+,([^"]+)"', shown)
    transcript = heard(page, "plain", talk, Request()).transcript
    assert [name for name, _, _ in links] == [
        f"a talk{suffix}" for suffix in (".srt", ".vtt", ".txt", ".json")
    ]
    assert {form for _, form, _ in links} == set(FORMATS)
    for _, form, content in links:
        assert base64.b64decode(content).decode() == FORMATS[form].render(transcript)
    assert json.loads(base64.b64decode(links[-1][2]))["text"] == transcript.text


def test_router_scores_are_bars_that_add_up_and_the_choice_is_marked(page, talk):
    shown = last(page.transcript(talk, "routed", "", "soft"))
    bars = re.findall(r"<li( class=\"chosen\")?><span>(\w+)</span>.*?width:([\d.]+)%", shown)
    assert {name for _, name, _ in bars} == {"Italian", "French", "Greek"}
    assert sum(float(width) for *_, width in bars) == pytest.approx(100, abs=0.5)
    best = max(bars, key=lambda bar: float(bar[2]))
    assert [bar for bar in bars if bar[0]] == [best] and "all adapters" in shown


def test_a_named_language_is_told_with_its_adapter(page, talk):
    shown = last(page.transcript(talk, "routed", "it"))
    assert "as you said; adapter it" in shown


def test_segments_lie_where_they_were_said(page, talk):
    hearing = heard(page, "plain", talk, BRIEF)
    shown = views.timeline(hearing, hearing.transcript, "gradio_api/file=x")
    cues = re.findall(
        r'style="left:([\d.]+)%;width:([\d.]+)%" data-start="([\d.]+)" data-end="([\d.]+)"', shown
    )
    assert len(cues) == len(views.spoken(hearing.transcript)) > 1
    for left, width, start, end in (map(float, cue) for cue in cues):
        assert left == pytest.approx(100 * start / hearing.sound.duration, abs=0.01)
        assert left + width == pytest.approx(100 * end / hearing.sound.duration, abs=0.02)


def test_texts_are_escaped_wherever_they_are_shown(page, talk):
    hearing = heard(page, "plain", talk, Request())
    hostile = "<script>alert('x')</script>"
    for result in hearing.results:
        result["text"] = result["language"] = hostile
        for chunk in result["chunks"]:
            chunk["text"] = hostile
    hearing.sound.name = f'"{hostile}.wav'
    checkpoint = replace(page.checkpoints["plain"], name=hostile)
    shown = [
        views.outcome(hearing, checkpoint, Request(), f'"{hostile}'),
        views.progress(hearing),
        views.comparison([(checkpoint, hearing)] * 2),
        views.trouble(hostile),
    ]
    assert all("<script" not in html and '=""' not in html and "alert(" in html for html in shown)


def test_comparison_marks_the_words_that_differ_and_no_others():
    left, right = views.differing("The cat, sat <down>", "the dog sat")
    assert left == "The <mark>cat,</mark> sat <mark>&lt;down&gt;</mark>"
    assert right == "the <mark>dog</mark> sat"


def test_a_checkpoint_with_a_bank_can_be_compared_with_itself_without_it(page, talk):
    one = {"routed": page.checkpoints["routed"]}
    bare = "routed without adapters"
    assert list(comparable(one)) == ["routed", bare] and list(comparable(page.checkpoints))[:3] == [*KINDS]
    assert list(comparable({"plain": page.checkpoints["plain"]})) == ["plain"]
    alone = replace(page, checkpoints=one)
    shown = last(alone.compared(talk, "routed", bare, "it"))
    assert shown.count("<article>") == 2 and "no adapter" in shown
    texts = re.findall(r'<p class="text" dir="auto">(.*?)</p>', shown)
    own, base = (heard(page, "routed", talk, Request(language="it", routing=way)) for way in ("", "base"))
    assert own.transcript.text != base.transcript.text
    assert texts == views.differing(own.transcript.text, base.transcript.text)


def test_two_checkpoints_are_compared_side_by_side_each_in_a_way_it_can(page, talk):
    stages = list(page.compared(talk, "routed", "plain", "", "soft"))
    assert stages[-1].count("<article>") == 2 and 'role="alert"' not in stages[-1]
    # The first is there while the second is still being heard.
    assert any(stage.count("<article>") == 1 and "bar endless" in stage for stage in stages)


def test_attention_of_every_word_covers_the_sound_and_the_gate_is_a_share(page, talk):
    pipeline = page.recognizers.get(page.checkpoints["dual"].source)
    sound = read_sound(pipeline, talk, 30.0, 60)
    look = look_inside(pipeline, sound.segments[0], "one two three", "it")
    assert look.words == ["one", "two", "three"]
    frames = round(sound.duration * 50)
    assert look.primary.shape == look.secondary.shape and abs(look.primary.shape[1] - frames) <= 1
    assert look.shares.shape == (3, 2) and (look.shares > 0).all() and (look.shares < 1).all()
    assert look.primary.max(axis=1) == pytest.approx(1)
    assert look_inside(pipeline, sound.segments[0], " ", "it") is None


def test_a_word_is_pictured_where_it_was_written_and_not_where_it_was_read(page, talk):
    pipeline = page.recognizers.get(page.checkpoints["dual"].source)
    segment = read_sound(pipeline, talk, 30.0, 60).segments[0]
    # Tokens are characters: what wrote the last one has read all before it, and not itself.
    look = {text: look_inside(pipeline, segment, text, "it").primary for text in ("ab", "ac", "db")}
    np.testing.assert_allclose(look["ab"], look["ac"], atol=1e-6)
    assert np.abs(look["ab"] - look["db"]).max() > 1e-4


def test_only_a_checkpoint_with_two_attentions_shows_them(page, talk):
    assert "Inside the two attentions" in last(page.transcript(talk, "dual"))
    assert "Inside the two attentions" not in last(page.transcript(talk, "plain"))


def test_characters_that_are_spread_over_tokens_stay_in_one_word():
    pieces = {0: " a", 1: "b", 2: " \ufffd", 3: "\ufffd", 4: " c"}

    def decode(ids):
        return "".join(pieces[one] for one in ids)

    assert words_of([0, 1, 2, 3, 4], decode) == [[0, 1], [2, 3], [4]]


def test_a_tone_is_brightest_in_its_band():
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    picture = spectrogram(tone, RATE)
    edges = band_edges(257, RATE)
    band = int(np.searchsorted(edges, 1000 / (RATE / 2) * 256, side="right")) - 1
    assert picture.shape[0] == BANDS and abs(int(picture.mean(axis=1).argmax()) - (BANDS - 1 - band)) <= 1


@pytest.mark.parametrize("samples", [1, 300, 16000, 16000 * 90])
def test_pictures_of_any_length_are_of_bounded_size(samples):
    waveform = np.linspace(-0.5, 0.5, samples, dtype=np.float32)
    peaks, picture = envelope(waveform), spectrogram(waveform, RATE)
    assert 1 <= len(peaks) <= COLUMNS and peaks.max() == pytest.approx(1)
    assert 1 <= picture.shape[1] <= 2 * COLUMNS and np.isfinite(picture).all()
    assert len(heat(picture)) < 400_000
