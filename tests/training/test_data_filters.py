"""Bad data stops nothing and hides nothing: it is counted, named in the log, and left out or replaced."""

import logging

import numpy as np
import pytest
import soundfile
import torch
from speechllm.training.data.batching import BudgetBatchSampler
from speechllm.training.data.build import build_datasets
from speechllm.training.data.datasets import SpeechDataset
from speechllm.training.data.filters import REASONS, DropReport, FilterSettings, filter_utterances
from speechllm.training.data.splits import shared
from speechllm.training.data.streams import SpeechStream
from speechllm.training.data.utterances import Utterance, read_manifest, write_manifest


def sound_file(path, seconds=1.0, rate=16000, samples=None):
    samples = np.full(int(seconds * rate), 0.1, dtype=np.float32) if samples is None else samples
    soundfile.write(path, samples, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return str(path)


@pytest.fixture
def bad_corpus(tmp_path):
    """Good clips, and one of every kind of bad one; no lengths are given."""
    (tmp_path / "junk.wav").write_bytes(b"RIFF not a sound")
    broken = np.full(16000, 0.1, dtype=np.float32)
    broken[800] = np.nan
    clips = {
        "good0": (sound_file(tmp_path / "good0.wav"), "a good clip"),
        "missing": (str(tmp_path / "missing.wav"), "no such file"),
        "nameless": ("", "no file at all"),
        "junk": (str(tmp_path / "junk.wav"), "not a sound"),
        "nan": (sound_file(tmp_path / "nan.wav", samples=broken), "not a number"),
        "silent": (sound_file(tmp_path / "silent.wav"), ""),
        "damaged": (sound_file(tmp_path / "damaged.wav"), "caf\ufffd"),
        "click": (sound_file(tmp_path / "click.wav", 0.05), "a"),
        "hour": (sound_file(tmp_path / "hour.flac", 2400, 1000), "forty minutes"),
        "wordy": (sound_file(tmp_path / "wordy.wav"), "far more words than anyone could say in a second"),
        "empty": (sound_file(tmp_path / "empty.wav", 20.0), "oh"),
        "good1": (sound_file(tmp_path / "good1.wav", 2.0), "another [laughs] good clip"),
    }
    return [Utterance(audio, text, id=name) for name, (audio, text) in clips.items()]


def test_every_kind_of_bad_clip_is_counted_by_its_reason_and_named(bad_corpus, caplog):
    report = DropReport("corpus")
    with caplog.at_level(logging.INFO):
        kept = filter_utterances(bad_corpus, FilterSettings(check_audio=True), ["noise_tags"], report)
    assert [(item.id, item.text, item.seconds) for item in kept] == [
        ("good0", "a good clip", 1.0),
        ("good1", "another good clip", 2.0),
    ]
    assert report.dropped == {
        "unreadable": 3,
        "not finite": 1,
        "empty text": 1,
        "damaged text": 1,
        "too short": 1,
        "too long": 1,
        "too few characters a second": 1,
        "too many characters a second": 1,
    }
    for name in ("missing", "junk", "nan", "silent", "damaged", "click", "hour", "wordy", "empty"):
        assert f"{name} is left out" in caplog.text
    assert "corpus: 2 clips, 0.00 h kept; 10 dropped (3 unreadable, 1 not finite" in caplog.text


def test_headers_alone_find_all_but_bad_samples(bad_corpus):
    report = DropReport()
    kept = filter_utterances(bad_corpus, FilterSettings(), (), report)
    assert [item.id for item in kept] == ["good0", "nan", "good1"]
    assert report.dropped["unreadable"] == 3


def test_silence_is_kept_with_an_empty_target_where_it_is_meant(bad_corpus):
    kept = filter_utterances(bad_corpus, FilterSettings(keep_silence=True))
    assert [item.text for item in kept if item.id == "silent"] == [""]


def test_a_stated_length_is_believed_until_the_sound_is_checked(tmp_path):
    clip = Utterance(sound_file(tmp_path / "a.wav", 1.0), "hello there", seconds=3.0)
    assert filter_utterances([clip])[0].seconds == 3.0
    assert filter_utterances([clip], FilterSettings(check_audio=True))[0].seconds == 1.0


def test_many_drops_of_one_kind_are_all_counted_and_few_named(caplog):
    report = DropReport("many")
    filter_utterances([Utterance(f"{index}.wav", "") for index in range(50)], None, (), report)
    assert report.dropped == {"empty text": 50}
    assert caplog.text.count("is left out") == 3


def test_long_texts_can_be_limited(tmp_path):
    clip = Utterance(sound_file(tmp_path / "a.wav"), "twelve signs")
    assert filter_utterances([clip], FilterSettings(max_characters=12))
    report = DropReport()
    assert not filter_utterances([clip], FilterSettings(max_characters=11), (), report)
    assert report.dropped == {"long text": 1} and set(report.dropped) <= set(REASONS)


def dataset_with_failures(tmp_path):
    clips = [
        Utterance(sound_file(tmp_path / f"{n}.wav", 0.5 * n), str(n), seconds=0.5 * n) for n in range(1, 7)
    ]
    (tmp_path / "4.wav").write_bytes(b"gone bad since")
    (tmp_path / "1.wav").unlink()
    return SpeechDataset(clips, "train")


def test_a_clip_that_fails_when_read_is_named_counted_and_replaced_by_the_next_shorter(tmp_path, caplog):
    dataset = dataset_with_failures(tmp_path)
    assert [dataset[index]["text"] for index in range(6)] == ["2", "2", "3", "3", "5", "6"]
    assert sorted(dataset.failures()) == ["1.wav", "4.wav"]
    assert caplog.text.count("cannot be read and is replaced") == 2
    item = dataset[2]
    assert item["audio"].dtype == np.float32 and item["audio"].shape == (24000,) and item["seconds"] == 1.5
    assert set(item) == {"audio", "text", "language", "task", "prompt", "id", "seconds"}


def test_replacements_are_the_same_in_any_order_and_keep_the_budget(tmp_path):
    forward, backward = dataset_with_failures(tmp_path), None
    texts = [forward[index]["text"] for index in range(6)]
    (tmp_path / "1.wav").touch()
    backward = SpeechDataset(forward.utterances)
    assert [backward[index]["text"] for index in reversed(range(6))] == texts[::-1]
    sampler = BudgetBatchSampler(forward.costs(), 4.0)
    for batch in sampler:
        # The shortest of all has nothing shorter: it alone is replaced by a longer one.
        seconds = [forward[index]["seconds"] for index in batch if index != 0]
        assert len(seconds) * max(seconds, default=0) <= 4.0


def test_failures_in_worker_processes_reach_the_main_process(tmp_path):
    dataset = dataset_with_failures(tmp_path)
    loader = torch.utils.data.DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=list)
    assert sum(len(batch) for batch in loader) == 6
    assert sorted(dataset.failures()) == ["1.wav", "4.wav"]


def test_a_set_that_cannot_be_read_at_all_stops(tmp_path):
    with pytest.raises(RuntimeError, match="none of its 2 clips can be read"):
        SpeechDataset([Utterance("x.wav", "x"), Utterance("y.wav", "y")])[0]
    with pytest.raises(ValueError, match="train holds no clips"):
        SpeechDataset([], "train")
    with pytest.raises(ValueError, match="1 clips of unknown length, x.wav first"):
        SpeechDataset([Utterance("x.wav", "x")]).costs()


def manifest(tmp_path, name, texts, speakers=4, seconds=0.4, **fields):
    clips = [
        Utterance(
            sound_file(tmp_path / f"{name}{n}.wav", seconds),
            text,
            id=f"{name}{n}",
            speaker=f"s{n % speakers}",
            **fields,
        )
        for n, text in enumerate(texts)
    ]
    write_manifest(tmp_path / f"{name}.jsonl", clips)
    return str(tmp_path / f"{name}.jsonl")


def words(count, start=0):
    return [f"word {n}" for n in range(start, start + count)]


def test_built_data_keeps_sentences_of_evaluation_out_of_training(tmp_path):
    data = {
        "train": [{"path": manifest(tmp_path, "train", words(20)), "language": "en", "task": "transcribe"}],
        "eval": {"test": manifest(tmp_path, "test", ["Word 3!", "unheard"])},
    }
    built = build_datasets(data)
    assert len(built.train) == 19 and len(built["eval"]["test"]) == 2
    assert not shared({"train": built.train.utterances, "test": built.eval["test"].utterances}, "text")
    assert built.reports[-1].dropped == {"sentence of an evaluation set": 1}
    assert (built.train[0]["language"], built.train[0]["task"]) == ("en", "transcribe")
    assert len(build_datasets({**data, "exclude_eval_sentences": False}).train) == 20


@pytest.mark.parametrize("by", ["text", "speaker"])
def test_built_data_divides_its_sources_and_withholds_the_test_part(tmp_path, by):
    source = {"path": manifest(tmp_path, "all", words(60), speakers=12), "rules": ["noise_tags"]}
    built = build_datasets({"train": source, "split": {"by": by, "shares": [0.6, 0.2, 0.2]}})
    parts = {"train": built.train.utterances, "validation": built.eval["validation"].utterances}
    assert list(built.eval) == ["validation"] and not shared(parts, by)
    evaluated = build_datasets(
        {"train": source, "split": {"by": by, "shares": [0.6, 0.2, 0.2], "evaluate": ["validation", "test"]}}
    )
    assert set(evaluated.eval) == {"validation", "test"}
    assert sum(map(len, evaluated.eval.values())) + len(evaluated.train) == 60


def test_a_sentence_that_clean_up_makes_equal_is_in_one_split(tmp_path):
    texts = [form for text in words(40) for form in (text, f"[noise] {text}")]
    source = {"path": manifest(tmp_path, "all", texts), "rules": ["noise_tags"]}
    built = build_datasets({"train": source, "split": {"by": "text", "evaluate": ["validation", "test"]}})
    assert len(built.train) + sum(map(len, built.eval.values())) == 80


def test_built_data_mixes_at_its_weights(tmp_path):
    sources = [
        {"path": manifest(tmp_path, "small", words(10)), "weight": 0.8},
        {"path": manifest(tmp_path, "large", words(90, 100)), "weight": 0.2},
    ]
    train = build_datasets({"train": sources, "epoch_clips": 50}).train
    sampler = BudgetBatchSampler(train.costs(), 8.0, mixture=train.mixture)
    drawn = [train.utterances[index].id for batch in sampler for index in batch]
    assert sum(name.startswith("small") for name in drawn) == 40 and len(drawn) == 50


def test_evaluation_sets_are_checked_clip_by_clip_and_lose_no_hard_ones(tmp_path):
    path = manifest(tmp_path, "test", ["x" * 40, "good", "gone"])
    (tmp_path / "test2.wav").write_bytes(b"junk")
    write_manifest(path, [Utterance(**{**vars(item), "seconds": 0.4}) for item in read_manifest(path)])
    built = build_datasets({"eval": {"test": path}})
    assert [item.text for item in built.eval["test"].utterances] == ["x" * 40, "good"]
    assert built.reports[0].dropped == {"unreadable": 1} and built.train is None


def test_synthetic_speech_is_trained_on_and_never_evaluated(tmp_path):
    path = manifest(tmp_path, "voice", words(30), extra={"synthetic": True})
    with pytest.raises(ValueError, match="eval test: 30 of 30 clips are synthetic"):
        build_datasets({"eval": {"test": path}})
    sources = [{"path": path}, {"path": manifest(tmp_path, "human", words(60, 10))}]
    built = build_datasets({"train": sources, "split": {"by": "text", "evaluate": ["validation", "test"]}})
    held_out = [item for dataset in built.eval.values() for item in dataset.utterances]
    assert held_out and not any(item.extra.get("synthetic") for item in held_out)
    assert any(item.extra.get("synthetic") for item in built.train.utterances)
    assert not shared({"train": built.train.utterances, "eval": held_out}, "text")


WRONG = {
    "unknown keys .'trian'. in data; there are .'epoch_clips'": {"trian": []},
    "unknown keys .'shortest'. in filters; there are": {"filters": {"shortest": 1}},
    "unknown keys .'seed'. in split": {"split": {"seed": 1}},
    "unknown normaliser 'whisper'": {"normaliser": "whisper"},
    "either every train source has a weight or none": {
        "train": [{"path": "a.csv", "weight": 1}, {"path": "b.csv"}]
    },
    "a stream cannot be split": {"train": [{"id": "x/y", "streaming": True}], "split": {}},
    "mixing several needs a weight": {"train": [{"id": "x/y", "streaming": True}, {"path": "b.csv"}]},
    "is not among .'validation', 'test'.": {"train": [], "split": {"evaluate": ["train"]}},
    "eval names .'validation'., which the split makes": {"eval": {"validation": "x.csv"}, "split": {}},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_data_is_refused_before_anything_is_read(message):
    with pytest.raises(ValueError, match=message):
        build_datasets(WRONG[message])


def test_streams_are_built_with_their_labels_and_barred_sentences(tmp_path):
    import datasets

    clips = read_manifest(manifest(tmp_path, "stream", words(8)))
    rows = datasets.Dataset.from_dict({"audio": [c.audio for c in clips], "text": [c.text for c in clips]})
    rows.save_to_disk(tmp_path / "set")
    built = build_datasets(
        {
            "train": [
                {"id": str(tmp_path / "set"), "streaming": True, "weight": 0.5, "language": "it"},
                {"path": manifest(tmp_path, "list", words(5, 50)), "weight": 0.5, "language": "en"},
            ],
            "eval": {"test": manifest(tmp_path, "test", ["word 0", "word 51"])},
        }
    )
    assert isinstance(built.train, SpeechStream)
    items = [item for item, _ in zip(built.train, range(60), strict=False)]
    assert {item["language"] for item in items} == {"it", "en"}
    assert {item["text"] for item in items} == {*words(7, 1), *words(5, 50)} - {"word 51"}
    assert all(report.dropped["sentence of an evaluation set"] for report in built.train.reports())
