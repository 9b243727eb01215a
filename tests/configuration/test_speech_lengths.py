"""The arithmetic of lengths: by hand, the same for numbers and tensors, and refused where it has no sense."""

import pytest
import torch
from speechllm.configuration.speech_lengths import chain_length, check_steps
from torch import nn


def test_three_seconds_through_whisper_and_an_mlp_by_hand():
    chain = [["conv", 160, 160, 0], ["conv", 3, 1, 1], ["conv", 3, 2, 1], ["windows", 4, 1]]
    assert [chain_length(48000, chain[:count]) for count in range(5)] == [48000, 300, 300, 150, 38]


@pytest.mark.parametrize(
    ("step", "lengths"),
    [
        (["conv", 3, 2, 1], {0: 0, 1: 1, 2: 1, 3: 2, 100: 50}),
        (["conv", 10, 5, 0], {0: 0, 9: 0, 10: 1, 14: 1, 15: 2}),
        (["windows", 5, 1], {0: 0, 1: 1, 5: 1, 6: 2}),
        (["windows", 15, 3], {0: 0, 1: 3, 15: 3, 16: 6}),
        (["fixed", 32], {0: 32, 1: 32, 1000: 32}),
    ],
)
def test_each_step_for_numbers_and_tensors(step, lengths):
    check_steps([step])
    assert {length: chain_length(length, [step]) for length in lengths} == lengths
    tensor = chain_length(torch.tensor([list(lengths)]), [step])
    assert tensor.tolist() == [list(lengths.values())]
    assert tensor.dtype == torch.long


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (10, 5, 0), (2, 2, 0)])
def test_conv_step_is_what_torch_does(kernel, stride, padding):
    conv = nn.Conv1d(1, 1, kernel, stride, padding)
    for length in range(kernel, 40):
        frames = conv(torch.zeros(1, 1, length)).shape[-1]
        assert chain_length(length, [["conv", kernel, stride, padding]]) == frames


def test_empty_chain_changes_nothing():
    assert chain_length(7, []) == 7


@pytest.mark.parametrize(
    "step",
    [
        [],
        ["pool", 2],
        ["conv", 3, 1],
        ["windows", 4, 1, 1],
        ["fixed"],
        ["fixed", 1.5],
        ["conv", 3, 0, 1],
        ["windows", 0, 1],
        ["fixed", -1],
        ["fixed", True],
    ],
)
def test_senseless_step_is_refused(step):
    with pytest.raises(ValueError, match="step|size 0"):
        check_steps([["fixed", 1], step])
