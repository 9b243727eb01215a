"""The language router: its config, its heads, and that a clip comes out as it does alone."""

import typing

import pytest
import torch
from speechllm.configuration.configuration_router import RouterConfig
from speechllm.modeling.router.language_router import LanguageRouter
from speechllm.modeling.router.router_heads import ROUTER_HEADS

LABELS = ["hi", "it", "pa", "te"]
WIDTH = 24


def router_of(head: str, **fields) -> LanguageRouter:
    torch.manual_seed(5)
    return LanguageRouter(
        RouterConfig(labels=LABELS, head=head, hidden_sizes=[16, 8], **fields), WIDTH
    ).eval()


@pytest.fixture
def clips() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(5, 30, WIDTH, generator=generator), torch.tensor([30, 17, 2, 1, 0])


def test_table_of_heads_is_the_one_of_the_config():
    assert set(ROUTER_HEADS) == set(typing.get_args(RouterConfig.__dataclass_fields__["head"].type))


@pytest.mark.parametrize("head", ROUTER_HEADS)
def test_clip_comes_out_of_a_padded_batch_as_it_does_alone(head, clips):
    states, lengths = clips
    router = router_of(head)
    together = router(states, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = router(states[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)
    assert together.shape == (5, 4) and together.isfinite().all()
    assert (together[0] - together[1]).abs().max() > 1e-3


@pytest.mark.parametrize("head", ROUTER_HEADS)
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
def test_padding_may_hold_anything(head, garbage, clips):
    states, lengths = clips
    router = router_of(head)
    dirty = states.clone()
    for row, length in enumerate(lengths.tolist()):
        dirty[row, length:] = garbage
        states[row, length:] = 0
    logits = router(dirty, lengths)
    assert torch.equal(logits, router(states, lengths))
    logits.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in router.parameters())


@pytest.mark.parametrize("head", ROUTER_HEADS)
def test_half_precision_states_meet_float32_weights(head, clips):
    states, lengths = clips
    router = router_of(head)
    rounded = states.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = router(rounded, lengths)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, router(rounded.float(), lengths))


@pytest.mark.parametrize("head", ROUTER_HEADS)
def test_router_built_on_the_meta_device_is_filled_by_its_state_dict(head, clips):
    router = router_of(head)
    with torch.device("meta"):
        empty = LanguageRouter(router.config, WIDTH).eval()
    assert not dict(empty.named_buffers())
    empty.load_state_dict(router.state_dict(), assign=True)
    assert torch.equal(empty(*clips), router(*clips))


def test_level_of_the_states_says_nothing(clips):
    states, lengths = clips
    router = router_of("mlp")
    torch.testing.assert_close(router(50 * states, lengths), router(states, lengths), atol=1e-4, rtol=0)


def test_every_head_but_those_of_the_mean_hears_the_order_or_weighs_the_frames(clips):
    states, lengths = clips
    spread = {}
    for head in ROUTER_HEADS:
        pooled = router_of(head).pool(states, lengths)
        doubled = router_of(head).pool(states.repeat_interleave(2, dim=1), 2 * lengths)
        spread[head] = (pooled - doubled)[:3].abs().max().item()
    # The mean and the softmax do not change when every frame is said twice; convolutions and memory do.
    assert max(spread["linear"], spread["mlp"], spread["attention"]) < 1e-5
    assert min(spread["cnn"], spread["lstm"]) > 1e-3
    router = router_of("attention")
    router.head.score.weight.data *= 100
    assert (router.pool(*clips) - router_of("mlp").pool(*clips))[:3].abs().max() > 0.1


def test_pooled_clips_of_a_fixed_pooling_classify_as_their_frames_do(clips):
    for head in ("linear", "mlp"):
        router = router_of(head)
        assert router.head.fixed_pooling
        assert torch.equal(router.classify(router.pool(*clips)), router(*clips))


def test_temperature_divides_the_logits_and_is_kept_in_the_config(clips):
    router = router_of("linear")
    logits = router(*clips)
    router.calibrate(4)
    torch.testing.assert_close(router.probabilities(*clips), (logits / 4).softmax(-1))
    assert RouterConfig(**router.config.own_values()).temperature == 4.0
    with pytest.raises(ValueError, match="temperature=0 must be above 0"):
        router.calibrate(0)


def test_states_that_do_not_fit_are_refused(clips):
    states, lengths = clips
    router = router_of("linear")
    with pytest.raises(ValueError, match=r"shape \[5, 30, 23\] .* do not fit a router of states .* 24\]"):
        router(states[..., :-1], lengths)
    with pytest.raises(ValueError, match="do not fit a router"):
        router(states, lengths[:3])
    with pytest.raises(ValueError, match="lengths from 0 to 31 do not fit states of 30 frames"):
        router(states, lengths + (lengths == 30))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": []}, "labels is empty"),
        ({"labels": ["hi", "it", "hi"]}, "hold 'hi' more than once"),
        ({"labels": ["hi", "base"]}, "'base' means no adapter"),
        ({"head": "transformer"}, "transformer"),
        ({"layer": -1}, "layer=-1 must be at least 0"),
        ({"hidden_sizes": [16, 0]}, r"hidden_sizes=\[16, 0\]"),
        ({"dropout": 1}, "dropout=1"),
        ({"threshold": 1.5}, "threshold=1.5 must be a probability"),
        ({"floor": float("nan")}, "floor=nan must be a probability"),
        ({"temperature": 0}, "temperature=0 must be above 0"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"cnn_kernel_size": 4}, "cnn_kernel_size=4 must be odd"),
        ({"hop_seconds": 1}, "hop_seconds=1 would skip speech"),
        ({"strategy": "hierarchical"}, "needs families"),
        ({"families": {"a": ["hi", "it", "pa"]}}, "families leave out: te"),
        ({"families": {"a": ["hi", "it"], "b": ["pa", "te", "hi"]}}, "hold more than once: hi"),
        ({"families": {"a": LABELS, "b": ["xx"]}}, "hold labels the router has not: xx"),
        ({"families": {"a": LABELS, "b": []}}, "are empty: b"),
        ({"temprature": 2}, "did you mean 'temperature'"),
    ],
)
def test_wrong_router_config_is_one_line_that_says_what_is_wrong(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        RouterConfig(**{"labels": LABELS, **fields})
    assert "\n" not in str(caught.value)


def test_router_config_survives_its_folder(tmp_path):
    config = RouterConfig(labels=LABELS, families={"a": ["hi", "pa"], "b": ["it", "te"]}, temperature=1.7)
    config.save_pretrained(tmp_path)
    assert RouterConfig.from_pretrained(tmp_path).own_values() == config.own_values()
