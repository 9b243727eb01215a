"""Every strategy as rows of one matrix."""

import typing

import pytest
import torch
from speechllm.configuration.configuration_router import RouterConfig
from speechllm.modeling.router.routing_strategies import (
    STRATEGIES,
    oracle_rows,
    routing_rows,
    rows_over_bank,
)

CONFIG = RouterConfig(
    labels=["hi", "it", "pa", "te"],
    families={"indo-aryan": ["hi", "pa"], "romance": ["it"], "dravidian": ["te"]},
)
# A sure row, a row that is torn between relatives and a stranger, and one that is torn in three.
PROBABILITIES = torch.tensor([[0.9, 0.04, 0.03, 0.03], [0.3, 0.36, 0.28, 0.06], [0.31, 0.05, 0.29, 0.35]])


def rows(strategy: str, **fields) -> torch.Tensor:
    config = RouterConfig(**{**CONFIG.own_values(), **fields})
    return routing_rows(PROBABILITIES, strategy, config)


def test_table_of_strategies_is_the_one_of_the_config():
    assert set(STRATEGIES) == set(typing.get_args(RouterConfig.__dataclass_fields__["strategy"].type))


def test_hard_takes_the_likeliest_of_every_row():
    assert rows("hard").tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]


def test_soft_is_the_probabilities():
    assert torch.equal(rows("soft"), PROBABILITIES)


def test_threshold_decides_row_by_row_between_one_and_the_top_two():
    expected = torch.tensor([[1, 0, 0, 0], [0.3 / 0.66, 0.36 / 0.66, 0, 0], [0.31 / 0.66, 0, 0, 0.35 / 0.66]])
    torch.testing.assert_close(rows("threshold"), expected)
    torch.testing.assert_close(rows("threshold", threshold=0.355)[1], torch.tensor([0.0, 1, 0, 0]))
    torch.testing.assert_close(rows("threshold", top_k=9)[2], PROBABILITIES[2])


def test_probability_at_the_threshold_is_not_above_it():
    config = RouterConfig(labels=["a", "b"], threshold=0.75)
    found = routing_rows(torch.tensor([[0.75, 0.25]]), "threshold", config)
    assert found.tolist() == [[0.75, 0.25]]


def test_hierarchical_prefers_the_family_that_is_likelier_together():
    # Row two: Italian is the likeliest label, and Hindi and Punjabi together are likelier.
    assert rows("hierarchical").tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    regrouped = {"a": ["hi"], "b": ["it", "te"], "c": ["pa"]}
    assert rows("hierarchical", families=regrouped).tolist()[1:] == [[0, 1, 0, 0], [0, 0, 0, 1]]


def test_hierarchical_with_a_family_for_each_label_is_hard():
    alone = {label: [label] for label in CONFIG.labels}
    assert torch.equal(rows("hierarchical", families=alone), rows("hard"))


def test_base_takes_no_adapter():
    assert not rows("base").any()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_below_the_floor_go_to_the_base_under_every_strategy(strategy):
    found = rows(strategy, floor=0.36)
    assert not found[2].any()
    assert torch.equal(found[:2], rows(strategy)[:2])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_row_does_not_depend_on_its_batch(strategy):
    together = rows(strategy)
    for index, row in enumerate(PROBABILITIES):
        assert torch.equal(routing_rows(row[None], strategy, CONFIG), together[index : index + 1])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_clip_whose_states_are_no_numbers_goes_to_the_base(strategy):
    broken = torch.full((1, 4), float("nan"))
    assert not routing_rows(broken, strategy, CONFIG).any()


def test_without_a_strategy_the_checkpoint_s_own_is_taken():
    config = RouterConfig(**{**CONFIG.own_values(), "strategy": "soft"})
    assert torch.equal(routing_rows(PROBABILITIES, None, config), PROBABILITIES)


def test_soft_and_threshold_let_the_gradient_through():
    for strategy in ("soft", "threshold"):
        logits = torch.zeros(2, 4, requires_grad=True)
        (routing_rows(logits.softmax(-1), strategy, CONFIG) * torch.arange(4)).sum().backward()
        assert logits.grad.abs().max() > 0.1


def test_unknown_strategy_and_missing_families_are_named():
    with pytest.raises(ValueError, match="no routing strategy 'median'; there are hard, soft"):
        rows("median")
    plain = RouterConfig(labels=CONFIG.labels)
    with pytest.raises(ValueError, match="needs families"):
        routing_rows(PROBABILITIES, "hierarchical", plain)


def test_oracle_is_one_hot_and_base_is_none():
    assert oracle_rows(["te", "base", "hi"], CONFIG.labels).tolist() == [[0, 0, 0, 1], [0] * 4, [1, 0, 0, 0]]
    with pytest.raises(ValueError, match="no adapter for ta, xx; there are hi, it, pa, te and 'base'"):
        oracle_rows(["xx", "hi", "ta"], CONFIG.labels)


def test_labels_without_an_adapter_are_the_base_and_adapters_without_a_label_get_nothing():
    found = rows_over_bank(PROBABILITIES, CONFIG.labels, ["pa", "de", "hi"])
    expected = torch.stack([PROBABILITIES[:, 2], torch.zeros(3), PROBABILITIES[:, 0]], dim=1)
    assert torch.equal(found, expected)
    with pytest.raises(ValueError, match="tells hi, it, pa, te apart, and the adapters are de, fr: no name"):
        rows_over_bank(PROBABILITIES, CONFIG.labels, ["de", "fr"])
