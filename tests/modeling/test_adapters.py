"""Bridge adapters: documented sizes, the originals' maths, and rows that do not depend on their batch."""

import pytest
import torch
from speechllm.configuration.configuration_adapters import (
    ADAPTER_CONFIGS,
    MLPAdapterConfig,
    adapter_config,
    adapter_config_from,
)
from speechllm.configuration.speech_lengths import chain_length
from speechllm.modeling.adapters.adapter_base import SpeechAttention
from speechllm.modeling.adapters.adapter_table import ADAPTERS, DECODER_ADAPTERS, build_adapter
from speechllm.modeling.length_masks import length_mask
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

D_IN, D_OUT = 12, 32

TINY = {
    "mlp": {"hidden_size": 24},
    "prefix": {"num_prefix_tokens": 4, "num_attention_heads": 4, "intermediate_size": 24},
    "transformer": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    },
    "conv": {"hidden_size": 24},
    "qformer": {"window_frames": 5, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48},
    "moe": {"hidden_size": 24},
}
VARIANTS = [(kind, fields) for kind, fields in TINY.items()] + [
    ("mlp", {"hidden_size": 24, "remainder": "drop", "activation": "silu"}),
    ("prefix", TINY["prefix"] | {"window_frames": 6}),
    ("prefix", TINY["prefix"] | {"hidden_size": 16, "intermediate_size": None, "positions": "none"}),
    ("transformer", TINY["transformer"] | {"norm_first": True, "stack_factor": 3}),
    ("conv", {"hidden_size": 24, "strides": [1, 3, 2], "kernel_size": 5}),
    ("moe", {"hidden_size": 24, "num_experts_per_token": 1, "stack_factor": 2}),
]

every_kind = pytest.mark.parametrize(("kind", "fields"), list(TINY.items()), ids=list(TINY))
every_variant = pytest.mark.parametrize(("kind", "fields"), VARIANTS)


def tiny_adapter(kind, fields, seed=0):
    torch.manual_seed(seed)
    return build_adapter(adapter_config(kind, **fields), D_IN, D_OUT).eval()


def clips(lengths, seed=1):
    """Rows of noise, with NaN wherever a row has ended."""
    lengths = torch.tensor(lengths)
    states = torch.randn(
        len(lengths), int(lengths.max()), D_IN, generator=torch.Generator().manual_seed(seed)
    )
    return states.masked_fill(~length_mask(lengths, states.shape[1])[..., None], float("nan")), lengths


def count_parameters(kind, input_size, output_size, **fields):
    with torch.device("meta"):
        adapter = build_adapter(adapter_config(kind, **fields), input_size, output_size)
    return sum(parameter.numel() for parameter in adapter.parameters())


def test_tables_of_adapters_and_of_their_configs_agree():
    assert list(ADAPTERS) == list(TINY)
    assert [*ADAPTERS, *DECODER_ADAPTERS] == list(ADAPTER_CONFIGS)
    assert not set(ADAPTERS) & set(DECODER_ADAPTERS)


def test_kind_without_an_adapter_is_refused_with_the_known_ones():
    class NewConfig(MLPAdapterConfig):
        model_type = "new"

    with pytest.raises(ValueError, match="unknown adapter 'new'; there are conv, mlp, moe"):
        build_adapter(NewConfig(), D_IN, D_OUT)


@pytest.mark.parametrize(
    ("kind", "input_size", "output_size", "fields", "parameters"),
    [
        ("mlp", 1024, 2048, {}, 14_684_160),
        ("mlp", 1280, 2048, {}, 17_305_600),
        ("prefix", 768, 4096, {}, 137_543_680),
        ("prefix", 768, 5120, {}, 192_899_072),
        ("prefix", 768, 5120, {"hidden_size": 1024}, 14_468_096),
        ("prefix", 768, 5120, {"hidden_size": 2048}, 45_708_288),
        ("transformer", 512, 2560, {}, 207_734_272),
    ],
)
def test_documented_parameter_count(kind, input_size, output_size, fields, parameters):
    assert count_parameters(kind, input_size, output_size, **fields) == parameters


@every_variant
def test_row_alone_equals_row_in_a_batch_whatever_the_padding_holds(kind, fields):
    adapter = tiny_adapter(kind, fields)
    states, lengths = clips([23, 7, 1, 0, 16])
    batch = adapter(states, lengths)
    assert batch.states.isfinite().all()
    for row, length in enumerate(lengths.tolist()):
        alone = adapter(states[row : row + 1, :length], lengths[row : row + 1])
        tokens = int(batch.lengths[row])
        assert alone.states.shape == (1, tokens, D_OUT)
        torch.testing.assert_close(batch.states[row, :tokens], alone.states[0], atol=1e-5, rtol=0)
        assert not batch.states[row, tokens:].any()


@every_variant
def test_lengths_out_are_the_chain_of_lengths(kind, fields):
    adapter = tiny_adapter(kind, fields)
    steps = adapter.config.length_steps()
    for longest in range(0, 26):
        states, lengths = clips([longest, longest // 2])
        output = adapter(states, lengths)
        assert output.lengths.tolist() == [chain_length(n, steps) for n in lengths.tolist()]
        assert output.states.shape == (2, chain_length(longest, steps), D_OUT)


@every_kind
def test_frames_behind_the_longest_row_change_nothing(kind, fields):
    adapter = tiny_adapter(kind, fields)
    states, lengths = clips([9, 4])
    longer = nn.functional.pad(states, (0, 0, 0, 6), value=7.0)
    assert torch.equal(adapter(states, lengths).states, adapter(longer, lengths).states)


@every_variant
def test_gradient_reaches_every_parameter(kind, fields):
    adapter = tiny_adapter(kind, fields).train()
    states, lengths = clips([40, 33])
    output = adapter(states, lengths)
    # The auxiliary loss is left out: the tokens alone must reach the router.
    (output.states * torch.randn_like(output.states)).sum().backward()
    still = {name for name, p in adapter.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-7}
    # A key's bias moves all of a query's scores alike, and softmax does not see that.
    assert {name for name in still if not name.endswith("k_proj.bias")} == set()


@every_kind
def test_clip_backwards_gives_other_tokens(kind, fields):
    adapter = tiny_adapter(kind, fields)
    states, lengths = clips([20])
    forwards = adapter(states, lengths).states
    backwards = adapter(states.flip(1), lengths).states
    assert (forwards - backwards).abs().max() > 1e-3
    # Nor are they the same tokens in reverse: each knows where it is.
    assert (forwards - backwards.flip(1)).abs().max() > 1e-3


def test_prefix_without_positions_cannot_tell_a_clip_from_its_reverse():
    adapter = tiny_adapter("prefix", TINY["prefix"] | {"positions": "none"})
    states, lengths = clips([20])
    backwards = adapter(states.flip(1), lengths).states
    torch.testing.assert_close(adapter(states, lengths).states, backwards, atol=1e-5, rtol=0)


def test_transformer_without_positions_only_reorders_its_tokens():
    adapter = tiny_adapter("transformer", TINY["transformer"] | {"positions": "none"})
    states, lengths = clips([20])
    backwards = adapter(states.flip(1), lengths).states.flip(1)
    torch.testing.assert_close(adapter(states, lengths).states, backwards, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_variant
def test_half_precision_stays_half_and_close(kind, fields, dtype):
    states, lengths = clips([23, 7, 0])
    adapter = tiny_adapter(kind, fields)
    expected = adapter(states, lengths)
    output = adapter.to(dtype)(states.to(dtype), lengths)
    assert output.states.dtype == dtype
    assert output.lengths.tolist() == expected.lengths.tolist()
    error = (output.states.float() - expected.states).abs()
    # A router may choose another expert after rounding, so the typical token is what must be close.
    assert error.median() < 0.05


@every_variant
def test_autocast_runs_and_trains(kind, fields):
    adapter = tiny_adapter(kind, fields).train()
    states, lengths = clips([23, 7])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = adapter(states, lengths)
    output.states.float().square().sum().backward()
    assert output.states.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in adapter.parameters())


@every_kind
def test_adapter_in_float32_follows_an_encoder_in_bfloat16(kind, fields):
    states, lengths = clips([9, 4])
    output = tiny_adapter(kind, fields)(states.bfloat16(), lengths)
    assert output.states.dtype == torch.float32


@every_kind
def test_dropout_is_off_in_eval_and_on_in_training(kind, fields):
    adapter = tiny_adapter(kind, fields)
    states, lengths = clips([20])
    assert torch.equal(adapter(states, lengths).states, adapter(states, lengths).states)
    if hasattr(adapter.config, "dropout"):
        adapter.train()
        assert not torch.equal(adapter(states, lengths).states, adapter(states, lengths).states)


@every_kind
def test_adapter_built_on_meta_and_filled_equals_the_original(kind, fields):
    original = tiny_adapter(kind, fields)
    with torch.device("meta"):
        loaded = build_adapter(original.config, D_IN, D_OUT).eval()
    assert not list(loaded.buffers())
    loaded.load_state_dict(original.state_dict(), assign=True)
    states, lengths = clips([9, 4])
    assert torch.equal(loaded(states, lengths).states, original(states, lengths).states)


class BodyAndAdapter(PreTrainedModel):
    """A model that a checkpoint may fill in part; `config.bridge` is the adapter's own config."""

    config_class = PreTrainedConfig

    def __init__(self, config):
        super().__init__(config)
        self.body = nn.Linear(4, 4)
        self.adapter = build_adapter(adapter_config_from(config.bridge), D_IN, D_OUT)
        self.post_init()

    def _init_weights(self, module):
        """Adapters initialize themselves."""


@every_kind
def test_adapter_in_a_checkpoint_comes_back_bit_for_bit(kind, fields, tmp_path):
    saved = BodyAndAdapter(PreTrainedConfig(bridge=adapter_config(kind, **fields).to_dict()))
    saved.save_pretrained(tmp_path)
    loaded = BodyAndAdapter.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in saved.state_dict().items())


@every_kind
def test_impossible_lengths_are_refused_with_both_numbers(kind, fields):
    adapter = tiny_adapter(kind, fields)
    with pytest.raises(ValueError, match=r"lengths of shape \[1\] from 11 to 11 do not fit .* \[1, 10, 12\]"):
        adapter(torch.zeros(1, 10, D_IN), torch.tensor([11]))
    with pytest.raises(ValueError, match=r"lengths of shape \[2\]"):
        adapter(torch.zeros(1, 10, D_IN), torch.tensor([5, 5]))


def test_prefix_as_wide_as_a_decoder_its_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="a width of 30 cannot be shared by num_attention_heads=8"):
        build_adapter(adapter_config("prefix"), D_IN, 30)


def copy_attention(ours: SpeechAttention, theirs: nn.MultiheadAttention) -> None:
    """Ours takes over the weights of PyTorch's, whose q, k and v are one matrix."""
    names = ("q_proj", "k_proj", "v_proj")
    weights, biases = theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3)
    for name, weight, bias in zip(names, weights, biases, strict=True):
        getattr(ours, name).load_state_dict({"weight": weight, "bias": bias})
    ours.out_proj.load_state_dict(theirs.out_proj.state_dict())


@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_adapter_computes_what_pytorch_layers_do(norm_first):
    adapter = tiny_adapter(
        "transformer", TINY["transformer"] | {"positions": "none", "norm_first": norm_first}
    )
    states, lengths = clips([11, 6])
    hidden = adapter.input_projection(states.nan_to_num())
    padding = ~length_mask(lengths, states.shape[1])
    for layer in adapter.layers:
        stock = nn.TransformerEncoderLayer(
            32, 4, 48, 0.0, "gelu", batch_first=True, norm_first=norm_first
        ).eval()
        copy_attention(layer.attention, stock.self_attn)
        layer.attention_norm.load_state_dict(stock.norm1.state_dict())
        layer.feed_forward_norm.load_state_dict(stock.norm2.state_dict())
        layer.feed_forward.up_proj.load_state_dict(stock.linear1.state_dict())
        layer.feed_forward.down_proj.load_state_dict(stock.linear2.state_dict())
        hidden = stock(hidden, src_key_padding_mask=padding)
    expected = adapter.output_norm(adapter.output_projection(hidden))
    output = adapter(states, lengths).states
    torch.testing.assert_close(output[~padding], expected[~padding], atol=1e-5, rtol=0)


def test_prefix_adapter_computes_what_pytorch_layers_do():
    adapter = tiny_adapter("prefix", TINY["prefix"] | {"positions": "none"})
    states, lengths = clips([11, 6])
    stock = nn.MultiheadAttention(D_OUT, 4, batch_first=True).eval()
    copy_attention(adapter.attention, stock)
    speech = adapter.input_projection(states.nan_to_num())
    prefix = adapter.prefix.expand(2, -1, -1)
    read, _ = stock(prefix, speech, speech, key_padding_mask=~length_mask(lengths, 11))
    tokens = nn.functional.layer_norm(prefix + read, [D_OUT])
    up, down = adapter.feed_forward.up_proj, adapter.feed_forward.down_proj
    expected = nn.functional.layer_norm(tokens + down(nn.functional.gelu(up(tokens))), [D_OUT])
    torch.testing.assert_close(adapter(states, lengths).states, expected, atol=1e-5, rtol=0)


def test_mlp_adapter_stacks_frames_and_applies_two_layers():
    adapter = tiny_adapter("mlp", TINY["mlp"])
    states, lengths = clips([7])
    up, down = adapter.feed_forward.up_proj, adapter.feed_forward.down_proj
    stacks = nn.functional.pad(states[0], (0, 0, 0, 3)).reshape(2, 5 * D_IN)
    torch.testing.assert_close(adapter(states, lengths).states[0], down(up(stacks).relu()))


def test_experts_that_are_chosen_are_weighted_by_the_router():
    adapter = tiny_adapter("moe", TINY["moe"])
    states, lengths = clips([8])
    stacks = states[0].reshape(2, 4 * D_IN)
    probabilities = adapter.router(stacks).softmax(-1)
    expected = []
    for token, shares in zip(stacks, probabilities, strict=True):
        best = shares.topk(2).indices
        expected.append(
            adapter.shared_expert(token) + sum(shares[e] * adapter.experts[e](token) for e in best)
        )
    torch.testing.assert_close(adapter(states, lengths).states[0], torch.stack(expected))


def test_auxiliary_loss_is_there_in_training_only():
    for kind, fields in TINY.items():
        adapter = tiny_adapter(kind, fields)
        states, lengths = clips([8])
        assert adapter(states, lengths).auxiliary_loss is None
        assert (adapter.train()(states, lengths).auxiliary_loss is not None) == (kind == "moe")


def test_auxiliary_loss_ignores_padding_and_survives_silence():
    adapter = tiny_adapter("moe", TINY["moe"]).train()
    states, lengths = clips([8])
    padded = nn.functional.pad(states, (0, 0, 0, 12), value=float("nan")).repeat(2, 1, 1)
    # Two rows are all padding, so the first decides alone.
    both = adapter(torch.cat([padded, padded[:1]]), torch.tensor([8, 0, 0])).auxiliary_loss
    torch.testing.assert_close(adapter(states, lengths).auxiliary_loss, both)
    assert adapter(states, torch.tensor([0])).auxiliary_loss == 0


def test_auxiliary_loss_is_least_when_experts_are_used_evenly():
    adapter = tiny_adapter("moe", TINY["moe"] | {"router_z_loss_weight": 0.0})
    one_each = 9.0 * (torch.eye(4) + torch.eye(4).roll(1, 0))
    always_the_same = one_each[:1].expand(4, -1)
    even, uneven = adapter.auxiliary_loss(one_each), adapter.auxiliary_loss(always_the_same)
    torch.testing.assert_close(even, torch.tensor(0.01))
    assert uneven > 1.9 * even


def test_tokens_of_a_window_do_not_depend_on_other_windows():
    for kind, fields in [("qformer", TINY["qformer"]), ("prefix", TINY["prefix"] | {"window_frames": 5})]:
        adapter = tiny_adapter(kind, fields)
        states, lengths = clips([10])
        tokens = adapter(states, lengths).states
        second = adapter(states[:, 5:], torch.tensor([5])).states
        torch.testing.assert_close(tokens[:, tokens.shape[1] // 2 :], second, atol=1e-5, rtol=0)
