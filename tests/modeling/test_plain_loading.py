"""A Whisper that is read without the stock loader is the one that the stock loader reads."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from speechllm.modeling.decoders.decoder_whisper import SpeechWhisper
from speechllm.modeling.plain_loading import load_plainly
from transformers import WhisperConfig, WhisperForConditionalGeneration


@pytest.fixture
def folder(bases, tmp_path):
    """A Whisper of its own, to be changed."""
    stock = WhisperForConditionalGeneration.from_pretrained(bases / "tiny--whisper_asr")
    stock.generation_config.max_new_tokens = 17
    stock.save_pretrained(tmp_path)
    return tmp_path


def options(folder, dtype=torch.float32, **fields):
    config = WhisperConfig.from_pretrained(folder)
    return {"config": config, "dtype": dtype, "use_safetensors": True, **fields}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_settings_and_modes_are_those_of_the_stock_loader(folder, dtype):
    plain = load_plainly(SpeechWhisper, folder, options(folder, dtype, attn_implementation="eager"))
    stock = WhisperForConditionalGeneration.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    assert plain.state_dict().keys() == stock.state_dict().keys()
    for (name, ours), theirs in zip(plain.named_parameters(), stock.parameters(), strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), name
        assert ours.requires_grad == theirs.requires_grad, name
    assert plain.proj_out.weight is plain.model.decoder.embed_tokens.weight
    assert not plain.training and plain.generation_config.max_new_tokens == 17
    assert plain.config._attn_implementation == "eager" and plain.dtype == dtype


def test_shards_are_read_too(folder):
    WhisperForConditionalGeneration.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    (folder / "model.safetensors").unlink(missing_ok=True)
    plain = load_plainly(SpeechWhisper, folder, options(folder))
    stock = WhisperForConditionalGeneration.from_pretrained(folder)
    assert all(map(torch.equal, plain.parameters(), stock.parameters()))


@pytest.mark.parametrize("change", ["older name", "missing", "other shape"])
def test_what_needs_more_than_reading_is_left_to_the_stock_loader(folder, change):
    tensors = load_file(folder / "model.safetensors")
    name = "model.encoder.layer_norm.weight"
    tensor = tensors.pop(name)
    if change == "older name":
        tensors[name.removeprefix("model.")] = tensor
    if change == "other shape":
        tensors[name] = tensor[:-1].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_plainly(SpeechWhisper, folder, options(folder)) is None


@pytest.mark.parametrize(
    "asked", [{"device_map": "cpu"}, {"dtype": "auto"}, {"quantization_config": object()}], ids=list
)
def test_what_the_stock_loader_does_is_left_to_it(folder, asked):
    assert load_plainly(SpeechWhisper, folder, options(folder) | asked) is None
