"""Saving and loading like a stock model, and refusing what does not fit."""

import json
import shutil

import pytest
import torch
from moved_parameters import move
from safetensors.torch import load_file, save_file
from speechllm import SpeechLLMForConditionalGeneration
from speechllm.modeling.modeling_speechllm import SpeechLLMModel
from speechllm.processing.speech_features import extract_features
from tiny_bases import DECODERS
from transformers import (
    AutoFeatureExtractor,
    AutoModelForCausalLM,
    AutoTokenizer,
    MambaConfig,
    ModernBertDecoderConfig,
)

LORA = {"encoder": {"r": 2}, "decoder": {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"]}}


@pytest.fixture(scope="module")
def features(bases, clips):
    extractor = AutoFeatureExtractor.from_pretrained(bases / "tiny--whisper")
    inputs, mask = extract_features(extractor, clips[:3])
    return {"input_features": inputs, "input_features_mask": mask}


def logits(model, features):
    ids, mask = model.default_prompt(**features)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, **features).logits


def shake(model):
    """The model, every trained parameter moved."""
    move((parameter for parameter in model.parameters() if parameter.requires_grad), 0.05)
    return model


@pytest.mark.parametrize("include_bases", [False, True], ids=["adapter_only", "with_bases"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_logits_survive_a_reload(compose, bases, features, tmp_path, decoder, include_bases):
    model = shake(compose("whisper", decoder)[0])
    model.save_pretrained(tmp_path, include_bases=include_bases)
    again = SpeechLLMForConditionalGeneration.from_pretrained(
        tmp_path, bases=None if include_bases else bases
    )
    assert torch.equal(logits(again, features), logits(model, features))
    assert again.config.adapter_config.to_dict() == model.config.adapter_config.to_dict()


@pytest.mark.parametrize("decoder", DECODERS)
def test_decoder_is_the_stock_one_head_and_scale_included(compose, bases, decoder):
    model, _ = compose("whisper", decoder)
    stock = AutoModelForCausalLM.from_pretrained(bases / f"tiny--{decoder}").eval()
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, stock(ids).logits, atol=0, rtol=0)


@pytest.mark.parametrize("include_bases", [False, True], ids=["adapter_only", "with_bases"])
def test_lora_is_saved_inside_and_survives(compose, bases, features, tmp_path, include_bases):
    model = shake(compose("whisper", "llama_tied", lora_config=LORA)[0])
    model.save_pretrained(tmp_path, include_bases=include_bases)
    again = SpeechLLMForConditionalGeneration.from_pretrained(
        tmp_path, bases=None if include_bases else bases
    )
    assert torch.equal(logits(again, features), logits(model, features))
    assert any("lora_A" in name for name in load_file(tmp_path / "model.safetensors"))


def test_three_generations_write_the_same_bytes_and_files(compose, bases, tmp_path):
    model = shake(compose(lora_config=LORA)[0])
    model.save_pretrained(tmp_path / "1")
    for generation in (1, 2):
        again = SpeechLLMForConditionalGeneration.from_pretrained(tmp_path / str(generation), bases=bases)
        again.save_pretrained(tmp_path / str(generation + 1))
    first, third = tmp_path / "1", tmp_path / "3"
    assert sorted(p.name for p in first.iterdir()) == sorted(p.name for p in third.iterdir())
    for path in first.iterdir():
        assert path.read_bytes() == (third / path.name).read_bytes(), path.name


def test_sharded_weights_load(compose, bases, features, tmp_path):
    model = shake(compose()[0])
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    again = SpeechLLMForConditionalGeneration.from_pretrained(tmp_path, bases=bases)
    assert torch.equal(logits(again, features), logits(model, features))
    model.save_pretrained(tmp_path)
    assert [p.name for p in tmp_path.glob("model*.safetensors*")] == ["model.safetensors"]


def test_headless_class_reads_the_same_checkpoint(compose, bases, features, tmp_path):
    model = shake(compose()[0])
    model.save_pretrained(tmp_path)
    headless = SpeechLLMModel.from_pretrained(tmp_path, bases=bases)
    speech = headless.get_audio_features(**features).pooler_output
    assert torch.equal(speech, model.get_audio_features(**features).pooler_output)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype_is_honoured_and_mixed_dtypes_come_back(compose, bases, features, tmp_path, dtype):
    model, _ = compose(dtype=dtype)
    assert model.model.language_model.dtype == model.model.audio_tower.dtype == dtype
    assert {p.dtype for p in model.model.adapter.parameters()} == {torch.float32}
    model.save_pretrained(tmp_path / "own")
    model.save_pretrained(tmp_path / "whole", include_bases=True)
    for name in ("own", "whole"):
        again = SpeechLLMForConditionalGeneration.from_pretrained(tmp_path / name, bases=bases)
        assert {p.dtype for p in again.model.adapter.parameters()} == {torch.float32}
        assert again.model.language_model.dtype == dtype
        assert torch.equal(logits(again, features), logits(model, features))
        cast = SpeechLLMForConditionalGeneration.from_pretrained(
            tmp_path / name, bases=bases, dtype="float32"
        )
        assert {p.dtype for p in cast.parameters()} == {torch.float32}


def test_bases_folder_may_come_from_the_environment(compose, bases, tmp_path, monkeypatch):
    compose()[0].save_pretrained(tmp_path)
    monkeypatch.setenv("SPEECHLLM_BASES", str(bases))
    SpeechLLMForConditionalGeneration.from_pretrained(tmp_path)


def test_loaded_bases_keep_their_weights(compose, bases):
    model, _ = compose("hubert_large", "qwen3")
    stock = AutoModelForCausalLM.from_pretrained(bases / "tiny--qwen3")
    for (name, own), (_, expected) in zip(
        model.causal_lm.named_parameters(), stock.named_parameters(), strict=True
    ):
        assert torch.equal(own, expected), name


def edit_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})


def edit_config(folder, **values):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **values}))


@pytest.fixture()
def saved(compose, tmp_path):
    compose()[0].save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def refused(saved, bases, match, error=ValueError):
    with pytest.raises(error, match=match) as caught:
        SpeechLLMForConditionalGeneration.from_pretrained(saved, bases=bases)
    assert "\n" not in str(caught.value).strip()


def test_missing_tensor_is_refused(saved, bases):
    edit_tensors(saved, lambda tensors: tensors.pop("model.speech_norm.weight"))
    refused(saved, bases, "lacks the tensor 'model.speech_norm.weight'")


def test_extra_tensor_is_refused(saved, bases):
    edit_tensors(saved, lambda tensors: tensors.update({"model.adapter.extra": torch.zeros(2)}))
    refused(saved, bases, "has no place for the tensor 'model.adapter.extra'")


def test_tensor_of_another_shape_is_refused(saved, bases):
    edit_tensors(saved, lambda tensors: tensors.update({"model.speech_norm.weight": torch.zeros(2)}))
    refused(saved, bases, r"shape \[2\], the config says \[32\]")


def test_unknown_key_in_the_config_is_refused(saved, bases):
    edit_config(saved, outptu_norm="rms")
    refused(saved, bases, "no field 'outptu_norm'; did you mean 'output_norm'")


def test_missing_base_is_told_in_one_line(saved, tmp_path):
    refused(saved, tmp_path / "empty", "tiny/whisper|tiny/llama_tied", OSError)


def test_wrong_revision_of_a_base_is_refused(saved, bases, tmp_path):
    edit_config(saved, decoder_revision="abc")
    shutil.copytree(bases, tmp_path / "bases")
    manifest = {"id": "tiny/llama_tied", "revision": "def"}
    (tmp_path / "bases" / "tiny--llama_tied" / "speechllm_base.json").write_text(json.dumps(manifest))
    refused(saved, tmp_path / "bases", "pinned to revision abc, but .* holds def")


def test_pickled_weights_are_refused(saved, bases):
    torch.save(load_file(saved / "model.safetensors"), saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    refused(saved, bases, "pickled weights, which are never read")


def test_truncated_weights_are_refused(saved, bases):
    content = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(content[: len(content) // 2])
    refused(saved, bases, "no readable safetensors")


def test_interrupted_save_leaves_the_old_checkpoint(saved, bases, compose, monkeypatch):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    model, _ = compose("whisper", "qwen3")
    monkeypatch.setattr("speechllm.remote_code.bundle_files", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.save_pretrained(saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before


def test_variant_is_refused_before_anything_is_written(saved, bases, compose):
    before = sorted(path.name for path in saved.iterdir())
    with pytest.raises(ValueError, match="checkpoints have no variants"):
        compose()[0].save_pretrained(saved, variant="fp16")
    assert sorted(path.name for path in saved.iterdir()) == before


def test_no_file_says_where_on_this_machine_the_bases_lie(saved, bases):
    telling = [path.name for path in saved.iterdir() if str(bases).encode() in path.read_bytes()]
    assert not telling


def test_config_is_not_buried_in_fields_of_other_models(saved):
    adapter = json.loads((saved / "config.json").read_text())["adapter_config"]
    assert {"model_type", "stack_factor", "hidden_size", "dtype"} <= set(adapter)
    assert not {"id2label", "problem_type", "return_dict"} & set(adapter)


@pytest.mark.parametrize(
    ("kind", "fields", "reason"),
    [
        (
            ModernBertDecoderConfig,
            {"num_hidden_layers": 1, "intermediate_size": 32, "num_attention_heads": 4},
            "head of several layers",
        ),
        (MambaConfig, {"num_hidden_layers": 1}, "keeps no key-value cache"),
    ],
)
def test_decoder_that_could_be_held_only_in_part_is_refused(bases, tmp_path, kind, fields, reason):
    tokenizer = AutoTokenizer.from_pretrained(bases / "tiny--llama")
    ids = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    config = kind(hidden_size=32, vocab_size=len(tokenizer), **ids, **fields)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "odd")
    tokenizer.save_pretrained(tmp_path / "odd")
    with pytest.raises(ValueError, match=reason) as caught:
        SpeechLLMForConditionalGeneration.from_bases(str(bases / "tiny--whisper"), str(tmp_path / "odd"))
    assert "\n" not in str(caught.value)


def test_unknown_argument_is_refused_with_the_right_one(saved, bases):
    with pytest.raises(ValueError, match="did you mean 'device_map'"):
        SpeechLLMForConditionalGeneration.from_pretrained(saved, bases=bases, device_mpa="cpu")


def test_what_is_no_checkpoint_is_told_in_one_line(bases, tmp_path):
    (tmp_path / "empty").mkdir()
    for name, reason in (
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path / "empty", "config.json"),
        (bases / "tiny--whisper", "a checkpoint of type whisper, not speech_llm"),
        ("no/such", "neither a checkpoint here nor read from the Hub"),
    ):
        with pytest.raises((OSError, ValueError), match=reason) as caught:
            SpeechLLMForConditionalGeneration.from_pretrained(name)
        assert "\n" not in str(caught.value)


def test_what_was_trained_can_be_written_in_half_precision(compose, bases, tmp_path, clips):
    model, processor = compose("whisper", lora_config={"decoder": {"r": 2}})
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "half", trained_dtype="float16")
    whole, half = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "half"))
    assert {tensor.dtype for tensor in half.values()} == {torch.float16}
    assert all(torch.equal(half[key], tensor.half()) for key, tensor in whole.items())
    assert {parameter.dtype for parameter in model.model.adapter.parameters()} == {torch.float32}
    again = SpeechLLMForConditionalGeneration.from_pretrained(tmp_path / "half", bases=bases)
    assert again.dtype == model.dtype and next(again.model.adapter.parameters()).dtype == torch.float16
    again.save_pretrained(tmp_path / "again")
    written = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("half", "again")]
    assert written[0] == written[1]
