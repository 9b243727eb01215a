"""A bank of adapters with a router, in Whisper and in a bridge: every clip of a batch takes its own way."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from speechllm import SpeechLLMConfig, SpeechLLMForConditionalGeneration, SpeechLLMPipeline
from speechllm.modeling.encoder_pass import EncoderPass
from speechllm.modeling.lora_layers import adapter_of_key
from transformers import WhisperForConditionalGeneration

RATE = {"sampling_rate": 16000}
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
BANK = {
    "it": {"encoder": {**LORA, "target_modules": ["q_proj", "v_proj", "fc1"]}, "decoder": LORA},
    "fr": {"decoder": {"r": 2}},
    "el": {"encoder": {"r": 3}, "decoder": {"r": 3}},
}
LABELS = {"labels": ["it", "fr", "el", "en"], "hidden_sizes": [16]}


def stirred(model):
    """Adapters that do something: fresh ones add nothing."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def routed(compose_whisper):
    model, processor = compose_whisper(lora_bank=BANK, router_config=LABELS, encoder_padding="longest")
    return stirred(model), processor


@pytest.fixture(scope="module")
def bridge(compose):
    model, processor = compose("whisper", lora_bank=BANK, router_config=LABELS)
    return stirred(model), processor


def single(model, compose_whisper, name: str):
    """The model that has just one of the adapters, as trained alone."""
    alone, _ = compose_whisper(lora_bank={name: BANK[name]}, encoder_padding="longest")
    with torch.no_grad():
        there = dict(model.named_parameters())
        for key, parameter in alone.named_parameters():
            if adapter_of_key(key) == name:
                parameter.copy_(there[key])
    alone.use_adapters(name)
    return alone


def asked(processor, clips, **more):
    return processor.apply_transcription_request(clips, **RATE, **more)


@torch.no_grad()
def test_hard_rows_of_one_batch_have_the_logits_of_the_single_adapter_models(routed, compose_whisper, clips):
    model, processor = routed
    batch = processor.apply_training_request(
        clips[:3], ["ab", "cde", "f"], language=["it", "fr", "el"], **RATE
    )
    together = model(**batch, routing_weights=torch.eye(3)).logits
    for row, name in enumerate(BANK):
        alone = single(model, compose_whisper, name)
        one = processor.apply_training_request(clips[row], ["ab", "cde", "f"][row], language=name, **RATE)
        expected = alone(**one).logits[0]
        torch.testing.assert_close(together[row, : len(expected)], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_every_clip_is_decoded_with_the_adapter_of_its_language(routed, compose_whisper, clips):
    model, processor = routed
    languages = ["it", "fr", "el", "it"]
    together = model.generate(**asked(processor, clips[:4], language=languages), max_new_tokens=10)
    for row, name in enumerate(languages):
        alone = single(model, compose_whisper, name)
        expected = alone.generate(**asked(processor, clips[row], language=name), max_new_tokens=10)[0]
        assert together[row, : len(expected)].tolist() == expected.tolist()
    plain = model.generate(
        **asked(processor, clips[:4], language=languages), routing="base", max_new_tokens=10
    )
    assert plain.tolist() != together.tolist()


@torch.no_grad()
@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_beams_keep_the_adapter_of_their_clip(routed, clips, settings):
    model, processor = routed
    languages = ["el", "it"]
    together = model.generate(**asked(processor, clips[:2], language=languages), max_new_tokens=6, **settings)
    each = settings.get("num_return_sequences", 1)
    for row, language in enumerate(languages):
        alone = model.generate(
            **asked(processor, clips[row], language=language), max_new_tokens=6, **settings
        )
        for place in range(each):
            new = together[row * each + place, : alone.shape[1]]
            assert new.tolist() == alone[place].tolist()


@torch.no_grad()
def test_a_clip_left_to_the_base_has_the_text_of_stock_whisper(routed, bases, clips):
    model, processor = routed
    stock = WhisperForConditionalGeneration.from_pretrained(bases / "tiny--whisper_asr").eval()
    features = processor.feature_extractor(list(clips[:3]), **RATE, return_tensors="pt").input_features
    settings = {"task": "transcribe", "max_new_tokens": 10}
    languages = ["be", "it", "be"]  # no adapter knows Belarusian
    inputs = {**asked(processor, clips[:3], language=languages), **settings}
    new = model.generate(**inputs, stop_loops=False)
    expected = stock.generate(features, language=languages, **settings)
    for row in (0, 2):
        assert new[row, : expected.shape[1]].tolist() == expected[row].tolist()
    assert model.generate(**inputs, routing="base", stop_loops=False)[:, : expected.shape[1]].tolist() == (
        expected.tolist()
    )


@torch.no_grad()
def test_the_router_says_the_language_and_how_surely(routed, clips):
    model, processor = routed
    inputs = asked(processor, clips)
    out = model.generate(**inputs, routing="hard", max_new_tokens=8, return_dict_in_generate=True)
    for row, (language, scores) in enumerate(zip(out.language, out.language_scores, strict=True)):
        assert language == max(scores, key=scores.get)
        assert sum(scores.values()) == pytest.approx(1)
        alone = model.generate(**asked(processor, clips[row], language=language), max_new_tokens=8)
        assert out.sequences[row, : alone.shape[1]].tolist() == alone[0].tolist()


@torch.no_grad()
def test_soft_rows_with_all_the_weight_on_one_label_are_hard(routed, clips):
    model, processor = routed
    with torch.no_grad():
        bias = model.model.router.head.classifier[-1].bias
        before = bias.clone()
        bias[0] += 1000.0
    try:
        inputs = asked(processor, clips[:3])
        soft, hard = (model.generate(**inputs, routing=way, max_new_tokens=8) for way in ("soft", "hard"))
        assert soft.tolist() == hard.tolist()
    finally:
        with torch.no_grad():
            bias.copy_(before)
    mixed = model.generate(**inputs, routing="soft", max_new_tokens=8)
    assert mixed.tolist() != hard.tolist()


@torch.no_grad()
def test_below_the_floor_of_confidence_a_clip_is_left_to_the_base(routed, clips):
    model, processor = routed
    config = model.config.router_config
    inputs = asked(processor, clips[:3])
    hard = model.generate(**inputs, routing="hard", max_new_tokens=8, return_dict_in_generate=True)
    config.floor = 0.999
    try:
        unsure = model.generate(**inputs, routing="hard", max_new_tokens=8)
    finally:
        config.floor = 0.0
    base = model.generate(
        **asked(processor, clips[:3], language=hard.language), routing="base", max_new_tokens=8
    )
    assert unsure.tolist() == base.tolist()


@torch.no_grad()
@pytest.mark.parametrize(("layer", "shared"), [(None, False), (2, False), (1, True), (0, True)])
def test_router_and_recognizer_share_the_pass_below_the_first_adapter(
    compose_whisper, clips, layer, shared, monkeypatch
):
    above = {"q_proj": [1, 2]}
    lora = {"r": 4, "layers_to_transform": above["q_proj"]}
    model, processor = compose_whisper(
        lora_bank={"it": {"encoder": lora}, "fr": {"encoder": lora}},
        router_config={"labels": ["it", "fr"], "layer": layer},
        encoder_padding="longest",
    )
    stirred(model)
    embedded = []
    embed = type(model.model.audio_tower).embed
    monkeypatch.setattr(
        type(model.model.audio_tower), "embed", lambda self, *args: embedded.append(1) or embed(self, *args)
    )
    inputs = asked(processor, clips[:4])
    out = model.generate(**inputs, max_new_tokens=8, return_dict_in_generate=True)
    assert len(embedded) == (1 if shared else 2)
    named = model.generate(**asked(processor, clips[:4], language=out.language), max_new_tokens=8)
    assert out.sequences.tolist() == named.tolist()


@torch.no_grad()
def test_an_encoder_pass_that_rested_ends_as_one_that_did_not(routed, clips, monkeypatch):
    model, processor = routed
    monkeypatch.setattr("speechllm.modeling.encoder_pass.FRAMES_AT_ONCE", 300)
    inputs = asked(processor, clips)
    lengths = inputs["input_features_mask"].sum(-1)
    weights = torch.rand(len(clips), 3)
    body = model.model
    body.bank.use(weights)
    expected = EncoderPass(body, inputs["input_features"], lengths, False).finish()
    rested = EncoderPass(body, inputs["input_features"], lengths, False)
    assert len(list(rested.parts())) > 1
    for _ in rested.rest_at(0):
        pass
    torch.testing.assert_close(rested.finish(), expected)
    monkeypatch.undo()
    whole = EncoderPass(body, inputs["input_features"], lengths, False).finish()
    body.bank.use(None)
    for row, frames in enumerate(rested.frames.tolist()):
        torch.testing.assert_close(whole[row, :frames], expected[row, :frames], atol=1e-4, rtol=1e-4)


def test_a_mixture_trains_its_adapters_and_its_weights(routed, clips):
    model, processor = routed
    batch = processor.apply_training_request(clips[:2], ["ab", "c"], language="it", **RATE)
    weights = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.8, 0.0]], requires_grad=True)
    model.zero_grad()
    model.train()
    model(**batch, routing_weights=weights).loss.backward()
    model.eval()
    assert weights.grad.abs().sum() > 0
    trained = {
        adapter_of_key(key)
        for key, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }
    assert {"it", "fr"} <= trained


def test_after_an_evaluation_adapters_go_on_training(routed, clips):
    model, processor = routed
    model.use_adapters("it")
    try:
        model.generate(**asked(processor, clips[:2]), max_new_tokens=2)
        model.zero_grad()
        model(
            **processor.apply_training_request(clips[:2], ["a", "b"], language="it", **RATE)
        ).loss.backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.lora_bank.parameters_of("it"))
    finally:
        model.use_adapters(None)


@pytest.mark.parametrize("included", [False, True])
def test_bank_and_router_survive_the_round_trip(routed, bases, tmp_path, clips, included):
    model, processor = routed
    inputs = asked(processor, clips)
    expected = model.generate(**inputs, routing="soft", max_new_tokens=8)
    held = []
    for generation in range(3):
        folder = tmp_path / str(generation)
        model.save_pretrained(folder, include_bases=included)
        held.append({path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".py"})
        model = SpeechLLMForConditionalGeneration.from_pretrained(folder, bases=bases)
    assert held[0] == held[2]
    assert model.generate(**inputs, routing="soft", max_new_tokens=8).tolist() == expected.tolist()


def test_one_adapter_can_change_and_the_others_stay(routed, bases, tmp_path):
    routed[0].save_pretrained(tmp_path / "a")
    model = SpeechLLMForConditionalGeneration.from_pretrained(tmp_path / "a", bases=bases)
    model.lora_bank.rename("fr", "fr-ca")
    model.lora_bank.remove("it")
    model.lora_bank.add("be", {"decoder": {"r": 2}})
    model.save_pretrained(tmp_path / "b")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert {adapter_of_key(key) for key in after} - {None} == {"fr-ca", "el", "be"}
    for key, tensor in before.items():
        if adapter_of_key(key) != "it":
            renamed = f"{key}-ca" if adapter_of_key(key) == "fr" else key
            assert torch.equal(after[renamed], tensor)
    again = SpeechLLMForConditionalGeneration.from_pretrained(tmp_path / "b", bases=bases)
    assert sorted(again.lora_bank.names) == ["be", "el", "fr-ca"]


def test_a_part_of_a_bank_can_be_loaded(routed, bases, tmp_path, clips):
    model, processor = routed
    for included in (False, True):
        folder = tmp_path / str(included)
        model.save_pretrained(folder, include_bases=included)
        part = SpeechLLMForConditionalGeneration.from_pretrained(folder, bases=bases, adapters=["el"])
        assert part.lora_bank.names == ["el"]
        inputs = asked(processor, clips[:2], language="el")
        expected = model.generate(**inputs, max_new_tokens=6)
        assert part.generate(**inputs, max_new_tokens=6).tolist() == expected.tolist()
    with pytest.raises(ValueError, match="there is no adapter 'de'; there are"):
        SpeechLLMForConditionalGeneration.from_pretrained(folder, bases=bases, adapters=["de"])


@torch.no_grad()
def test_a_bridge_routes_too(bridge, clips):
    model, processor = bridge
    inputs = asked(processor, clips)
    new = inputs["input_ids"].shape[1]
    out = model.generate(**inputs, max_new_tokens=8, return_dict_in_generate=True)
    for row, language in enumerate(out.language):
        one = asked(processor, clips[row])
        alone = model.generate(**one, max_new_tokens=8, language=language)[0, one["input_ids"].shape[1] :]
        assert out.sequences[row, new : new + len(alone)].tolist() == alone.tolist()
    base = model.generate(**inputs, max_new_tokens=8, routing="base")
    assert base.tolist() != out.sequences.tolist()


def test_the_pipeline_routes_a_batch_and_says_how(routed, clips):
    asr = SpeechLLMPipeline(*routed)
    sources = [{"array": clip, "sampling_rate": 16000} for clip in clips]
    results = asr(sources, batch_size=4, routing="hard", max_new_tokens=6)
    for source, result in zip(sources, results, strict=True):
        assert result["language"] == max(result["language_scores"], key=result["language_scores"].get)
        named = asr(source, language=result["language"], max_new_tokens=6)
        assert named["text"] == result["text"]
    long = {"array": np.concatenate(clips * 4), "sampling_rate": 16000}
    assert set(asr(long, max_new_tokens=3)["language_scores"]) == set(LABELS["labels"])


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"language": "xx"}, "no adapter and no language 'xx'; there are it, fr, el"),
        ({"routing": "loud"}, "no routing strategy 'loud'; there are hard"),
        ({"routing": "oracle"}, "needs the language of every clip"),
        ({"routing": "hierarchical"}, "needs families"),
        ({"routing_weights": torch.ones(2, 5)}, r"takes weights \[rows, 3\] for it, fr, el, not \[2, 5\]"),
    ],
)
def test_what_cannot_be_routed_is_refused_in_one_line(routed, clips, request_, message):
    model, processor = routed
    inputs = asked(processor, clips[:2])
    inputs.pop("language")
    with pytest.raises(ValueError, match=message):
        model.generate(**{**inputs, **request_}, max_new_tokens=2)


def test_a_bank_without_a_router_names_what_there_is(compose_whisper, clips):
    model, processor = compose_whisper(lora_bank={name: BANK[name] for name in ("it", "fr")})
    with pytest.raises(ValueError, match=r"has no router: say language= \(it, fr\) or routing='base'"):
        model.generate(**asked(processor, clips[:1]), max_new_tokens=2)
    bare, processor = compose_whisper()
    with pytest.raises(ValueError, match="routing='soft': this checkpoint has no adapters"):
        bare.generate(**asked(processor, clips[:1]), routing="soft", max_new_tokens=2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lora_bank": BANK, "router_config": {"labels": ["de", "nl"]}}, "no name in common"),
        ({"router_config": {"labels": ["it"], "layer": 9}}, "this encoder has 3 layers"),
        ({"router_config": ["it"]}, "holds fields such as"),
        ({"lora_bank": {"base": BANK["it"]}}, "'base'"),
    ],
)
def test_bank_and_router_that_do_not_fit_are_refused(bases, fields, message):
    with pytest.raises(ValueError, match=message):
        SpeechLLMConfig.from_bases("tiny/whisper_asr", adapter="cross_attention", bases=bases, **fields)


def test_the_router_keeps_its_precision_whatever_the_rest_is_rounded_to(routed, bases, tmp_path):
    routed[0].save_pretrained(tmp_path, trained_dtype="float16")
    half = SpeechLLMForConditionalGeneration.from_pretrained(tmp_path, bases=bases, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.model.router.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in half.lora_bank.parameters_of("it")} == {torch.bfloat16}
