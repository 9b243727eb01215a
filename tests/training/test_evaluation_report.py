"""What an evaluation finds ends in files that say it all, and the command says in one line what is wrong."""

import json
import math

import pytest
from evaluation_corpus import LANGUAGES, TEXTS, evaluated, ours, save_checkpoint, write_corpus
from matplotlib.image import imread
from speechllm.cli.main import main
from speechllm.training.data.utterances import read_manifest
from speechllm.training.evaluation.evaluation import evaluate_systems
from speechllm.training.evaluation.evaluation_sets import NoiseSweep, read_set
from speechllm.training.evaluation.evaluation_settings import ALL_SETS, EvaluationSettings
from speechllm.training.evaluation.report import write_report


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, clips):
    return write_corpus(tmp_path_factory.mktemp("corpus"), clips)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, compose_whisper):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "ours", compose_whisper)


@pytest.fixture(scope="module")
def evaluation(checkpoint, corpus, tmp_path_factory):
    """Two systems, clean and under noise, with latency; and where its report lies."""
    folder = tmp_path_factory.mktemp("report")
    sweep = NoiseSweep(kinds=("white", "babble"), snrs=(math.inf, 5.0), clips=3)
    settings = EvaluationSettings(resamples=50, latency_clips=2, sweep=sweep, folder=folder)
    systems = [ours(checkpoint, language="given"), ours(checkpoint, "found")]
    found = evaluate_systems(systems, [read_set(str(corpus))], settings)
    write_report(found, folder, command="speechllm evaluate ...")
    return found, folder


def test_our_checkpoints_say_what_the_pipeline_says(checkpoint, corpus, evaluation):
    from speechllm import (
        SpeechLLMForConditionalGeneration,
        SpeechLLMPipeline,
        SpeechLLMProcessor,
    )

    found, _ = evaluation
    asr = SpeechLLMPipeline(
        SpeechLLMForConditionalGeneration.from_pretrained(checkpoint),
        SpeechLLMProcessor.from_pretrained(checkpoint),
    )
    for item, heard in zip(read_manifest(corpus), found.result("ours", "test").clips.heard, strict=True):
        assert heard.text == asr(item.audio, language=item.language, max_new_tokens=4)["text"]
        assert heard.language is None  # it was told
    languages = [heard.language for heard in found.result("found", "test").clips.heard]
    assert all(language is not None for language in languages)
    assert found.result("found", "test").identification.clips == len(TEXTS)
    assert found.result("ours", "test").identification is None


def test_a_sweep_scores_every_noise_at_every_ratio_and_takes_clean_from_the_set(evaluation):
    found, folder = evaluation
    points = {(one.system, one.noise, one.snr_db): one for one in found.noise}
    assert len(points) == 2 * 2 * 2
    assert all(one.score.clips == 3 for one in points.values())
    clean = found.result("ours", "test").clips.take([0, 1, 2])
    assert points["ours", "white", math.inf].score.said_words == 6
    errors = clean.words[:, 1:].sum()
    assert (
        points["ours", "white", math.inf].score.wer
        == errors / 6
        == points["ours", "babble", math.inf].score.wer
    )
    assert points["found", "white", 5.0].against.clips == 3 and points["ours", "white", 5.0].against is None
    names = {path.name for path in (folder / "transcripts").iterdir()}
    assert "ours.test@white@5dB.jsonl" in names and len(names) == 2 * 3


def test_results_say_how_they_came_about(evaluation):
    found, folder = evaluation
    facts = json.loads((folder / "results.json").read_text())
    assert facts["command"] == "speechllm evaluate ..." and facts["reference"] == "ours"
    assert facts["normalisers"] == {"default": {"name": "basic", "version": 1}}
    assert facts["bootstrap"]["resamples"] == 50 and facts["versions"]["jiwer"] and facts["hardware"]["cores"]
    about = facts["sets"]["test"]
    assert (about["clips"], about["clips_without_words"], about["split"]) == (6, 1, "test")
    assert about["languages"] == {"en": 3, "fr": 1, "it": 2} and about["fingerprint"]
    assert facts["systems"]["ours"]["dtype"] == "float32" and facts["systems"]["ours"]["kind"] == "speechllm"
    one = facts["results"][0]
    assert one["wer"] == found.result("ours", "test").score.wer
    assert one["rtfx"] > 0 and one["latency_seconds"]["clips"] == 2
    assert one["latency_seconds"]["audio_seconds"] == pytest.approx(4.3)
    assert one["memory"]["peak_bytes"] > 1e7 and one["memory"]["since"]
    assert set(one["by_language"]) == {*LANGUAGES} and set(one["by_length"]) == {"0-2 s", "2-5 s"}
    assert {(row["noise"], row["snr_db"]) for row in facts["noise"]} == {
        (noise, snr) for noise in ("white", "babble") for snr in ("clean", 5.0)
    }
    assert {row["group"] for row in facts["comparisons"]} == {"all", *LANGUAGES}


def test_the_fingerprint_of_a_set_is_that_of_its_clips_wherever_they_lie(corpus, clips, tmp_path):
    def fingerprint(path):
        return read_set(str(path)).facts()["fingerprint"]

    moved = write_corpus(tmp_path, clips)
    assert fingerprint(moved) == fingerprint(corpus)
    moved.write_text(moved.read_text().replace("four five", "four six"))
    assert fingerprint(moved) != fingerprint(corpus)


def test_the_report_shows_tables_pictures_and_worst_clips(evaluation):
    found, folder = evaluation
    report = (folder / "report.md").read_text()
    for part in (
        "basic/1",
        "| ours |",
        "### Differences",
        "### By length",
        "RTFx",
        "### Under noise",
        "seed 0",
    ):
        assert part in report
    pictures = set(part.split(")")[0] for part in report.split("](")[1:])
    assert pictures == {path.name for path in folder.glob("*.png")}
    assert pictures == {
        "languages.test.png",
        "lengths.test.png",
        "noise.test.png",
        "confusion.found.test.png",
    }
    for picture in pictures:
        image = imread(folder / picture)
        assert image.shape[0] > 200 and image[..., :3].std() > 0.02
    worst = (folder / "worst.md").read_text()
    assert "## ours on test" in worst and "said " in worst and "**test-" in worst


def test_several_sets_are_also_scored_together(checkpoint, corpus, tmp_path, clips):
    second = write_corpus(tmp_path, clips[::-1], "second")
    sets = [read_set(str(corpus)), read_set(f"other={second}", limit=2)]
    found = evaluate_systems([ours(checkpoint)], sets, EvaluationSettings(resamples=20))
    assert found.set_names == ["test", "other", ALL_SETS]
    parts = [found.result("ours", name).score for name in ("test", "other")]
    whole = found.result("ours", ALL_SETS).score
    assert whole.clips == 8 and whole.said_words == sum(part.said_words for part in parts)
    assert whole.insertions == sum(part.insertions for part in parts)
    names = write_report(found, tmp_path / "out")
    assert "languages.all-sets.png" in names


def test_clips_that_cannot_be_read_are_named_and_the_others_scored(checkpoint, clips, tmp_path):
    manifest = write_corpus(tmp_path, clips)
    (tmp_path / "test-1.wav").write_bytes(b"RIFF nonsense")
    (tmp_path / "test-4.wav").unlink()
    found = evaluated([ours(checkpoint)], manifest)
    result = found.result("ours", "test")
    assert (result.score.clips, result.score.failed) == (4, 2)
    assert result.clips.heard[1].error.startswith("cannot be read: ")
    write_report(found, tmp_path / "out")
    report = (tmp_path / "out" / "report.md").read_text()
    assert "`test-1`: cannot be read" in report and "`test-4`: cannot be read" in report
    facts = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [one["clip"] for one in facts["results"][0]["failed_clips"]] == ["test-1", "test-4"]


def test_the_command_evaluates_and_goes_on_where_it_was(checkpoint, corpus, tmp_path, capsys):
    arguments = [
        "evaluate", "--system", f"ours=speechllm:{checkpoint},max_new_tokens=4", "--data", f"test={corpus}",
        "--limit", "3", "--language", "en,it", "--to", str(tmp_path / "out"), "--resamples", "20",
    ]  # fmt: skip
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "| ours |" in shown.out and "basic/1" in shown.out and "report.md" in shown.out
    assert main([*arguments, "--snr", "clean,0", "--noise", "white", "--noise-clips", "2"]) == 0
    facts = json.loads((tmp_path / "out" / "results.json").read_text())
    assert facts["results"][0]["reused"] is True and len(facts["noise"]) == 2
    # Of pytest's own arguments there may be none.
    assert facts["command"].split()[0] == "speechllm"


def test_the_command_says_which_clips_have_no_text_and_fails_where_clips_fail(
    checkpoint, clips, tmp_path, capsys
):
    manifest = write_corpus(tmp_path, clips)
    (tmp_path / "test-0.wav").unlink()
    assert (
        main(["evaluate", "--system", str(checkpoint), "--data", str(manifest), "--to", str(tmp_path / "o")])
        == 1
    )
    shown = capsys.readouterr().err
    assert "test: 1 of 6 clips have no text" in shown and "1 clips failed" in shown


def refused(capsys, *arguments) -> str:
    assert main(["evaluate", *map(str, arguments)]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("speechllm evaluate: ")
    return lines[0]


def test_what_cannot_be_is_refused_in_one_line_before_anything_runs(
    checkpoint, corpus, tmp_path, capsys, clips
):
    to = ["--to", tmp_path / "out"]
    system, data = ["--system", f"a={checkpoint}"], ["--data", corpus]
    (tmp_path / "silent.jsonl").write_text('{"audio": "x.wav"}\n')
    (tmp_path / "test.jsonl").write_text('{"audio": "x.wav", "text": "x"}\n')
    (tmp_path / "empty.jsonl").write_text("")
    expected = {
        "no such manifest": [*system, "--data", tmp_path / "none.jsonl", *to],
        "no column for text": [*system, "--data", tmp_path / "silent.jsonl", *to],
        "no clip with a transcript found": [*system, "--data", tmp_path / "empty.jsonl", *to],
        "no clips in xx; there are en, fr, it": [*system, *data, "--language", "xx", *to],
        "unknown normaliser 'basics'": [*system, *data, "--normaliser", "basics", *to],
        "there is basic/1": [*system, *data, "--normaliser", "basic/9", *to],
        "-30.0 dB; a sane ratio is -20 to 60 dB": [*system, *data, "--snr", "clean,-30", *to],
        "--snr 'loud' is neither a number": [*system, *data, "--snr", "loud", *to],
        "unknown noise 'wite'; did you mean 'white'": [*system, *data, "--noise", "wite", *to],
        "--noise files and --noise-folder go together": [*system, *data, "--noise", "files", *to],
        "--babble needs --noise or --snr": [*system, *data, "--babble", corpus, *to],
        "two systems are called 'a'": [*system, *system, *data, *to],
        "two sets are called 'test'": [*system, *data, "--data", tmp_path / "test.jsonl", *to],
        "--against 'b' names no system": [*system, *data, "--against", "b", *to],
        "FIELD=COLUMN": [*system, *data, "--columns", "text", *to],
        "unknown keys ['pth'] of a data source": [*system, "--data", "x=pth=a,split=b", *to],
        "needs its key in the environment variable NO_SUCH_KEY": [
            *system, "--system", "deepgram:x,key_variable=NO_SUCH_KEY", *data, *to,
        ],
    }  # fmt: skip
    for message, arguments in expected.items():
        assert message in refused(capsys, *arguments)
    assert not (tmp_path / "out").exists()
