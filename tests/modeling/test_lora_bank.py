"""The bank: every row its own adapters, the numbers of one adapter alone, and gradient."""

import copy

import pytest
import torch
from banked_whisper import HARD, SOFT, logits, row_of, shake, wide_bank
from speechllm.configuration.configuration_lora import LoraConfig, lora_bank
from speechllm.modeling.lora_bank import LoraBank
from speechllm.modeling.lora_layers import LoraLinear, add_lora, is_lora_key
from speechllm.modeling.lora_plans import MergedPlan, StackedPlan
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint


def dense(stock, model, mixture):
    """A stock model whose weights are what the definition says for one row: `W + sum p * s * B A`."""
    explicit = copy.deepcopy(stock)
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLinear):
            weight = explicit.get_submodule(name).weight.data
            for adapter, p in mixture.items():
                if adapter in layer.scaling:
                    delta = layer.lora_B[adapter] @ layer.lora_A[adapter]
                    weight += p * layer.scaling[adapter] * delta.detach()
    return explicit


@pytest.mark.parametrize("rows", [HARD, SOFT], ids=["hard", "soft"])
@torch.no_grad()
def test_every_row_is_the_exact_mixture_of_its_own_weights(stock, banked, request_of_six, rows):
    model, bank = banked
    bank.use(torch.tensor(rows, dtype=torch.float32))
    together = logits(model, request_of_six)
    for row, weights in enumerate(rows):
        mixture = dict(zip(bank.names, weights, strict=True))
        expected = logits(dense(stock, model, mixture), row_of(request_of_six, row))
        assert_close(together[row : row + 1], expected, atol=1e-5, rtol=1e-5)
    assert (together[0] - logits(stock, request_of_six)[0]).abs().max() > 0.05, "adapters that do nothing"


@torch.no_grad()
def test_routed_rows_are_the_single_adapter_model_on_that_row(banked, request_of_six):
    model, bank = banked
    bank.use(torch.tensor(HARD).float())
    together = logits(model, request_of_six)
    for row, weights in enumerate(HARD):
        bank.use(torch.tensor([weights]).float())
        assert_close(
            together[row : row + 1], logits(model, row_of(request_of_six, row)), atol=1e-5, rtol=1e-5
        )


@torch.no_grad()
def test_nothing_in_use_is_the_base_bit_for_bit(stock, banked, request_of_six):
    model, bank = banked
    expected = logits(stock, request_of_six)
    assert torch.equal(logits(model, request_of_six), expected)
    bank.use(torch.eye(4).repeat(2, 1)[:6])
    assert not torch.equal(logits(model, request_of_six), expected)
    for nothing in (None, torch.zeros(6, 4)):
        bank.use(nothing)
        assert torch.equal(logits(model, request_of_six), expected)
    bank.use(torch.tensor(HARD).float())
    assert_close(logits(model, request_of_six)[2], expected[2], atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_live_and_prepared_give_the_same(banked, request_of_six):
    model, bank = banked
    bank.use(torch.tensor(SOFT))
    prepared = logits(model, request_of_six)
    for dtype in (torch.float32, torch.float64):
        with torch.enable_grad():
            bank.use(torch.tensor(SOFT, dtype=dtype))
        assert_close(logits(model, request_of_six), prepared, atol=1e-5, rtol=1e-5)


def by_hand(layer, bank, weights, states):
    """`[rows, T, out]` of one linear, one row and one adapter after the other."""
    rows = []
    for row, p in zip(states, weights, strict=True):
        total = layer.base_layer(row)
        for name, value in zip(bank.names, p, strict=True):
            down, up = layer.lora_A[name], layer.lora_B[name]
            total = total + value * layer.scaling[name] * (row @ down.t() @ up.t())
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize("frames", [1, 2, 40])
@pytest.mark.parametrize("copies", [1, 3])
@torch.no_grad()
def test_beams_stand_beside_their_row_and_any_length_counts(frames, copies):
    model, bank = wide_bank()
    # Many of the bank, few of a row; one row mixes two, one has none.
    weights = torch.eye(10)[[3, 7, 0, 5, 9, 2, 4]] * 0.8
    weights[4, 6], weights[2] = 0.3, 0
    bank.use(weights)
    states = torch.randn(7 * copies, frames, 12)
    expected = by_hand(model[0], bank, weights.repeat_interleave(copies, 0), states)
    assert_close(model(states), expected, atol=1e-6, rtol=1e-5)
    if frames == 1:
        assert_close(model(states[:, 0]), expected[:, 0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("mode", ["prepared", "live"])
@torch.no_grad()
def test_rows_that_are_finished_can_be_dropped(mode):
    model, bank = wide_bank()
    weights = torch.eye(10)[[4, 1, 4, 9, 0]]
    states = torch.randn(5, 3, 12)
    with torch.set_grad_enabled(mode == "live"):
        bank.use(weights)
    whole = model(states)
    with bank.only(slice(1, 3)):
        assert_close(model(states[1:3]), whole[1:3], atol=1e-6, rtol=1e-5)
    assert_close(model(states), whole)
    for rows in (torch.tensor([3, 0, 2]), torch.tensor([True, False, True])):
        bank.keep(rows)
        states, whole = states[rows], whole[rows]
        assert_close(model(states), whole, atol=1e-6, rtol=1e-5)
    bank.keep(torch.tensor([], dtype=torch.long))
    assert model(states[:0]).shape == (0, 3, 8)


def test_rows_that_do_not_fit_the_weights_are_refused():
    model, bank = wide_bank()
    with torch.no_grad():
        bank.use(torch.eye(10)[[0, 1]])
        with pytest.raises(ValueError, match="weights for 2 rows, but a linear gets 3"):
            model(torch.randn(3, 4, 12))
    with pytest.raises(ValueError, match=r"takes weights \[rows, 10\] for l0, .*, not \[2, 3\]"):
        bank.use(torch.ones(2, 3))
    with pytest.raises(ValueError, match="not finite"):
        bank.use(torch.full((2, 10), torch.nan))


@torch.no_grad()
def test_changed_parameters_count_at_the_next_use(banked, request_of_six):
    model, bank = banked
    for weights in (torch.tensor(SOFT), torch.eye(4)[[0] * 6]):
        bank.use(weights)
        before = logits(model, request_of_six)
        for parameter in bank.parameters_of("it"):
            parameter.mul_(1.5)
        assert torch.equal(logits(model, request_of_six), before), "prepared once, for the batch"
        bank.use(weights)
        prepared = logits(model, request_of_six)
        assert not torch.allclose(prepared, before, atol=1e-3)
        with torch.enable_grad():
            bank.use(weights)
        assert_close(logits(model, request_of_six), prepared, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_one_language_is_merged_once_and_only_while_it_is_the_one(banked):
    model, bank = banked
    layer = model.model.decoder.layers[0].self_attn.q_proj
    italian, german = torch.eye(4)[[0, 0]], torch.eye(4)[[1, 1]]
    bank.use(italian)
    merged = layer.plan
    assert isinstance(merged, MergedPlan)
    for between in (None, torch.zeros(2, 4)):
        bank.use(between)
        assert layer.plan is None
    bank.use(italian[:1])
    assert layer.plan is merged
    layer.base_layer.weight.mul_(1.1)
    bank.use(italian)
    assert layer.plan is not merged
    assert model.model.decoder.layers[0].self_attn.v_proj.plan is not None
    bank.use(german)
    assert model.model.decoder.layers[0].self_attn.v_proj.plan is None
    assert {id(plan) for plan in bank._merged.values()} == {id(p) for p in plans(model)}
    bank.use(torch.tensor([[0.5, 0, 0, 0]]))
    assert not bank._merged and isinstance(layer.plan, StackedPlan)
    with torch.enable_grad():
        bank.use(italian)
    assert not bank._merged and not layer.plan.prepared


def plans(model):
    layers = [module for module in model.modules() if isinstance(module, LoraLinear)]
    return [layer.plan for layer in layers if layer.plan is not None]


def test_gradient_reaches_adapters_and_weights_even_where_the_weight_is_zero(banked, request_of_six):
    model, bank = banked
    model.requires_grad_(False)
    for name in bank.names:
        for parameter in bank.parameters_of(name):
            parameter.requires_grad_(True)
    weights = torch.tensor(HARD).float().requires_grad_(True)
    bank.use(weights)
    logits(model, request_of_six).square().mean().backward()
    for name in bank.names:
        assert all(p.grad.abs().sum() > 0 for p in bank.parameters_of(name)), name


def test_weight_that_is_zero_everywhere_still_has_its_gradient():
    model, bank = wide_bank()
    states, weights = torch.randn(2, 3, 12), torch.eye(10)[[4, 5]].requires_grad_(True)
    bank.use(weights)
    model(states).square().mean().backward()
    step = 1e-3
    with torch.no_grad():
        losses = []
        for sign in (1, -1):
            moved = weights.detach().clone()
            moved[0, 1] += sign * step
            bank.use(moved)
            losses.append(model(states).square().mean())
    slope = (losses[0] - losses[1]) / (2 * step)
    assert slope.abs() > 1e-3
    assert_close(weights.grad[0, 1], slope, rtol=0.02, atol=1e-4)


def test_unused_adapters_get_no_gradient_where_the_weights_want_none(banked, request_of_six):
    model, bank = banked
    bank.use(torch.eye(4)[[0] * 6])
    logits(model, request_of_six).mean().backward()
    assert all(p.grad is not None for p in bank.parameters_of("it"))
    assert all(p.grad is None for name in ("de", "hi", "pa") for p in bank.parameters_of(name))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant):
    model, bank = wide_bank()
    states = torch.randn(4, 5, 12, requires_grad=True)
    gradients = []
    for checkpointed in (False, True):
        weights = torch.rand(4, 10, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
        model.zero_grad()
        bank.use(weights)
        run = (lambda x: checkpoint(model, x, use_reentrant=reentrant)) if checkpointed else model
        run(states).square().sum().backward()
        named = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        # A leaf that is no argument gets its gradient in the backward pass's own recomputation.
        gradients.append({**named, "weights": weights.grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient)


def test_dropout_of_an_adapter_is_active_in_training_only():
    model = nn.Sequential(nn.Linear(16, 16))
    config = {"encoder": {"r": 2, "lora_dropout": 0.5, "target_modules": ["0"]}}
    bank = LoraBank(lora_bank({"it": config}), {"encoder": model})
    shake(model)
    states = torch.randn(2, 3, 16)
    for training in (True, False):
        model.train(training)
        with torch.no_grad():
            bank.use(torch.ones(2, 1))
            assert torch.equal(model(states), model(states)) is not training
    model.train()
    with pytest.raises(RuntimeError, match="call `use` again"):
        model(states)


def test_lora_that_is_always_on_stays_on():
    model, bank = wide_bank(3)
    with torch.no_grad():
        states = torch.randn(3, 4, 12)
        bank.use(torch.eye(3))
        routed = model(states)
        bank.use(None)
        plain = model(states)
        add_lora(model, LoraConfig(r=2, target_modules=["0"]))
        nn.init.normal_(model[0].lora_B["default"])
        always = model[0].update("default", states)
        assert always.abs().max() > 0.1
        assert_close(model(states), plain + always)
        bank.use(torch.eye(3))
        assert_close(model(states), routed + always)
    for name in list(bank.names):
        bank.remove(name)
    assert set(model[0].scaling) == {"default"}


@torch.no_grad()
def test_half_precision_bases_work_and_keep_their_adapters_in_float32():
    model, bank = wide_bank(dtype=torch.bfloat16)
    assert all(p.dtype == torch.float32 for n, p in model.named_parameters() if is_lora_key(n))
    weights = torch.eye(10)[[1, 5, 9]]
    for frames in (1, 40):
        states = torch.randn(3, frames, 12, dtype=torch.bfloat16)
        exact = copy.deepcopy(model).float()[0]
        expected = by_hand(exact, bank, weights, states.float())
        for rows in (weights, weights.double()):
            bank.use(rows)
            output = model(states)
            assert output.dtype == torch.bfloat16
            assert_close(output.float(), expected, atol=0.03, rtol=0.03)
        bank.use(torch.eye(10)[[2] * 3])
        merged = by_hand(exact, bank, torch.eye(10)[[2] * 3], states.float())
        assert_close(model(states).float(), merged, atol=0.03, rtol=0.03)


class Packed(nn.Module):
    """A linear whose weight is integers, as quantized ones are."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = None
        self.scale = float(linear.weight.abs().max()) / 127
        integers = (linear.weight / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(integers, requires_grad=False)

    def forward(self, states):
        return states @ (self.weight.to(states.dtype) * self.scale).t()


@torch.no_grad()
def test_quantized_bases_are_added_to_and_never_merged():
    model = nn.Sequential(Packed(nn.Linear(12, 8)))
    named = {name: {"encoder": {"r": 2, "target_modules": ["0"]}} for name in ("it", "de")}
    bank = LoraBank(lora_bank(named), {"encoder": model})
    shake(model).eval()
    states = torch.randn(2, 3, 12)
    for weights in (torch.eye(2), torch.eye(2)[[0, 0]]):
        bank.use(weights)
        assert_close(model(states), by_hand(model[0], bank, weights, states), atol=1e-6, rtol=1e-5)
