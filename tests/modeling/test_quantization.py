"""Quantized bases, placement, attention: what `from_bases` and `from_pretrained` hand on to them."""

import logging

import pytest
import torch
from safetensors.torch import load_file
from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMProcessor
from speechllm.modeling.lora_layers import is_lora_key
from tiny_bases import tiny_tokenizer
from transformers import (
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    TorchAoConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

try:
    import bitsandbytes
except ImportError:
    bitsandbytes = None
try:
    from torchao.quantization import Int8WeightOnlyConfig
except ImportError:
    Int8WeightOnlyConfig = None

needs_bitsandbytes = pytest.mark.skipif(bitsandbytes is None, reason="bitsandbytes is not installed")
needs_torchao = pytest.mark.skipif(Int8WeightOnlyConfig is None, reason="torchao is not installed")
LORA = {"decoder": {"r": 2}}
QUANTIZATIONS = {
    "bnb_8bit": lambda: BitsAndBytesConfig(load_in_8bit=True),
    "bnb_nf4": lambda: BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    ),
    "torchao_int8": lambda: TorchAoConfig(Int8WeightOnlyConfig()),
}


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A folder of bases 64 wide: four-bit kernels take nothing narrower."""
    root = tmp_path_factory.mktemp("wide")
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
    encoder = WhisperConfig(d_model=64, vocab_size=64, **heads, **layers, **ids)
    WhisperForConditionalGeneration(encoder).save_pretrained(root / "wide--whisper")
    WhisperFeatureExtractor().save_pretrained(root / "wide--whisper")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    decoder = LlamaConfig(**sizes, vocab_size=len(tokenizer), eos_token_id=0, bos_token_id=0)
    LlamaForCausalLM(decoder).save_pretrained(root / "wide--llama")
    tokenizer.save_pretrained(root / "wide--llama")
    return root


@pytest.fixture()
def compose_wide(wide):
    """As `compose`, of the wide bases."""

    def build(**fields):
        torch.manual_seed(7)
        names = ("wide/whisper", "wide/llama", "mlp")
        fields = {"stack_factor": 4, "hidden_size": 16, "lora_config": LORA, **fields}
        model = SpeechLLMForConditionalGeneration.from_bases(*names, bases=wide, **fields)
        return model, SpeechLLMProcessor.from_bases(*names, bases=wide, **fields)

    return build


@pytest.fixture(
    params=[
        pytest.param("bnb_8bit", marks=[pytest.mark.slow, needs_bitsandbytes]),
        pytest.param("bnb_nf4", marks=[pytest.mark.slow, needs_bitsandbytes]),
        pytest.param("torchao_int8", marks=[pytest.mark.slow, needs_torchao]),
    ]
)
def quantization(request):
    return QUANTIZATIONS[request.param]()


def linear(model, part="language_model"):
    """A linear inside a base that has no LoRA around it."""
    names = {"language_model": "layers.0.self_attn.k_proj", "audio_tower": "layers.0.fc1"}
    return getattr(model.model, part).get_submodule(names[part])


def is_converted(module):
    weight = module.weight
    return type(module) is not torch.nn.Linear or type(weight.data) is not torch.Tensor


def logits(model, batch):
    with torch.no_grad():
        return model(**{key: value for key, value in batch.items() if key != "labels"}).logits


def test_quantized_bases_run_and_what_is_trained_stays_float(
    compose_wide, wide, clips, tmp_path, quantization
):
    model, processor = compose_wide(quantization_config=quantization)
    plain, _ = compose_wide()
    assert is_converted(linear(model)) and is_converted(linear(model, "audio_tower"))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert model.parameter_counts() == plain.parameter_counts()
    batch = dict(processor.apply_training_request(clips[:2], ["ab", "c"]))
    assert torch.isfinite(logits(model, batch)).all()
    model.train()
    model(**batch).loss.backward()
    reached = {name for name, p in trained.items() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any("lora_B" in name for name in reached)
    assert any(".adapter." in name for name in reached)
    model.eval()

    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert set(saved) == set(trained)
    again = SpeechLLMForConditionalGeneration.from_pretrained(
        tmp_path, bases=wide, quantization_config=quantization
    )
    assert is_converted(linear(again))
    assert torch.equal(logits(again, batch), logits(model, batch))
    unquantized = SpeechLLMForConditionalGeneration.from_pretrained(tmp_path, bases=wide)
    assert not is_converted(linear(unquantized))
    for name, tensor in saved.items():
        assert torch.equal(unquantized.state_dict()[name], tensor)
    ids = again.generate(**dict(processor(audio=clips[:2])), max_new_tokens=4)
    assert ids.shape[0] == 2

    with pytest.raises(ValueError, match="load the model without quantization_config first") as refusal:
        model.save_pretrained(tmp_path / "whole", include_bases=True)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "whole").exists()


def test_self_contained_checkpoint_loads_quantized(compose_wide, clips, tmp_path, quantization):
    model, processor = compose_wide()
    model.save_pretrained(tmp_path, include_bases=True)
    again = SpeechLLMForConditionalGeneration.from_pretrained(tmp_path, quantization_config=quantization)
    assert is_converted(linear(again))
    for name, tensor in model.state_dict().items():
        if is_lora_key(name) or ".adapter." in name or ".speech_norm." in name:
            assert torch.equal(again.state_dict()[name], tensor), name
    assert torch.isfinite(logits(again, dict(processor.apply_transcription_request(clips[:2])))).all()


@pytest.mark.slow
@needs_bitsandbytes
def test_encoder_that_cannot_be_quantized_is_left_as_it_is(compose):
    model, _ = compose("wavlm", "llama", quantization_config=BitsAndBytesConfig(load_in_8bit=True))
    assert {p.dtype for p in model.model.audio_tower.parameters()} == {torch.float32}
    assert is_converted(linear(model))


@pytest.fixture(scope="module")
def saved(compose, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    compose()[0].save_pretrained(folder)
    return folder


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}], ids=str)
def test_device_map_is_honoured(compose, bases, saved, device_map):
    pytest.importorskip("accelerate", reason="transformers places weights with accelerate")
    for model in (
        compose(device_map=device_map)[0],
        SpeechLLMForConditionalGeneration.from_pretrained(saved, bases=bases, device_map=device_map),
    ):
        assert {p.device.type for p in model.parameters()} <= {"cpu", "cuda"}
        assert model.hf_device_map
        assert model(input_ids=torch.tensor([[5, 6]], device=model.device)).logits.shape[:2] == (1, 2)


def test_device_map_of_parts_is_refused(saved, bases):
    with pytest.raises(ValueError, match="pass 'auto', a device"):
        SpeechLLMForConditionalGeneration.from_pretrained(saved, bases=bases, device_map={"model.adapter": 0})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ("sdpa", "sdpa")),
        ("eager", ("eager", "eager")),
        ({"text_config": "eager"}, ("sdpa", "eager")),
        ({"audio_config": "eager", "text_config": "sdpa"}, ("eager", "sdpa")),
    ],
    ids=str,
)
def test_attention_is_chosen_for_both_bases_or_for_each(compose, bases, saved, given, expected):
    for model in (
        compose(attn_implementation=given)[0],
        SpeechLLMForConditionalGeneration.from_pretrained(saved, bases=bases, attn_implementation=given),
    ):
        parts = (model.model.audio_tower, model.model.language_model)
        assert tuple(part.config._attn_implementation for part in parts) == expected


def test_misspelt_part_of_the_attention_is_refused(saved, bases):
    with pytest.raises(ValueError, match="did you mean 'text_config'"):
        SpeechLLMForConditionalGeneration.from_pretrained(
            saved, bases=bases, attn_implementation={"txt_config": "eager"}
        )


def test_unknown_dtype_is_refused(saved, bases):
    with pytest.raises(ValueError, match="no dtype 'flaot16'"):
        SpeechLLMForConditionalGeneration.from_pretrained(saved, bases=bases, dtype="flaot16")


@pytest.mark.parametrize("include_bases", [False, True], ids=["adapter_only", "with_bases"])
def test_loading_info_and_overrides(compose, bases, tmp_path, include_bases, caplog):
    compose()[0].save_pretrained(tmp_path, include_bases=include_bases)
    with caplog.at_level(logging.WARNING):
        model, info = SpeechLLMForConditionalGeneration.from_pretrained(
            tmp_path, bases=bases, output_loading_info=True, encoder_padding="max_length"
        )
    assert model.config.encoder_padding == "max_length"
    assert not any(info.values())
    assert set(info) >= {"missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"}
    with pytest.raises(ValueError, match="encoder_padding"):
        SpeechLLMForConditionalGeneration.from_pretrained(tmp_path, bases=bases, encoder_padding="longst")


def test_parameters_are_counted_by_part(compose):
    model, _ = compose("whisper", "llama_tied", lora_config=LORA)
    counts = model.parameter_counts()
    adapter = sum(p.numel() for p in model.model.adapter.parameters())
    lora = sum(p.numel() for name, p in model.named_parameters() if is_lora_key(name))
    scale = model.model.speech_norm.weight.numel()
    assert counts["adapter"] == adapter
    assert counts["lora"] == lora == 2 * (2 * (32 + 32) + 2 * (32 + 16))
    assert counts["trainable"] == adapter + lora + scale
    parts = ("audio_tower", "language_model", "adapter", "speech_norm", "lora")
    assert (
        counts["total"] == sum(counts[part] for part in parts) == sum(p.numel() for p in model.parameters())
    )


def test_base_that_was_trained_stays_in_the_checkpoint(compose, bases, tmp_path):
    model, _ = compose()
    weight = model.model.language_model.norm.weight
    with torch.no_grad():
        weight.mul_(2.0)
    weight.requires_grad_(True)
    model.save_pretrained(tmp_path / "1")
    assert "model.language_model.norm.weight" in load_file(tmp_path / "1" / "model.safetensors")
    for generation in (1, 2):
        again = SpeechLLMForConditionalGeneration.from_pretrained(tmp_path / str(generation), bases=bases)
        assert torch.equal(again.model.language_model.norm.weight, weight)
        again.save_pretrained(tmp_path / str(generation + 1))
    first, third = (tmp_path / name / "model.safetensors" for name in ("1", "3"))
    assert first.read_bytes() == third.read_bytes()
