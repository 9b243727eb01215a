"""LoRA: PEFT's numbers and files, for encoder and decoder, and what must be refused."""

import json

import pytest
import torch
from moved_parameters import move
from speechllm import SpeechLLMForConditionalGeneration
from speechllm.configuration.configuration_lora import LoraConfig
from speechllm.modeling.lora_layers import LoraLinear, add_lora, is_lora_key
from speechllm.processing.speech_features import extract_features
from torch.testing import assert_close
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForCausalLM

try:
    import peft
except ImportError:
    peft = None

needs_peft = pytest.mark.skipif(peft is None, reason="compares with PEFT, which is not installed")
LORA = {
    "encoder": {"r": 2, "lora_alpha": 8},
    "decoder": {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]},
}
DECODERS = ["llama", "qwen3", "gemma2", "opt"]
TARGETS = {"opt": ["q_proj", "fc2"]}
# WavLM and the feature projections are told apart below.
STOCK_ENCODERS = ["whisper", "hubert_large", "wav2vec2_bert"]
ENCODER_TARGETS = {"wav2vec2_bert": ["linear_q", "linear_v"]}
IDS = torch.arange(3, 40)[None]


def shake_lora(model, seed=5):
    """Move every LoRA weight away from where it has no effect."""
    move((parameter for name, parameter in model.named_parameters() if is_lora_key(name)), 0.1, seed)
    return model


@torch.no_grad()
def encoder_states(model, inputs, mask):
    return model.get_audio_features(inputs, mask).last_hidden_state


@torch.no_grad()
def stock_encoder_states(stock, inputs, mask):
    """What a stock encoder gives for one clip; Whisper only takes 30 s."""
    if stock.config.model_type == "whisper":
        return stock.get_base_model().encoder(inputs).last_hidden_state
    return stock(inputs, attention_mask=mask).last_hidden_state


@pytest.fixture(scope="module")
def whole_clip(bases):
    """`inputs(encoder)`: features of 30 s of noise, which no encoder has to pad."""

    def features(encoder):
        seconds = 30 if encoder == "whisper" else 1
        noise = torch.randn(seconds * 16000, generator=torch.Generator().manual_seed(1)).numpy() * 0.1
        extractor = AutoFeatureExtractor.from_pretrained(bases / f"tiny--{encoder}")
        inputs, mask = extract_features(extractor, [noise])
        return inputs[..., :3000] if encoder == "whisper" else inputs, mask[
            :, : 3000 if seconds == 30 else None
        ]

    return features


@needs_peft
@pytest.mark.parametrize("decoder", DECODERS)
def test_decoder_lora_is_what_peft_makes_of_the_stock_model(compose, bases, tmp_path, decoder):
    slot = {**LORA["decoder"], "target_modules": TARGETS.get(decoder, ["q_proj", "down_proj"])}
    model, _ = compose("whisper", decoder, lora_config={"decoder": slot})
    stock = AutoModelForCausalLM.from_pretrained(bases / f"tiny--{decoder}").eval()
    with torch.no_grad():
        plain = stock(IDS).logits
        assert torch.equal(model(input_ids=IDS).logits, plain), "an untrained LoRA has no effect"
        shake_lora(model).save_lora("decoder", tmp_path)
        theirs = peft.PeftModel.from_pretrained(stock, str(tmp_path)).eval()
        logits = model(input_ids=IDS).logits
        assert_close(theirs(IDS).logits, logits, atol=1e-6, rtol=1e-6)
        assert not torch.allclose(logits, plain, atol=1e-3)


@needs_peft
@pytest.mark.parametrize("encoder", STOCK_ENCODERS)
def test_encoder_lora_is_what_peft_makes_of_the_stock_model(compose, bases, tmp_path, whole_clip, encoder):
    slot = {**LORA["encoder"], "target_modules": ENCODER_TARGETS.get(encoder, ["q_proj", "v_proj"])}
    model = shake_lora(compose(encoder, lora_config={"encoder": slot})[0])
    model.save_lora("encoder", tmp_path)
    stock = AutoModel.from_pretrained(bases / f"tiny--{encoder}").eval()
    theirs = peft.PeftModel.from_pretrained(stock, str(tmp_path)).eval()
    assert sum("lora_A" in name for name, _ in theirs.named_parameters()) == 4, (
        "2 layers, 2 targets, no decoder"
    )
    inputs, mask = whole_clip(encoder)
    expected = stock_encoder_states(theirs, inputs, mask)
    assert_close(encoder_states(model, inputs, mask), expected, atol=1e-6, rtol=1e-5)


@needs_peft
@pytest.mark.parametrize("has_slot", [True, False], ids=["into_a_slot", "into_a_model_without"])
def test_folder_that_peft_made_is_read(compose, bases, tmp_path, has_slot):
    stock = AutoModelForCausalLM.from_pretrained(bases / "tiny--llama").eval()
    settings = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"], init_lora_weights=False
    )
    theirs = peft.get_peft_model(stock, settings).eval()
    theirs.save_pretrained(tmp_path / "peft")
    model, _ = compose("whisper", "llama", lora_config={"decoder": LORA["decoder"]} if has_slot else None)
    model.load_lora("decoder", tmp_path / "peft")
    with torch.no_grad():
        assert_close(model(input_ids=IDS).logits, theirs(IDS).logits, atol=1e-6, rtol=1e-6)
    found = model.config.lora_config["decoder"]
    assert (found.r, found.lora_alpha, sorted(found.target_modules)) == (4, 6, ["down_proj", "q_proj"])
    model.save_pretrained(tmp_path / "ours")
    again = SpeechLLMForConditionalGeneration.from_pretrained(tmp_path / "ours", bases=bases)
    with torch.no_grad():
        assert torch.equal(again(input_ids=IDS).logits, model(input_ids=IDS).logits)


@needs_peft
def test_folder_made_on_a_class_with_a_head_is_read(compose, bases, tmp_path, whole_clip):
    from transformers import WhisperForConditionalGeneration

    stock = WhisperForConditionalGeneration.from_pretrained(bases / "tiny--whisper").eval()
    settings = peft.LoraConfig(r=2, target_modules=r"model\.encoder\..*\.q_proj", init_lora_weights=False)
    peft.get_peft_model(stock, settings).save_pretrained(tmp_path)
    model, _ = compose()
    model.load_lora("encoder", tmp_path)
    inputs, mask = whole_clip("whisper")
    with torch.no_grad():
        expected = stock.model.encoder(inputs).last_hidden_state
    assert_close(encoder_states(model, inputs, mask), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("slot", ["encoder", "decoder"])
def test_saved_folder_comes_back_bit_for_bit(compose, tmp_path, slot):
    model = shake_lora(compose(lora_config=LORA)[0])
    model.save_lora(slot, tmp_path)
    again, _ = compose()
    again.load_lora(slot, tmp_path)
    state = {name: t for name, t in model.state_dict().items() if is_lora_key(name)}
    part = {"encoder": "audio_tower", "decoder": "language_model"}[slot]
    expected = {name for name in state if part in name}
    found = {name: t for name, t in again.state_dict().items() if is_lora_key(name)}
    assert set(found) == expected
    assert all(torch.equal(found[name], state[name]) for name in expected)
    assert {name for name, p in again.named_parameters() if p.requires_grad} >= expected


def test_keys_are_named_as_peft_names_them(compose, tmp_path):
    from safetensors.torch import load_file

    model, _ = compose(lora_config=LORA)
    name = "model.language_model.layers.0.self_attn.q_proj.lora_A.default"
    assert name in model.state_dict()
    model.save_lora("decoder", tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in tensors
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "tiny/llama_tied"


def test_gradients_reach_lora_and_bridge_and_nothing_else(compose, clips):
    model, processor = compose(lora_config=LORA)
    model.train()
    shake_lora(model)(**processor.apply_training_request(clips[:2], ["ab", "c"])).loss.backward()
    named = dict(model.named_parameters())
    with_gradient = {name for name, p in named.items() if p.grad is not None and p.grad.abs().sum() > 0}
    trained = {name for name in named if is_lora_key(name) or ".adapter." in name or ".speech_norm." in name}
    assert with_gradient == trained


def test_dropout_is_active_in_training_only(compose):
    slot = {"r": 2, "lora_dropout": 0.5}
    model = shake_lora(compose(lora_config={"decoder": slot})[0])
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)
        model.train()
        assert not torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)
        model.eval()
        assert torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)


@pytest.mark.parametrize("include_bases", [False, True], ids=["adapter_only", "with_bases"])
def test_lora_on_half_precision_bases_is_float32_and_stays_so(compose, bases, tmp_path, include_bases):
    model = shake_lora(compose(lora_config=LORA, dtype=torch.bfloat16)[0])
    model.save_pretrained(tmp_path, include_bases=include_bases)
    again = SpeechLLMForConditionalGeneration.from_pretrained(tmp_path, bases=bases)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
        assert not is_lora_key(name) or tensor.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(again(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_target_that_names_nothing_is_refused(compose):
    for slot, part in (("encoder", "SpeechWhisperEncoder"), ("decoder", "LlamaModel")):
        lora = {slot: {"r": 2, "target_modules": ["q_proj", "qproj"]}}
        with pytest.raises(ValueError, match=f"no linear of {part} is named 'qproj'; there are .*q_proj"):
            compose(lora_config=lora)


def test_encoder_that_would_pass_lora_by_is_refused(compose):
    with pytest.raises(ValueError, match="hands the raw weights"):
        compose("wavlm", lora_config={"encoder": {"r": 2}})
    compose("wavlm", lora_config={"encoder": {"r": 2, "target_modules": ["intermediate_dense"]}})


def edit(folder, **settings):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_alpha": 99}, "lora_alpha=99, the model's 6"),
        ({"r": 3}, "has rank 4, its settings say 3"),
        ({"use_dora": True}, "no plain LoRA: its use_dora is True"),
        ({"use_rslora": True}, "no plain LoRA"),
        ({"bias": "all"}, "no plain LoRA"),
        ({"rank_pattern": {"q_proj": 2}}, "no plain LoRA"),
        ({"peft_type": "IA3"}, "no plain LoRA"),
    ],
)
def test_folder_that_means_something_else_is_refused(compose, tmp_path, settings, message):
    model, _ = compose(lora_config=LORA)
    model.save_lora("decoder", tmp_path)
    edit(tmp_path, **settings)
    with pytest.raises(ValueError, match=message) as refusal:
        model.load_lora("decoder", tmp_path)
    assert "\n" not in str(refusal.value)


def test_folder_of_another_rank_than_the_models_is_refused(compose, tmp_path):
    slot = {**LORA["decoder"], "r": 2}
    compose(lora_config={"decoder": slot})[0].save_lora("decoder", tmp_path)
    with pytest.raises(ValueError, match="r=2, the model's 4"):
        compose(lora_config=LORA)[0].load_lora("decoder", tmp_path)


def test_only_the_layers_that_are_named_are_wrapped(compose, tmp_path):
    slot = {"r": 2, "layers_to_transform": [1]}
    model = shake_lora(compose(lora_config={"decoder": slot})[0])
    wrapped = {name for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    assert wrapped == {f"model.language_model.layers.1.self_attn.{name}" for name in ("q_proj", "v_proj")}
    model.save_lora("decoder", tmp_path)
    again, _ = compose()
    again.load_lora("decoder", tmp_path)
    assert again.config.lora_config["decoder"].layers_to_transform == [1]
    with torch.no_grad():
        assert torch.equal(again(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_folder_of_another_base_is_refused_and_changes_nothing(compose, tmp_path):
    compose("whisper", "opt", lora_config={"decoder": {"r": 2, "target_modules": ["fc1"]}})[0].save_lora(
        "decoder", tmp_path
    )
    model, _ = compose()
    before = set(model.state_dict())
    with pytest.raises(
        ValueError, match="was made for tiny/opt, but this base is tiny/llama_tied"
    ) as refusal:
        model.load_lora("decoder", tmp_path)
    assert "\n" not in str(refusal.value)
    assert set(model.state_dict()) == before
    assert model.config.lora_config is None
    edit(tmp_path, base_model_name_or_path=None)
    with pytest.raises(ValueError, match="does not fit this base: it has no linear"):
        compose(lora_config={"decoder": {"r": 2}})[0].load_lora("decoder", tmp_path)


def test_what_is_not_there_is_refused(compose, tmp_path):
    model, _ = compose()
    with pytest.raises(ValueError, match="the decoder has no LoRA to save"):
        model.save_lora("decoder", tmp_path)
    with pytest.raises(ValueError, match="no slot 'decodr' for LoRA; there are encoder, decoder"):
        model.load_lora("decodr", tmp_path)
    with pytest.raises(ValueError, match="is no PEFT folder"):
        model.load_lora("decoder", tmp_path / "nowhere")


def test_no_linear_is_wrapped_twice():
    base = torch.nn.Sequential(torch.nn.Linear(4, 4))
    add_lora(base, LoraConfig(r=2, target_modules=["0"]))
    assert isinstance(base[0], LoraLinear)
    assert isinstance(base[0].base_layer, torch.nn.Linear)
    with pytest.raises(ValueError, match="no linear of Sequential is named '0'"):
        add_lora(base, LoraConfig(r=2, target_modules=["0"]))
