"""Batches keep the budget, waste little, hold every clip once, and are the same in every process."""

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader, skip_first_batches
from speechllm.training.data.batching import BudgetBatchSampler
from speechllm.training.data.mixing import Mixture


def drawn_costs(clips=3000, seed=0):
    """Clips of 1 to 20 s, and texts of 10 to 20 bytes a second of them."""
    generator = np.random.default_rng(seed)
    seconds = generator.uniform(1, 20, clips)
    return np.stack([seconds, 0.02 * seconds * generator.uniform(10, 20, clips)], axis=1)


@pytest.mark.parametrize("draw", ["uniform", "short", "many lengths", "few clips"])
def test_padding_is_at_most_a_tenth_on_clips_of_1_to_20_seconds(draw):
    generator = np.random.default_rng(1)
    seconds = {
        "uniform": generator.uniform(1, 20, 5000),
        "short": np.clip(generator.exponential(4, 5000), 1, 20),
        "many lengths": np.clip(generator.lognormal(1.8, 0.6, 5000), 1, 20),
        "few clips": generator.uniform(1, 20, 600),
    }[draw]
    sampler = BudgetBatchSampler(seconds, budget=120, seed=3)
    filled = np.mean([sampler.cost(batch) for batch in sampler]) / 120
    print(f"{draw}: padding {sampler.padding():.1%}, batches {filled:.1%} full")  # noqa: T201
    assert sampler.padding() <= 0.10
    assert filled > 0.85


def test_no_batch_costs_more_than_the_budget_whatever_the_lengths():
    generator = np.random.default_rng(2)
    for trial in range(40):
        clips = int(generator.integers(1, 300))
        costs = np.stack([generator.uniform(0.1, 20, clips), generator.exponential(1, clips)], axis=1)
        # A text far longer than its clip is the hard case: the longest of both count.
        budget = float(costs.sum(axis=1).max() * generator.uniform(1.0, 8))
        sampler = BudgetBatchSampler(costs, budget, seed=trial)
        for epoch in range(3):
            sampler.set_epoch(epoch)
            batches = list(sampler)
            assert max(map(sampler.cost, batches)) <= budget + 1e-9
            assert sorted(sum(batches, [])) == list(range(clips))
            assert len(batches) == len(sampler)


def test_batches_are_the_same_again_and_new_each_epoch():
    first, second = (BudgetBatchSampler(drawn_costs(), 120, seed=5) for _ in range(2))
    assert list(first) == list(second)
    epochs = []
    for epoch in (0, 1):
        first.set_epoch(epoch)
        epochs.append({tuple(sorted(batch)) for batch in first})
    assert len(epochs[0] & epochs[1]) < 0.1 * len(epochs[0])
    assert list(BudgetBatchSampler(drawn_costs(), 120, seed=6)) != list(second)


def test_without_shuffling_the_longest_come_first_in_every_epoch():
    sampler = BudgetBatchSampler(drawn_costs(), 120, shuffle=False)
    batches = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) == batches
    longest = [sampler.costs[batch].sum(axis=1).max() for batch in batches]
    assert longest == sorted(longest, reverse=True)


@pytest.mark.parametrize("clips", [6, 7, 100, 3000])
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_get_equally_many_batches_and_together_every_clip_once(clips, processes):
    sampler = BudgetBatchSampler(drawn_costs(clips), 60, multiple_of=processes)
    assert len(sampler) % processes == 0
    seen = []
    for process in range(processes):
        shard = BatchSamplerShard(sampler, processes, process, even_batches=False)
        batches = list(shard)
        assert len(batches) == len(shard) == len(sampler) // processes
        seen += sum(batches, [])
    assert sorted(seen) == list(range(clips))


def test_one_process_that_accumulates_sees_at_each_step_the_batches_of_two():
    sampler = BudgetBatchSampler(drawn_costs(500), 60, multiple_of=2)
    alone = list(sampler)
    shards = [list(BatchSamplerShard(sampler, 2, process, even_batches=False)) for process in range(2)]
    assert [list(step) for step in zip(*shards, strict=True)] == [
        alone[i : i + 2] for i in range(0, len(alone), 2)
    ]


class Lengths(torch.utils.data.Dataset):
    def __len__(self):
        return 500

    def __getitem__(self, index):
        return index


@pytest.mark.parametrize("processes", [1, 2])
def test_accelerate_prepares_the_loader_and_hands_the_epoch_on(processes):
    sampler = BudgetBatchSampler(drawn_costs(500), 60, multiple_of=processes)
    loader = torch.utils.data.DataLoader(Lengths(), batch_sampler=sampler)
    shards = [
        prepare_data_loader(
            loader, num_processes=processes, process_index=index, even_batches=False, put_on_device=False
        )
        for index in range(processes)
    ]
    epochs = []
    for epoch in (0, 1):
        for shard in shards:
            shard.set_epoch(epoch)
        epochs.append([[batch.tolist() for batch in shard] for shard in shards])
        assert sorted(sum(sum(epochs[-1], []), [])) == list(range(500))
    assert epochs[0] != epochs[1]
    assert len(shards[0]) == len(sampler) // processes
    shards[0].set_epoch(1)
    rest = [batch.tolist() for batch in skip_first_batches(shards[0], 3)]
    assert rest == epochs[1][0][3:]


def test_clips_above_the_budget_are_refused_by_name():
    with pytest.raises(ValueError, match=r"2 clips cost more than the budget of 30, clip b most, with 41.0"):
        BudgetBatchSampler([5.0, 41.0, 31.0], 30, names=["a", "b", "c"])
    with pytest.raises(ValueError, match="clip 1 costs nan"):
        BudgetBatchSampler([5.0, float("nan")], 30)
    with pytest.raises(ValueError, match="no clips"):
        BudgetBatchSampler([], 30)
    with pytest.raises(ValueError, match="cannot become a multiple of 2"):
        BudgetBatchSampler([20.0, 20.0, 20.0], 30, multiple_of=2)


def test_weights_are_the_proportions_of_every_epoch():
    mixture = Mixture([100, 5000], [0.8, 0.2], seed=1)
    for epoch in range(3):
        indices = mixture.indices(epoch)
        assert len(indices) == 5100
        assert (indices < 100).sum() == round(0.8 * 5100)
    assert Mixture([10, 10, 10], [1, 1, 1], seed=0, size=10).counts == [4, 3, 3]


def test_no_clip_of_a_mixture_comes_again_before_all_others_have_come():
    mixture = Mixture([100, 5000], [0.8, 0.2], seed=1)
    draws = np.concatenate([mixture.indices(epoch)[mixture.counts[0] :] for epoch in range(4)])
    assert len(set(draws.tolist())) == len(draws) == 4 * 1020
    small = np.bincount(mixture.indices(0)[: mixture.counts[0]], minlength=100)
    assert small.max() - small.min() <= 1


def test_a_mixture_is_the_same_for_a_seed_and_needs_no_earlier_epochs():
    one, other = (Mixture([30, 700], [0.5, 0.5], seed=4) for _ in range(2))
    one.indices(0)
    assert (one.indices(7) == other.indices(7)).all()
    assert (one.indices(7) != one.indices(8)).any()
    assert (one.indices(7) != Mixture([30, 700], [0.5, 0.5], seed=5).indices(7)).any()


def test_batches_of_a_mixture_keep_budget_proportions_and_number():
    mixture = Mixture([300, 2700], [0.5, 0.5], seed=2)
    sampler = BudgetBatchSampler(drawn_costs(), 120, mixture=mixture, multiple_of=4)
    for epoch in range(6):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) and len(batches) % 4 == 0
        assert max(map(sampler.cost, batches)) <= 120
        drawn = np.array(sum(batches, []))
        assert sorted(drawn.tolist()) == sorted(mixture.indices(epoch).tolist())


def test_impossible_mixtures_are_refused():
    with pytest.raises(ValueError, match="corpus 1 has a weight of 0.5 and no clips"):
        Mixture([10, 0], [0.5, 0.5], seed=0)
    with pytest.raises(ValueError, match="2 corpora but 1 weights"):
        Mixture([10, 10], [1.0], seed=0)
    with pytest.raises(ValueError, match="give numbers from 0 on"):
        Mixture([10, 10], [1.0, -1.0], seed=0)
