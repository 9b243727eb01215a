"""Decisions within a clip: windows, smoothing, segments."""

import itertools
import typing

import pytest
import torch
from speechllm.configuration.configuration_router import RouterConfig
from speechllm.modeling.router import frame_routing
from speechllm.modeling.router.frame_routing import (
    SMOOTHERS,
    LanguageSegment,
    WindowGrid,
    encoder_frame_rate,
    language_segments,
    route_frames,
    window_grid,
    window_labels,
    window_probabilities,
)
from speechllm.modeling.router.language_router import LanguageRouter

LABELS = ["a", "b", "c"]
WIDTH = 12


def switching_router(**fields) -> LanguageRouter:
    """A router that hears label `i` where channel `i` is loud."""
    router = LanguageRouter(RouterConfig(labels=LABELS, head="linear", **fields), WIDTH).eval()
    linear = router.head.classifier[0]
    torch.nn.init.zeros_(linear.bias)
    linear.weight.data.copy_(3 * torch.eye(3, WIDTH))
    return router


def clip_of(pattern: str, frames_each: int = 50) -> torch.Tensor:
    """States `[T, D]` in which each letter's channel is loud for so many frames."""
    states = torch.zeros(len(pattern) * frames_each, WIDTH)
    for place, letter in enumerate(pattern):
        states[place * frames_each : (place + 1) * frames_each, LABELS.index(letter)] = 5.0
    return states + 0.1 * torch.randn(states.shape, generator=torch.Generator().manual_seed(len(pattern)))


@pytest.mark.parametrize("smoothing", SMOOTHERS)
def test_changes_of_language_are_found_where_they_are(smoothing):
    clips = [clip_of("abca"), clip_of("b"), clip_of("ca")]
    lengths = torch.tensor([len(clip) for clip in clips])
    states = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=float("nan"))
    routed = route_frames(switching_router(smoothing=smoothing), states, lengths, 50.0)
    for segments, pattern in zip(routed, ("abca", "b", "ca"), strict=True):
        assert [segment.label for segment in segments] == list(pattern)
        assert segments[0].start == 0 and segments[-1].end == len(pattern)
        for place, (left, right) in enumerate(itertools.pairwise(segments), 1):
            assert left.end == right.start == pytest.approx(place, abs=0.11)


def test_windows_of_a_padded_batch_are_those_of_each_clip_alone(monkeypatch):
    clips = [clip_of("ab", 60), clip_of("c", 7), clip_of("cab", 11), torch.zeros(0, WIDTH)]
    lengths = torch.tensor([len(clip) for clip in clips])
    states = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=float("nan"))
    router, grid = switching_router(), WindowGrid(25, 5, 50.0)
    together = window_probabilities(router, states, lengths, grid)
    counts = grid.counts(lengths)
    assert counts.tolist() == [20, 1, 3, 0]
    for row, (clip, count) in enumerate(zip(clips, counts.tolist(), strict=True)):
        alone = window_probabilities(router, clip[None], lengths[row : row + 1], grid)
        torch.testing.assert_close(together[row, :count], alone[0], atol=1e-6, rtol=0)
        assert not together[row, count:].any()
    monkeypatch.setattr(frame_routing, "WINDOWS_AT_ONCE", 3)
    torch.testing.assert_close(window_probabilities(router, states, lengths, grid), together)


@pytest.mark.parametrize("length", [1, 24, 25, 26, 29, 30, 31, 137])
def test_every_frame_is_in_a_window_and_no_window_is_empty(length):
    grid = WindowGrid(25, 5, 50.0)
    count = int(grid.counts(torch.tensor([length])))
    starts = [window * grid.hop for window in range(count)]
    assert all(start < length for start in starts)
    assert starts[-1] + grid.size >= length
    assert count == 1 or starts[-2] + grid.size < length  # the last one is needed
    borders = grid.borders(length)
    assert len(borders) == count + 1 and borders == sorted(borders) and borders[-1] == length / 50
    assert grid.ends(length)[-1] == length / 50


def test_window_decides_for_its_own_frames_only():
    router, grid = switching_router(), WindowGrid(10, 5, 50.0)
    clip = clip_of("aaaa", 10)
    changed = clip.clone()
    changed[20:25] = 7.0 * torch.eye(WIDTH)[1]
    length = torch.tensor([40])
    before, after = (window_probabilities(router, states[None], length, grid) for states in (clip, changed))
    differs = (before != after).any(dim=-1)[0]
    assert differs.nonzero()[:, 0].tolist() == [3, 4]  # frames 15 to 24 and 20 to 29


def brute_force(probabilities: torch.Tensor, penalty: float) -> list[int]:
    scores = probabilities.clamp(min=frame_routing.LEAST_PROBABILITY).log()
    paths = itertools.product(range(scores.shape[1]), repeat=len(scores))

    def value(path):
        changes = sum(left != right for left, right in itertools.pairwise(path))
        return sum(scores[w, label].item() for w, label in enumerate(path)) - penalty * changes

    return list(max(paths, key=value))


def test_viterbi_finds_the_best_of_all_paths_for_clips_of_unlike_length():
    generator = torch.Generator().manual_seed(1)
    probabilities = (2 * torch.randn(12, 7, 3, generator=generator)).softmax(-1)
    counts = torch.randint(1, 8, (12,), generator=generator)
    config = RouterConfig(labels=LABELS, switch_penalty=1.3)
    found = window_labels(probabilities, counts, config)
    unlike = 0
    for row, count in enumerate(counts.tolist()):
        assert found[row, :count].tolist() == brute_force(probabilities[row, :count], 1.3)
        assert (found[row, count:] == -1).all()
        unlike += found[row, :count].tolist() != probabilities[row, :count].argmax(-1).tolist()
    assert unlike > 2  # or smoothing had nothing to do


def test_smoothing_drops_an_island_of_one_window_and_none_keeps_it():
    sure, island = [0.98, 0.01, 0.01], [0.0, 1.0, 0.0]
    probabilities = torch.tensor([[sure] * 4 + [island] + [sure] * 4])
    counts = torch.tensor([9])
    for smoothing, expected in (("viterbi", 0), ("median", 0), ("none", 1)):
        config = RouterConfig(labels=LABELS, smoothing=smoothing)
        assert window_labels(probabilities, counts, config)[0, 4] == expected


def test_median_of_a_clip_does_not_see_the_padding_after_it():
    probabilities = torch.tensor([[[0.9, 0.1, 0.0]] * 2 + [[0.1, 0.9, 0.0]] * 3 + [[0.0, 0.0, 1.0]] * 4])
    config = RouterConfig(labels=LABELS, smoothing="median")
    found = window_labels(probabilities, torch.tensor([5]), config)
    assert found.tolist() == [[0, 0, 1, 1, 1, -1, -1, -1, -1]]


def test_short_segments_go_to_their_longer_neighbour():
    borders = [0.0, 1.0, 1.25, 1.4, 2.0]
    assert language_segments(list("abca"), borders, 0.3) == [LanguageSegment(0.0, 2.0, "a")]
    assert language_segments(list("abcb"), borders, 0.3) == [(0.0, 1.0, "a"), (1.0, 2.0, "b")]
    assert language_segments(list("abca"), borders, 0.0)[1] == (1.0, 1.25, "b")
    assert language_segments(["c"], [0.0, 0.1], 0.3) == [(0.0, 0.1, "c")]


def test_clip_without_frames_has_no_segments():
    states = torch.zeros(2, 30, WIDTH)
    assert route_frames(switching_router(), states, torch.tensor([0, 30]), 50.0)[0] == []
    assert route_frames(switching_router(), states, torch.tensor([0, 0]), 50.0) == [[], []]


def test_windows_follow_the_encoder_s_rate(compose):
    config = RouterConfig(labels=LABELS)
    assert window_grid(config, 50.0)[:2] == (25, 5)
    assert window_grid(config, 12.5)[:2] == (6, 1)
    assert window_grid(config, 1.0)[:2] == (1, 1)
    for encoder in ("whisper", "hubert_base", "wav2vec2_bert"):
        model, _ = compose(encoder)
        assert encoder_frame_rate(model.config.audio_config) == 50.0


def test_table_of_smoothings_is_the_one_of_the_config():
    assert set(SMOOTHERS) == set(typing.get_args(RouterConfig.__dataclass_fields__["smoothing"].type))
