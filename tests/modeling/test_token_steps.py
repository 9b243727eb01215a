"""Kernels for single tokens on a CPU say what the stock ones say, and are taken where decoding is greedy."""

import pytest
import torch
from moved_parameters import move
from speechllm.modeling.token_steps import FEW_ROWS, _read, vocabulary_scores
from torch import nn
from torch.profiler import ProfilerActivity, profile

TOKENS = torch.tensor([[257, 258, 264, 268, 70, 80, 90], [257, 258, 264, 268, 71, 81, 91]])
PROMPT = 4
FUSED, BAG = "aten::scaled_dot_product_attention", "aten::embedding_bag"
FORMS = {
    "plain": {"adapter": "cross_attention"},
    "dual": {"adapter": "dual_attention"},
    "dual, by head": {"adapter": "dual_attention", "gate": "head"},
    "dual, low rank": {"adapter": "dual_attention", "rank": 2},
}


@pytest.fixture(scope="module")
def features(compose_whisper, clips) -> dict:
    """Clips of 1.7 and 3.1 s: the shorter one has padding, which is hidden."""
    _, processor = compose_whisper()
    request = processor([clips[2], clips[4]])
    return {name: request[name] for name in ("input_features", "input_features_mask")}


def moved(compose_whisper, form: str):
    """A model whose branches have gone apart, where it has two."""
    fields = dict(FORMS[form])
    model, _ = compose_whisper(fields.pop("adapter"), encoder_padding="longest", **fields)
    move(model.model.adapter.parameters(), 0.3)
    return model


@torch.no_grad()
def stepwise(model, features, **options) -> torch.Tensor:
    """Logits behind the prompt, a token a call."""
    mask = torch.ones_like(TOKENS)
    mask[0, :2] = 0  # a prompt that is padded
    logits = []
    output = model(**features, decoder_input_ids=TOKENS[:, :PROMPT], decoder_attention_mask=mask[:, :PROMPT])
    for place in range(PROMPT, TOKENS.shape[1]):
        output = model(
            **features,
            decoder_input_ids=TOKENS[:, place : place + 1],
            decoder_attention_mask=mask[:, : place + 1],
            past_key_values=output.past_key_values,
            use_cache=True,
            **options,
        )
        logits.append(output.logits)
    return torch.cat(logits, dim=1)


def calls_of(operator: str, call) -> int:
    """How often one of torch's operators ran in a call."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        call()
    return sum(event.count for event in seen.key_averages() if event.key == operator)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype, near", [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_they_say_what_the_stock_kernels_say(form, dtype, near, compose_whisper, features):
    model = moved(compose_whisper, form).to(dtype)
    features = {**features, "input_features": features["input_features"].to(dtype)}
    stock = stepwise(model, features)
    assert torch.allclose(stepwise(model, features, token_steps=True), stock, rtol=near, atol=near)
    # Texts of other tokens differ by more than that.
    assert not torch.allclose(stock[:, 0], stock[:, 1], rtol=near, atol=near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_greedy_decoding_takes_them_and_a_forward_pass_does_not(dtype, compose_whisper, features):
    model = moved(compose_whisper, "dual").to(dtype)
    features = {**features, "input_features": features["input_features"].to(dtype)}

    def generate(tokens: int) -> int:
        return calls_of(FUSED, lambda: model.generate(**features, language="en", max_new_tokens=tokens))

    assert 0 < generate(1) == generate(5)
    encoder, steps = (model.config.audio_config.num_hidden_layers, TOKENS.shape[1] - PROMPT)
    # Each call hears the clips anew; then the whole prompt, and each token where it was not asked otherwise.
    spoken = calls_of(FUSED, lambda: stepwise(model, features)) - (1 + steps) * encoder
    asked = calls_of(FUSED, lambda: stepwise(model, features, token_steps=True)) - (1 + steps) * encoder
    assert spoken == (1 + steps) * asked


def test_attention_weights_that_were_asked_for_are_given(compose_whisper, features):
    model = moved(compose_whisper, "plain")
    seen: list[torch.Size] = []
    layer = model.model.language_model.layers[0].encoder_attn
    tap = layer.register_forward_hook(lambda module, inputs, output: seen.append(output[0].shape))
    try:
        stepwise(model, features, token_steps=True)
    finally:
        tap.remove()
    assert len(seen) == 1 + TOKENS.shape[1] - PROMPT


@pytest.mark.parametrize("rows", [1, 2, FEW_ROWS, FEW_ROWS + 1])
@pytest.mark.parametrize("bias", [False, True])
def test_scores_of_few_rows_are_those_of_the_head(rows, bias):
    torch.manual_seed(0)
    head, states = nn.Linear(32, 300, bias=bias), torch.randn(rows, 32)
    with torch.no_grad():
        scores = vocabulary_scores(head, states, token_steps=True)
        assert scores.shape == (rows, 300)
        assert torch.allclose(scores, head(states), rtol=1e-5, atol=1e-6)
        assert torch.equal(vocabulary_scores(head, states), head(states))


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("shape", [(1, 2, 7, 4), (3, 2, 300, 16)])
def test_frames_are_summed_by_their_weights(shape, contiguous):
    torch.manual_seed(0)
    values = torch.randn(shape)
    if not contiguous:  # as they are before a cache has copied them
        values = values.transpose(1, 2).contiguous().transpose(1, 2)
    weights = torch.randn(*shape[:2], 1, shape[2]).softmax(-1)
    assert (calls_of(BAG, lambda: _read(weights, values)) > 0) == contiguous
    read = _read(weights, values)
    assert read.shape == (*shape[:2], 1, shape[3])
    assert torch.allclose(read, weights @ values, rtol=1e-5, atol=1e-6)
