"""Times of tokens: warping as the plain algorithm does it, where stock Whisper puts them, in any company."""

import numpy as np
import pytest
import torch
from moved_parameters import move
from speechllm.modeling.decoders.time_warping import first_frames, median_filter, standing_out
from speechllm.modeling.decoders.token_times import (
    alignment_heads,
    heard_frames,
    stretches,
    text_spans,
    token_times,
)
from transformers import WhisperForConditionalGeneration
from transformers.generation.utils import GenerateEncoderDecoderOutput
from transformers.modeling_outputs import BaseModelOutput

RATE = {"sampling_rate": 16000}
ASKED = {"return_timestamps": True, "return_token_timestamps": True}
LORA = {"r": 4, "target_modules": ["q_proj", "k_proj"]}
BANK = {"it": {"decoder": LORA}, "fr": {"encoder": LORA, "decoder": LORA}}


# --- warping --------------------------------------------------------------------------------------------


def plain_first_frames(gains: np.ndarray) -> list[int]:
    """The textbook: a table of costs, cell by cell, and the way back."""
    tokens, frames = gains.shape
    cost = np.full((tokens + 1, frames + 1), np.inf)
    cost[0, 0] = 0
    for i in range(1, tokens + 1):
        for j in range(1, frames + 1):
            cost[i, j] = min(cost[i - 1, j - 1], cost[i - 1, j], cost[i, j - 1]) - gains[i - 1, j - 1]
    i, j, way = tokens, frames, []
    while (i, j) != (0, 0):
        way.append((i - 1, j - 1))
        steps = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        i, j = min((step for step in steps if min(step) >= 0), key=lambda step: cost[step])
    return [min(frame for token, frame in way if token == one) for one in range(tokens)]


def test_warping_takes_the_way_of_the_plain_algorithm():
    generator = np.random.default_rng(1)
    sizes = [(6, 40), (1, 9), (12, 5), (7, 7), (1, 1), (25, 60), (4, 1)]
    matrices = [generator.standard_normal(size).astype(np.float32) for size in sizes]
    expected = [plain_first_frames(matrix.astype(np.float64)) for matrix in matrices]
    # All at once, and each by itself.
    assert [found.tolist() for found in first_frames(matrices)] == expected
    assert [first_frames([matrix])[0].tolist() for matrix in matrices] == expected


def test_tokens_are_found_where_they_stand_out():
    weights, borders = torch.full((3, 4, 40), 0.01), [0, 8, 16, 28, 40]
    for token in range(4):
        weights[:, token, borders[token] : borders[token + 1]] = 0.2
    weights[0, 3, 4] = 0.3  # A glance elsewhere: the median does not see it.
    assert first_frames([standing_out(weights, 7).numpy()])[0].tolist() == borders[:4]


def test_one_token_and_equal_tokens_are_no_division_by_zero():
    for weights in (torch.rand(2, 1, 9), torch.full((2, 3, 9), 1e-20)):
        assert torch.isfinite(standing_out(weights, 7)).all()


@pytest.mark.parametrize("width", [1, 3, 7, 9])
def test_medians_are_those_of_sorting(width):
    rows = torch.randn(5, 30)
    reach = width // 2
    padded = np.pad(rows.numpy(), ((0, 0), (reach, reach)), mode="reflect")
    expected = np.median(np.lib.stride_tricks.sliding_window_view(padded, width, axis=1), axis=-1)
    assert np.array_equal(median_filter(rows, width).numpy(), expected)


# --- what counts ----------------------------------------------------------------------------------------


def test_neither_padding_nor_silence_is_heard():
    features = torch.full((3, 80, 12), -0.7)
    features[0, 7, 2:9] = 1.0  # sound from frame 1 on; its end is the clip's
    features[1, 7, [0, 1, 8, 9]] = 0.9
    features[2] = 1.0
    heard = heard_frames(features, torch.tensor([7, 12, 4]), 8).int().tolist()
    assert heard == [[0, 1, 1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]]
    assert heard_frames(None, torch.tensor([7, 2]), 4).int().tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]


def test_what_is_not_heard_lies_between_tokens():
    frames = np.array([3, 4, 5, 50, 51])
    times = stretches(np.array([0, 1, 3, 3, 4]), frames)
    assert np.allclose(times, [[0.06, 0.08], [0.08, 0.12], [1.0, 1.0], [1.0, 1.02]])


def test_text_begins_behind_the_first_timestamp_and_ends_at_the_padding():
    ids = torch.tensor([[12, 5, 6, 13, 9], [5, 9, 9, 9, 9], [12, 9, 9, 9, 9], [9, 9, 9, 9, 9]])
    assert text_spans(ids, 9, 9) == [(1, 4), (0, 1), (1, 1), (0, 0)]
    assert text_spans(ids, 9, None) == text_spans(ids, 9, 9)


# --- Whisper --------------------------------------------------------------------------------------------


HEADS = [[0, 1], [1, 2], [1, 3]]


def with_heads(model):
    model.generation_config.alignment_heads = HEADS
    return model


@pytest.fixture(scope="module")
def plain(compose_whisper):
    model, processor = compose_whisper()
    return with_heads(model), processor


@pytest.fixture(scope="module")
def short(compose_whisper):
    model, processor = compose_whisper(encoder_padding="longest")
    return with_heads(model), processor


@pytest.fixture(scope="module")
def stock(bases):
    model = WhisperForConditionalGeneration.from_pretrained(
        bases / "tiny--whisper_asr", attn_implementation="eager"
    )
    return with_heads(model.eval())


@pytest.fixture(scope="module", params=[("cross_attention", "longest"), ("dual_attention", "max_length")])
def adapted(request, compose_whisper):
    adapter, padding = request.param
    model, processor = compose_whisper(adapter, encoder_padding=padding)
    move(model.model.adapter.parameters(), 0.2, seed=3)
    return with_heads(model), processor


def request(processor, clips, **asked):
    return processor.apply_transcription_request(list(clips), **{"language": "it", **RATE, **asked})


@torch.no_grad()
def test_times_are_the_stock_models(plain, stock, clips):
    model, processor = plain
    features = processor.feature_extractor(clips, return_attention_mask=True, return_tensors="pt", **RATE)
    lengths = features.attention_mask.sum(dim=1)
    # Of a random encoder all frames are alike.
    states = 2 * torch.randn(len(clips), 1500, 32, generator=torch.Generator().manual_seed(2))
    heard = heard_frames(features.input_features, lengths, 1500)
    assert heard.sum(dim=1).tolist() == (lengths // 2).tolist()  # glides in noise: sound all the way
    end, stamp = stock.config.eos_token_id, stock.generation_config.no_timestamps_token_id + 1
    prompt = torch.tensor([[stock.config.decoder_start_token_id, end + 3, end + 7]]).expand(len(clips), -1)
    said = torch.randint(0, 200, (len(clips), 20), generator=torch.Generator().manual_seed(2))
    ids = torch.cat([torch.full((len(clips), 1), stamp), said, torch.full((len(clips), 1), end)], dim=1)
    whole = torch.cat([prompt, ids], dim=1)
    outputs = stock(
        encoder_outputs=BaseModelOutput(states), decoder_input_ids=whole[:, :-1], output_attentions=True
    )
    generated = GenerateEncoderDecoderOutput(sequences=whole, cross_attentions=(outputs.cross_attentions,))
    theirs = stock._extract_token_timestamps(
        generated, HEADS, num_frames=lengths.tolist(), num_input_ids=prompt.shape[1]
    )
    model.causal_lm.generation_config = model.generation_config
    ours = token_times(model.causal_lm, prompt, None, ids, states, None, heard)
    torch.testing.assert_close(ours[:, 1:-1, 1], theirs[:, prompt.shape[1] + 1 : -1])
    # A token begins where the one before it ends.
    assert torch.equal(ours[:, 2:-1, 0], ours[:, 1:-2, 1])
    assert len(ours[-1, :, 1].unique()) > 5


def check(times: torch.Tensor, ids: torch.Tensor, clips) -> None:
    """Times of new ids go on, and stay within their clips."""
    assert times.shape == (*ids.shape, 2)
    borders = times.flatten(1)
    assert (borders.diff(dim=1) >= 0).all() and (borders >= 0).all()
    for row, clip in enumerate(clips):
        assert float(times[row].max()) <= len(clip) / 16000 + 0.02


def test_a_clip_has_the_times_in_a_batch_that_it_has_alone(adapted, clips):
    model, processor = adapted
    together = model.generate(**request(processor, clips), **ASKED, max_new_tokens=14)
    check(together.token_times, together.sequences, clips)
    for row, clip in enumerate(clips):
        alone = model.generate(**request(processor, [clip]), **ASKED, max_new_tokens=14)
        check(alone.token_times, alone.sequences, [clip])
        size = alone.sequences.shape[1]
        assert together.sequences[row, :size].tolist() == alone.sequences[0].tolist()
        torch.testing.assert_close(together.token_times[row, :size], alone.token_times[0])
    assert together.token_times[-1].unique().numel() > 2


def test_times_do_not_depend_on_how_much_silence_follows(plain, clips):
    model, processor = plain
    clips = clips[2:5]
    said = model.generate(**request(processor, clips), **ASKED, max_new_tokens=12)
    features = processor.feature_extractor(clips, return_tensors="pt", **RATE).input_features
    # Nobody says how long the clips are: 30 s of features each, all of them real.
    padded = model.generate(features, language="it", **ASKED, max_new_tokens=12)
    assert torch.equal(padded.sequences, said.sequences)
    check(padded.token_times, padded.sequences, clips)
    followed = [np.pad(clip, (1600 * row, 16000)) for row, clip in enumerate(clips)]
    shifted = model.generate(**request(processor, followed), **ASKED, max_new_tokens=12).token_times
    for row, clip in enumerate(clips):
        assert float(shifted[row].min()) >= 0.1 * row - 0.03
        assert float(shifted[row].max()) <= 0.1 * row + len(clip) / 16000 + 0.03


def test_without_timestamps_among_the_ids_the_first_token_begins_with_the_sound(short, clips):
    model, processor = short
    late = [np.pad(clips[4], (8000, 0))]
    only_text = {"suppress_tokens": list(range(256, 1770)), "max_new_tokens": 10}
    outputs = model.generate(**request(processor, late), return_token_timestamps=True, **only_text)
    assert float(outputs.token_times[0, 0, 0]) == pytest.approx(0.5, abs=0.021)
    assert (outputs.token_times[0].diff(dim=0) >= 0).all()


@torch.no_grad()
def test_the_primary_branch_is_watched(compose_whisper, clips):
    plain, dual = (compose_whisper(adapter)[0] for adapter in ("cross_attention", "dual_attention"))
    _, processor = compose_whisper()
    last = dual.model.adapter.layers[-1]
    for parameter in last.attention.parameters():
        # In the last layer it changes what is said, and not where the primary looks.
        parameter.normal_()
    states = torch.randn(2, 60, 32, generator=torch.Generator().manual_seed(1))
    ids, prompt = torch.randint(0, 200, (2, 9)), torch.tensor([[257, 259, 264]] * 2)
    found = []
    for model in (plain, dual):
        model.causal_lm.generation_config = with_heads(model).generation_config
        heard = torch.ones(2, 60, dtype=torch.bool)
        found.append(token_times(model.causal_lm, prompt, None, ids, states, None, heard))
    assert torch.equal(*found)


def test_rows_of_different_adapters_have_the_times_they_have_alone(compose_whisper, clips):
    clips = clips[2:]
    model, processor = compose_whisper(encoder_padding="longest", lora_bank=BANK)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    # Greek has no adapter: such rows are heard as the base was trained, in 30 s.
    languages = ["it", "fr", "el", "fr"]
    # Letters that end a text: rows leave the batch and the bank one after the other.
    ends = {"eos_token_id": [256, 130, 44], "max_new_tokens": 12}
    asked = {"return_token_timestamps": True, "routing": "oracle", **ends}
    together = model.generate(**request(processor, clips, language=languages), **asked)
    check(together.token_times, together.sequences, clips)
    for row, clip in enumerate(clips):
        alone = model.generate(**request(processor, [clip], language=languages[row]), **asked)
        size = alone.sequences.shape[1]
        assert together.sequences[row, :size].tolist() == alone.sequences[0].tolist()
        torch.testing.assert_close(together.token_times[row, :size], alone.token_times[0])
    base = model.generate(**request(processor, clips, language=languages), **{**asked, "routing": "base"})
    check(base.token_times, base.sequences, clips)
    assert not torch.equal(base.token_times[0, :8], together.token_times[0, :8])


def test_every_text_of_a_clip_has_its_times(short, clips):
    model, processor = short
    outputs = model.generate(
        **request(processor, clips[3:5]), **ASKED, max_new_tokens=8, num_beams=3, num_return_sequences=2
    )
    check(outputs.token_times, outputs.sequences, [clips[3], clips[3], clips[4], clips[4]])
    alone = model.generate(**request(processor, clips[4:]), **ASKED, max_new_tokens=8, num_beams=3)
    torch.testing.assert_close(outputs.token_times[2], alone.token_times[0])
    assert len(outputs.language) == 2


def test_context_before_the_text_takes_no_time(short, clips):
    model, processor = short
    inputs = request(processor, clips, prompt="one two three")
    outputs = model.generate(**inputs, **ASKED, max_new_tokens=8)
    check(outputs.token_times, outputs.sequences, clips)


def test_nothing_is_watched_afterwards_and_the_text_stays(short, clips):
    model, processor = short
    inputs = request(processor, clips)
    before = model.generate(**inputs, return_timestamps=True, max_new_tokens=10)
    assert torch.equal(model.generate(**inputs, **ASKED, max_new_tokens=10).sequences, before)
    assert not any(layer.encoder_attn._forward_pre_hooks for layer in model.causal_lm.model.decoder.layers)


def test_without_alignment_heads_the_upper_half_is_asked(compose_whisper):
    model = compose_whisper()[0].causal_lm
    assert alignment_heads(model) == {1: [0, 1, 2, 3]}
    model.generation_config.alignment_heads = [[0, 3], [1, 0], [0, 1]]
    assert alignment_heads(model) == {0: [3, 1], 1: [0]}


def test_the_stock_long_form_algorithm_is_refused(short, clips):
    model, processor = short
    long = torch.zeros(1, 80, 3200)
    with pytest.raises(ValueError, match="a clip above 30 s asks for the stock long-form algorithm"):
        model.generate(long, language="it", return_token_timestamps=True)
    with pytest.raises(ValueError, match="temperature asks for the stock") as caught:
        model.generate(**request(processor, clips), return_token_timestamps=True, temperature=0.5)
    assert "\n" not in str(caught.value)
