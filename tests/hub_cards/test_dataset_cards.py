"""The card of a corpus counts its manifests; the corpus goes up as a data set."""

import json
import warnings

import pytest
from huggingface_hub import DatasetCard, HfApi
from speechllm.cli.main import main
from speechllm.training.data.utterances import Utterance, write_manifest


@pytest.fixture
def corpus(tmp_path):
    """Two splits of three and one clips, two languages, two licences, and the report of `prepare`."""
    folder = tmp_path / "spoken"
    (folder / "audio").mkdir(parents=True)
    rows = [("a", "ro", 1800, "GPL-2"), ("b", "ro", 900, "GPL-2"), ("c | d", "en", 900, "CC-BY-NC-4.0")]
    clips = []
    for number, (text, language, seconds, licence) in enumerate([*rows, ("e", "en", 360, "GPL-2")]):
        path = folder / "audio" / f"{number}.flac"
        path.write_bytes(b"fLaC")
        clips.append(
            Utterance(str(path), text, language, float(seconds), f"s{number % 2}", extra={"licence": licence})
        )
    write_manifest(folder / "train.jsonl", clips[:3])
    write_manifest(folder / "test.jsonl", clips[3:])
    report = {"name": "spoken", "clips": {"train": 3, "test": 1}, "hours": {"train": 1.0, "test": 0.1}}
    (folder / "report.json").write_text(json.dumps([{**report, "speakers": 2, "dropped": {"too long": 7}}]))
    return folder


def test_card_counts_clips_hours_speakers_and_what_was_dropped_without_a_warning(corpus, capsys, caplog):
    assert main(["card", str(corpus), "--repo-id", "me/spoken"]) == 0
    text = capsys.readouterr().out
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        card = DatasetCard(text)
    assert not caplog.records and str(card) == text
    assert "| train | 3 | 1.00 | 2 | en, ro |" in card.text and "| test | 1 | 0.10 | 1 | en |" in card.text
    assert "7 too long" in card.text and "c \\| d" in card.text
    data = card.data.to_dict()
    assert data["license"] == ["cc-by-nc-4.0", "gpl-2.0"] and data["language"] == ["en", "ro"]
    assert data["size_categories"] == "n<1K"
    assert data["configs"][0]["data_files"] == [
        {"split": "train", "path": "train.jsonl"},
        {"split": "test", "path": "test.jsonl"},
    ]
    assert "non-commercial (CC-BY-NC-4.0)" in card.text


def test_corpus_without_clips_or_with_a_broken_report_is_one_line(corpus, capsys):
    (corpus / "report.json").write_text("[1]")
    assert main(["card", str(corpus)]) == 1
    assert "is not what `speechllm prepare` writes" in capsys.readouterr().err
    for name in ("train.jsonl", "test.jsonl"):
        (corpus / name).write_text("")
    assert main(["card", str(corpus)]) == 1
    assert "its manifests hold no clips" in capsys.readouterr().err


def test_corpus_is_pushed_as_a_private_data_set(corpus, hub):
    assert main(["push", str(corpus), "me/spoken"]) == 0
    info = HfApi(endpoint=hub.endpoint, token=hub.token).dataset_info("me/spoken")
    assert info.private
    there = {one.rfilename for one in info.siblings}
    assert {"README.md", "train.jsonl", "audio/0.flac", "report.json"} <= there


def test_manifest_with_paths_of_this_machine_is_refused(corpus, hub, capsys):
    row = {"audio": "/home/" + "somebody/a.wav", "text": "a"}
    with open(corpus / "train.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")
    assert main(["push", str(corpus), "me/spoken"]) == 1
    assert "train.jsonl names a path of this machine" in capsys.readouterr().err
