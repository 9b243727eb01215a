"""Streams mix at their weights, share rows out without loss, and go on where they were."""

import copy
import itertools

import datasets
import numpy as np
import pytest
import soundfile
import torch
from speechllm.training.data import streams
from speechllm.training.data.streams import BatchedStream, DatasetRows, ListRows, SpeechStream, StreamSource
from speechllm.training.data.utterances import Utterance


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """`clips(name, count)`: utterances of .3 to .8 s, named and numbered."""
    folder = tmp_path_factory.mktemp("clips")

    def build(name, count):
        found = []
        for index in range(count):
            path = folder / f"{name}{index}.wav"
            soundfile.write(path, np.full(4800 + 200 * (index % 40), 0.1, dtype=np.float32), 16000)
            found.append(Utterance(str(path), f"{name} {index}", id=f"{name}{index}"))
        return found

    return build


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(streams, "BLOCK_ROWS", 8)


def hub_rows(utterances, files):
    table = {"audio": [item.audio for item in utterances], "text": [item.text for item in utterances]}
    return DatasetRows(datasets.Dataset.from_dict(table).to_iterable_dataset(num_shards=files), name="hub")


def stream_of(clips, files=3, seed=1, **place):
    sources = [
        StreamSource(ListRows(clips("list", 30)), "list", weight=3),
        StreamSource(hub_rows(clips("hub", 50), files), "hub", weight=1),
    ]
    return SpeechStream(sources, seed, **place)


def texts(stream, count):
    return [item["text"] for item in itertools.islice(iter(stream), count)]


def test_weights_are_the_proportions_of_what_is_drawn(clips):
    drawn = texts(stream_of(clips), 800)
    assert 0.72 < sum(text.startswith("list") for text in drawn) / 800 < 0.78


def test_the_same_seed_gives_the_same_stream_and_another_seed_another(clips):
    assert (
        texts(stream_of(clips), 100) == texts(stream_of(clips), 100) != texts(stream_of(clips, seed=2), 100)
    )


@pytest.mark.parametrize("rows", ["list", "hub in files", "hub in one file"])
def test_each_pass_gives_every_clip_once_in_a_new_order(clips, rows):
    made = {
        "list": lambda: ListRows(clips("a", 40)),
        "hub in files": lambda: hub_rows(clips("a", 40), 4),
        "hub in one file": lambda: hub_rows(clips("a", 40), 1),
    }
    drawn = texts(SpeechStream([StreamSource(made[rows]())], seed=3), 80)
    expected = sorted(f"a {index}" for index in range(40))
    assert sorted(drawn[:40]) == sorted(drawn[40:]) == expected
    assert drawn[:40] != drawn[40:] and drawn[:40] != expected


@pytest.mark.parametrize("rows", ["list", "hub in files", "hub in one file"])
@pytest.mark.parametrize("workers", [0, 2])
def test_processes_and_workers_share_the_rows_out_without_loss_or_repetition(clips, rows, workers):
    seen = []
    for rank in range(2):
        made = {
            "list": lambda: ListRows(clips("a", 40)),
            "hub in files": lambda: hub_rows(clips("a", 40), 4),
            "hub in one file": lambda: hub_rows(clips("a", 40), 1),
        }
        stream = SpeechStream([StreamSource(made[rows]())], 3, rank, world_size=2)
        loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=workers)
        seen.append([item["text"] for item in itertools.islice(loader, 20)])
    assert sorted(seen[0] + seen[1]) == sorted(f"a {index}" for index in range(40))


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("taken", [0, 1, 7, 8, 9, 63, 200])
def test_a_resumed_stream_goes_on_as_if_nothing_had_been(clips, files, taken):
    whole = texts(stream_of(clips, files), taken + 80)
    first = stream_of(clips, files)
    items = iter(first)
    for _ in range(taken):
        next(items)
    state = copy.deepcopy(first.state_dict())
    resumed = stream_of(clips, files)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert texts(resumed, 80) == whole[taken:]


def test_a_stream_resumed_in_one_pass_begins_the_next_at_its_beginning(clips):
    # One file for two processes: both read it, and each keeps its own place in it.
    def made():
        return SpeechStream([StreamSource(hub_rows(clips("a", 40), 1))], 3, rank=0, world_size=2)

    whole, first = texts(made(), 70), made()
    assert texts(first, 13) == whole[:13]
    resumed = made()
    resumed.load_state_dict(first.state_dict())
    assert texts(resumed, 57) == whole[13:]
    assert len(set(whole[:20])) == 20 and sorted(whole[:20]) == sorted(whole[20:40]) == sorted(whole[40:60])


def test_files_come_in_another_order_with_another_seed_and_pass(clips):
    def first_files(seed):
        drawn = texts(SpeechStream([StreamSource(hub_rows(clips("a", 40), 4))], seed), 120)
        return tuple(int(drawn[start].split()[1]) // 10 for start in (0, 40, 80))

    found = [first_files(seed) for seed in range(4)]
    assert len(set(found)) > 1 and any(len(set(files)) > 1 for files in found)


def test_state_is_plain_enough_to_be_saved(clips, tmp_path):
    stream = stream_of(clips)
    for _ in itertools.islice(stream, 20):
        pass
    torch.save(stream.state_dict(), tmp_path / "state.pt")
    resumed = stream_of(clips)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert texts(resumed, 10) == texts(stream_of(clips), 30)[20:]
    with pytest.raises(ValueError, match="the state is of 2 corpora, the stream of 1"):
        SpeechStream(stream.sources[:1]).load_state_dict(stream.state_dict())


def test_what_cannot_be_used_is_counted_in_workers_too(clips, tmp_path):
    (tmp_path / "junk.wav").write_bytes(b"junk")
    bad = [Utterance(str(tmp_path / "junk.wav"), "junk"), Utterance(clips("a", 1)[0].audio, "")]
    source = StreamSource(ListRows([*clips("a", 10), *bad]), "mixed")
    loader = torch.utils.data.DataLoader(SpeechStream([source]), batch_size=None, num_workers=1)
    drawn = [item["text"] for item in itertools.islice(loader, 30)]
    assert set(drawn) == {f"a {index}" for index in range(10)}
    assert source.report.dropped["unreadable"] >= 2 and source.report.dropped["empty text"] >= 2


def test_a_corpus_of_nothing_usable_stops_instead_of_turning_forever(tmp_path):
    source = StreamSource(ListRows([Utterance("none.wav", "x"), Utterance("no.wav", "")]), "ruin")
    with pytest.raises(RuntimeError, match="not one clip of a whole pass can be used: ruin: 0 clips"):
        next(iter(SpeechStream([source])))


def test_batches_of_a_stream_keep_their_budget_and_waste_little(clips):
    stream = stream_of(clips)
    batches = list(itertools.islice(BatchedStream(stream, budget=4.0, window=64), 60))
    longest = [max(item["seconds"] for item in batch) for batch in batches]
    padded = [len(batch) * most for batch, most in zip(batches, longest, strict=True)]
    assert max(padded) <= 4.0 + 1e-9
    assert 1 - sum(item["seconds"] for batch in batches for item in batch) / sum(padded) < 0.1
    loader = torch.utils.data.DataLoader(
        BatchedStream(stream_of(clips), 4.0, 64), batch_size=None, collate_fn=len
    )
    assert list(itertools.islice(loader, 10)) == [len(batch) for batch in batches[:10]]
    with pytest.raises(ValueError, match="is above the budget of 0.5 s"):
        next(iter(BatchedStream(stream, 0.5)))
