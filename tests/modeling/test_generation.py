"""`generate`: the row-dropping loop says what the stock loop says; every way of decoding keeps its budget."""

import numpy as np
import pytest
import torch
from speechllm.modeling.generation_speechllm import left_pack
from speechllm.modeling.greedy_rows import LoopDetector
from tiny_bases import DECODERS
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

PAD = 0


@pytest.fixture(scope="module")
def llama(compose):
    return compose("whisper", "llama")


@pytest.fixture(scope="module")
def inputs(llama, clips):
    return dict(llama[1](audio=clips))


def generate(model, inputs, stock=False, **settings):
    """New ids; `stock` has the library's own loop do it, which asking for scores brings about."""
    settings = {"stop_loops": False, "pad_token_id": PAD, **settings}
    if stock:
        return model.generate(
            **inputs, **settings, output_scores=True, return_dict_in_generate=True
        ).sequences
    return model.generate(**inputs, **settings)


def ends_that_differ(model, inputs, **settings):
    """Three ids, of those that are said, which end the clips at different times."""
    ids = generate(model, inputs, eos_token_id=-2, max_new_tokens=24, **settings)
    firsts = {int(token): (ids == token).int().argmax(1) for token in ids.unique() if token != PAD}
    spread = {t: len(set(first.tolist())) for t, first in firsts.items()}
    return sorted(spread, key=spread.__getitem__)[-3:]


class ForbidByRow(LogitsProcessor):
    """Forbids another id in every row, in place, as a processor may that tells rows apart."""

    def __init__(self, ids):
        self.ids = torch.tensor(ids)

    def __call__(self, input_ids, scores):
        scores[torch.arange(len(scores)), self.ids] = -float("inf")
        return scores


class StopByRow(StoppingCriteria):
    """Stops row r after r + 1 tokens."""

    def __call__(self, input_ids, scores, **kwargs):
        return torch.arange(len(input_ids)) < input_ids.shape[1]


def settings_of(name, model, inputs):
    first = generate(model, inputs, eos_token_id=-2)[:, 0].tolist()
    return {
        "plain": {},
        "one_end": {"eos_token_id": ends_that_differ(model, inputs)[:1]},
        "ends": {"eos_token_id": ends_that_differ(model, inputs)},
        "no_end": {"eos_token_id": -2},
        "min_new_tokens": {"eos_token_id": ends_that_differ(model, inputs), "min_new_tokens": 6},
        "no_repeat_ngram": {"no_repeat_ngram_size": 2},
        "repetition_penalty": {"repetition_penalty": 1.7},
        "processor": {"logits_processor": LogitsProcessorList([ForbidByRow(first)])},
        "criterion": {"stopping_criteria": StoppingCriteriaList([StopByRow()]), "eos_token_id": -2},
        "prefix": {"prefix_allowed_tokens_fn": lambda row, ids: [10 + row, 20 + row, 30 + len(ids)]},
        "budget": {"max_new_tokens": 7, "eos_token_id": -2},
    }[name]


NAMES = (
    "plain", "one_end", "ends", "no_end", "min_new_tokens", "no_repeat_ngram", "repetition_penalty",
    "processor", "criterion", "prefix", "budget",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_greedy_loop_says_what_the_stock_loop_says(llama, inputs, name):
    model, _ = llama
    settings = settings_of(name, model, inputs)
    ids, expected = generate(model, inputs, **settings), generate(model, inputs, stock=True, **settings)
    assert ids.tolist() == expected.tolist()
    if name in ("one_end", "ends", "criterion"):
        assert len(set((ids != PAD).sum(1).tolist())) > 1, "rows end at different times"


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_goes_through_the_greedy_loop(compose, clips, decoder):
    model, processor = compose("whisper", decoder)
    inputs = dict(processor(audio=clips))
    for settings in ({"eos_token_id": -2}, {"eos_token_id": ends_that_differ(model, inputs)}):
        ids = generate(model, inputs, **settings)
        assert ids.tolist() == generate(model, inputs, stock=True, **settings).tolist()


def test_sliding_window_shorter_than_the_prompt(bases, clips, tmp_path):
    from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMProcessor
    from transformers import AutoModelForCausalLM, AutoTokenizer

    decoder = AutoModelForCausalLM.from_pretrained(bases / "tiny--gemma2")
    decoder.config.sliding_window = 8
    decoder.save_pretrained(tmp_path / "windowed")
    AutoTokenizer.from_pretrained(bases / "tiny--gemma2").save_pretrained(tmp_path / "windowed")
    names = (str(bases / "tiny--whisper"), str(tmp_path / "windowed"), "mlp")
    model = SpeechLLMForConditionalGeneration.from_bases(*names, stack_factor=4)
    inputs = dict(SpeechLLMProcessor.from_bases(*names, stack_factor=4)(audio=clips))
    assert model.default_prompt(**inputs)[0].shape[1] > 8
    for settings in ({"eos_token_id": -2}, {"eos_token_id": ends_that_differ(model, inputs)}):
        ids = generate(model, inputs, **settings)
        assert ids.tolist() == generate(model, inputs, stock=True, **settings).tolist()


def lengths(ids):
    """Tokens up to the last that is no padding, of each row."""
    # Beam search fills up with the end's id, which is negative here.
    real = ((ids != PAD) & (ids >= 0)).int()
    return (real * torch.arange(1, ids.shape[1] + 1)).amax(1)


@pytest.mark.parametrize(
    ("settings", "copies"),
    [
        ({}, 1),
        ({"num_beams": 3}, 1),
        ({"num_beams": 3, "num_return_sequences": 2}, 2),
        ({"do_sample": True}, 1),
        ({"do_sample": True, "num_return_sequences": 3}, 3),
        ({"do_sample": True, "num_beams": 2}, 1),
        ({"cache_implementation": "static"}, 1),
        ({"output_logits": True}, 1),
    ],
    ids=str,
)
def test_every_way_of_decoding_keeps_to_the_budgets(llama, inputs, settings, copies):
    torch.manual_seed(0)
    model, _ = llama
    ids = generate(model, inputs, eos_token_id=-2, **settings)
    budgets = model.token_budgets(model.speech_seconds(**inputs)).repeat_interleave(copies)
    assert len(ids) == len(budgets)
    assert ids.shape[1] == budgets.max()
    assert (lengths(ids) <= budgets).all()


def test_static_cache_says_the_same(llama, inputs):
    model, _ = llama
    static = generate(model, inputs, cache_implementation="static")
    assert static.tolist() == generate(model, inputs).tolist()


def test_budgets_follow_the_clips(llama, inputs):
    model, _ = llama
    seconds = model.speech_seconds(**inputs)
    assert_seconds = torch.tensor([0.3, 0.9, 1.7, 2.2, 3.1, 4.0])
    torch.testing.assert_close(seconds, assert_seconds, atol=0.02, rtol=0)
    budgets = [25, 43, 67, 82, 109, 136]
    assert model.token_budgets(seconds).tolist() == budgets
    written = generate(model, inputs, eos_token_id=-2, return_dict_in_generate=True)
    assert all(n <= most for n, most in zip(lengths(written.sequences).tolist(), budgets, strict=True))
    assert (written.exhausted | written.looped).all()


def test_limit_that_a_caller_sets_wins_over_the_budget(llama, inputs):
    model, _ = llama
    ids = generate(model, inputs, eos_token_id=-2, stop_loops=False, max_new_tokens=150)
    assert lengths(ids).tolist() == [150] * len(ids)


@pytest.mark.parametrize("where", ["argument", "config", "both", "model", "max_length"])
def test_smaller_limit_is_honoured_wherever_it_is_set(llama, inputs, where):
    model, _ = llama
    settings = {
        "argument": {"max_new_tokens": 5},
        "config": {"generation_config": GenerationConfig(max_new_tokens=5)},
        "both": {"generation_config": GenerationConfig(max_new_tokens=9), "max_new_tokens": 5},
        "model": {},
        "max_length": {"max_length": 5},
    }[where]
    before, given = model.generation_config.max_new_tokens, settings.get("generation_config")
    given_before = given.to_dict() if given else None
    model.generation_config.max_new_tokens = 5 if where == "model" else before
    try:
        assert generate(model, inputs, eos_token_id=-2, **settings).shape[1] == 5
    finally:
        model.generation_config.max_new_tokens = before
    assert given is None or given.to_dict() == given_before


def test_config_and_arguments_mean_the_same(llama, inputs):
    model, _ = llama
    settings = {"no_repeat_ngram_size": 2, "max_new_tokens": 12, "eos_token_id": -2, "pad_token_id": PAD}
    given = model.generate(**inputs, generation_config=GenerationConfig(**settings), stop_loops=False)
    assert given.tolist() == generate(model, inputs, **settings).tolist()


def test_finished_rows_are_no_longer_computed(llama, inputs):
    model, _ = llama
    ends, seen = ends_that_differ(model, inputs), []
    hook = model.lm_head.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    try:
        ids = generate(model, inputs, eos_token_id=ends)
    finally:
        hook.remove()
    assert seen == [int((lengths(ids) > step).sum()) for step in range(ids.shape[1])]
    assert seen[0] == len(ids) > seen[-1]


def test_logprobs_are_those_of_the_chosen_tokens(llama, inputs):
    model, _ = llama
    settings = {"eos_token_id": ends_that_differ(model, inputs), "repetition_penalty": 1.3}
    ours = generate(model, inputs, return_dict_in_generate=True, **settings)
    ids, mask = model.default_prompt(**inputs)
    written = lengths(ours.sequences)
    whole = torch.cat([ids, ours.sequences], 1)
    mask = torch.cat([mask, (torch.arange(ours.sequences.shape[1]) < written[:, None]).long()], 1)
    with torch.no_grad():
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = model(input_ids=whole, attention_mask=mask, position_ids=positions, **inputs).logits
    expected = logits[:, ids.shape[1] - 1 : -1].log_softmax(-1).gather(2, ours.sequences[..., None])[..., 0]
    real = torch.arange(ours.sequences.shape[1]) < written[:, None]
    torch.testing.assert_close(ours.token_logprobs, expected.masked_fill(~real, 0), atol=1e-4, rtol=1e-4)


class Say(LogitsProcessor):
    """Makes every row say one phrase for ever."""

    def __init__(self, phrase, intro=()):
        self.phrase, self.intro = phrase, list(intro)

    def __call__(self, input_ids, scores):
        place = input_ids.shape[1]
        said = [*self.intro, *self.phrase * 200][place]
        forced = torch.full_like(scores, -float("inf"))
        forced[:, said] = 0
        return forced


def forced(phrase, intro=()):
    return {"logits_processor": LogitsProcessorList([Say(phrase, intro)]), "eos_token_id": -2}


@pytest.mark.parametrize(("phrase", "intro"), [([40], [50, 51]), ([40, 41, 42], [50, 51])])
def test_loops_are_cut_to_one_round(llama, inputs, phrase, intro):
    model, _ = llama
    cut = generate(model, inputs, stop_loops=True, return_dict_in_generate=True, **forced(phrase, intro))
    assert cut.looped[1:].all()
    row = cut.sequences[-1][: int(lengths(cut.sequences)[-1])].tolist()
    assert row[:2] == intro
    assert len(row) - 2 == len(phrase), "one round"
    assert (cut.token_logprobs[-1, len(row) :] == 0).all()


def test_loops_stay_where_that_is_asked_for(llama, inputs):
    model, _ = llama
    left = generate(model, inputs, stop_loops=False, **forced([40]))
    assert lengths(left).tolist() == model.token_budgets(model.speech_seconds(**inputs)).tolist()


@pytest.mark.parametrize(
    "settings", [{"do_sample": True}, {"num_beams": 2}, {"output_scores": True}], ids=str
)
def test_loops_stop_in_the_stock_loops_too(llama, inputs, settings):
    model, _ = llama
    ids = generate(model, inputs, stop_loops=True, **settings, **forced([40]))
    assert ids.shape[1] <= 16


@pytest.mark.parametrize(
    ("ids", "period"),
    [([7] * 12, 1), ([7] * 11, 0), ([1, 2] * 6, 2), ([1, 2, 3] * 4, 3), ([1, 2, 3] * 3, 0),
     (list(range(64)), 0),
     ([*range(40, 56)] * 4, 16), ([9, 9, 9, 9, *[1, 2, 3, 4] * 4], 4)],
)  # fmt: skip
def test_what_counts_as_a_loop(ids, period):
    assert LoopDetector()(torch.tensor([ids])).tolist() == [period]


def test_prompt_may_be_padded_on_either_side(llama, clips):
    model, processor = llama
    texts = ["<|audio|>a:", "Please listen: <|audio|>", "<|audio|>"]
    sides = {}
    for side in ("left", "right"):
        inputs = dict(processor(audio=clips[:3], text=texts, padding_side=side))
        ids = generate(model, inputs, eos_token_id=-2, max_new_tokens=9)
        assert torch.equal(ids[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
        sides[side] = ids[:, inputs["input_ids"].shape[1] :].tolist()
    assert sides["left"] == sides["right"]
    for row in range(3):
        alone = dict(processor(audio=[clips[row]], text=[texts[row]]))
        ids = generate(model, alone, eos_token_id=-2, max_new_tokens=9)
        assert ids[0, alone["input_ids"].shape[1] :].tolist() == sides["left"][row]


def test_max_length_counts_the_prompt_where_it_is_returned(llama, clips):
    model, processor = llama
    inputs = dict(processor(audio=clips[:2], text=["<|audio|>", "<|audio|>:"]))
    size = inputs["input_ids"].shape[1]
    assert generate(model, inputs, eos_token_id=-2, max_length=size + 4).shape[1] == size + 4
    with pytest.raises(ValueError, match="leaves no room"):
        generate(model, inputs, max_length=size)


def test_labels_of_a_trainer_are_not_heard(llama, clips):
    model, processor = llama
    batch = dict(processor.apply_training_request(clips[:3], ["a", "quite long an answer", ""]))
    request = dict(processor.apply_transcription_request(clips[:3]))
    expected = generate(model, request, max_new_tokens=9)[:, request["input_ids"].shape[1] :]
    assert generate(model, batch, max_new_tokens=9).tolist() == expected.tolist()


def test_text_without_speech_is_continued_as_the_decoder_does(compose, bases):
    from transformers import AutoModelForCausalLM

    model, processor = compose("whisper", "llama")
    stock = AutoModelForCausalLM.from_pretrained(bases / "tiny--llama")
    inputs = dict(processor(text=["abc", "hello"]))
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": PAD, "eos_token_id": -2}
    assert model.generate(**inputs, **settings).tolist() == stock.generate(**inputs, **settings).tolist()


def test_placeholders_without_speech_are_refused(llama):
    model, processor = llama
    ids = torch.tensor([[5, processor.audio_token_id, 6]])
    for call in (model.generate, model):
        with pytest.raises(ValueError, match="no input_features to fill them"):
            call(input_ids=ids)
    with pytest.raises(ValueError, match="nothing to go by"):
        model.generate()


def test_inference_mode_says_the_same(llama, inputs):
    model, _ = llama
    expected = generate(model, inputs)
    with torch.inference_mode():
        assert generate(model, inputs).tolist() == expected.tolist()
        assert generate(model, inputs, stock=True).tolist() == expected.tolist()


class Heard(BaseStreamer):
    """Keeps what it is given."""

    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        self.ended = True


def test_streamer_hears_every_token(llama, clips):
    model, processor = llama
    inputs, heard = dict(processor(audio=clips[3])), Heard()
    ids = generate(model, inputs, eos_token_id=-2, streamer=heard)
    assert heard.ended
    assert heard.tokens == ids[0].tolist()
    assert len(heard.tokens) == model.token_budgets(model.speech_seconds(**inputs))[0]


def test_stop_strings_work(llama, inputs, clips):
    model, processor = llama
    said = generate(model, inputs, eos_token_id=-2)[0]
    letter = processor.tokenizer.decode(said[3:4])
    ids = generate(model, dict(processor(audio=clips[0])), eos_token_id=-2, stop_strings=[letter],
                   tokenizer=processor.tokenizer)  # fmt: skip
    assert letter in processor.tokenizer.decode(ids[0])
    assert ids.shape[1] <= 4


def test_features_may_come_as_the_main_input_without_a_mask(llama, clips):
    model, processor = llama
    inputs = dict(processor(audio=clips[2]))
    size = int(inputs["input_features_mask"].sum())
    features = inputs["input_features"][..., :size]
    expected = generate(model, inputs).tolist()
    assert generate(model, {"inputs": features}).tolist() == expected
    assert generate(model, {"input_features": features}).tolist() == expected


def test_left_pack_keeps_order_and_drops_shared_padding():
    embeds = torch.arange(10.0).reshape(2, 5, 1)
    mask = torch.tensor([[0, 1, 1, 0, 0], [1, 0, 1, 1, 0]])
    packed, packed_mask = left_pack(embeds, mask)
    assert packed_mask.tolist() == [[0, 1, 1], [1, 1, 1]]
    assert packed[0, 1:, 0].tolist() == [1, 2]
    assert packed[1, :, 0].tolist() == [5, 7, 8]


def test_settings_a_trainer_filled_in_are_forgotten(compose, clips, tmp_path, bases):
    model, processor = compose("whisper", "llama")
    inputs = dict(processor(audio=clips[-1:]))
    expected = generate(model, inputs, eos_token_id=-2)
    assert expected.shape[1] > 20
    model.save_pretrained(tmp_path / "before")
    defaults = model.generation_config._get_default_generation_params()
    model.generation_config.update(**defaults, defaults_only=True)
    assert model.generation_config.max_length == 20
    model.save_pretrained(tmp_path / "after")
    assert generate(model, inputs, eos_token_id=-2).tolist() == expected.tolist()
    before, after = (tmp_path / name / "generation_config.json" for name in ("before", "after"))
    assert after.read_bytes() == before.read_bytes()
    assert '"num_beams": 1' in after.read_text()


def test_silence_and_shortest_clips_have_a_budget(llama):
    model, processor = llama
    inputs = dict(processor(audio=[np.zeros(10, np.float32), np.zeros(16000, np.float32)]))
    assert generate(model, inputs, max_new_tokens=3, eos_token_id=-2).shape == (2, 3)
