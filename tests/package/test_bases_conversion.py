"""CTranslate2 and GGUF files become folders that stock transformers loads, with the same weights."""

import base_files
import numpy as np
import pytest
import torch
from base_files import ctranslate2_variables, model_bin, whisper_files, write_files, write_gguf
from speechllm.bases import whisper_folder
from speechllm.bases.ctranslate2 import read_model, whisper_weights
from speechllm.bases.whisper_folder import convert_whisper
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)


@pytest.fixture(scope="module")
def tiny():
    return whisper_files()


@pytest.fixture(scope="module")
def converted(tiny, tmp_path_factory):
    """Folder of the converted tiny Whisper, which counts as multilingual here."""
    folder = tmp_path_factory.mktemp("converted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whisper_folder, "MULTILINGUAL_VOCAB_SIZE", 100)
        convert_whisper(write_files(tiny[1], folder / "source"), folder / "target")
    return folder / "target"


def broken(tiny, tmp_path, **changes):
    """The tiny model with some CTranslate2 variables changed, added, or (None) removed, as read back."""
    variables = ctranslate2_variables(tiny[0]) | changes.pop("variables", {})
    variables = {name: value for name, value in variables.items() if value is not None}
    path = tmp_path / "model.bin"
    path.write_bytes(model_bin(variables, **changes))
    return path


def test_converted_whisper_has_the_source_weights_in_float32(tiny, converted):
    model = WhisperForConditionalGeneration.from_pretrained(converted)
    state = model.state_dict()
    assert model.dtype == torch.float32
    for name, value in tiny[0].state_dict().items():
        assert torch.equal(state[name], value.float()), name


def test_converted_whisper_transcribes_with_stock_generate(converted, clips):
    model = WhisperForConditionalGeneration.from_pretrained(converted)
    processor = WhisperProcessor.from_pretrained(converted)
    inputs = processor(clips[0], sampling_rate=16000, return_tensors="pt")
    assert inputs.input_features.shape == (1, 80, 3000)
    for arguments in ({}, {"return_timestamps": True}, {"return_token_timestamps": True}):
        ids = model.generate(**inputs, language="en", task="transcribe", max_new_tokens=4, **arguments)
        ids = ids if torch.is_tensor(ids) else ids["sequences"]
        assert ids.shape[0] == 1
    assert isinstance(processor.batch_decode(ids, skip_special_tokens=True)[0], str)


def test_converted_tokenizer_knows_languages_and_timestamps(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted, language="german", task="transcribe")
    numbers = tokenizer(" the 7").input_ids
    assert tokenizer.convert_ids_to_tokens(numbers)[:4] == [
        *("<|startoftranscript|>", "<|de|>", "<|transcribe|>", "<|notimestamps|>"),
    ]
    assert tokenizer.decode(numbers, skip_special_tokens=True) == " the 7"
    assert tokenizer.all_special_ids[-1] == tokenizer.convert_tokens_to_ids("<|notimestamps|>")
    first = tokenizer.convert_tokens_to_ids("<|0.00|>")
    assert tokenizer.timestamp_ids() == list(range(first, first + 1501))


def test_generation_config_names_languages_tasks_and_alignment_heads(converted):
    config = WhisperForConditionalGeneration.from_pretrained(converted).generation_config
    assert set(config.lang_to_id) == {"<|en|>", "<|zh|>", "<|de|>"}
    assert set(config.task_to_id) == {"transcribe", "translate"}
    assert config.alignment_heads == [[0, 1]] and config.is_multilingual
    assert config.no_timestamps_token_id == config.prev_sot_token_id + 2


def test_a_whisper_for_english_alone_offers_no_languages(tiny, tmp_path):
    convert_whisper(write_files(tiny[1], tmp_path / "source"), tmp_path / "target")
    config = WhisperForConditionalGeneration.from_pretrained(tmp_path / "target").generation_config
    assert not config.is_multilingual and not hasattr(config, "lang_to_id")


@pytest.mark.parametrize("kept_bytes", [0, 3, 20, 500, -1])
def test_a_cut_off_model_file_is_refused(tiny, tmp_path, kept_bytes):
    path = tmp_path / "model.bin"
    path.write_bytes(tiny[1]["model.bin"][:kept_bytes])
    with pytest.raises(ValueError, match=r"model\.bin ends inside"):
        read_model(path)


def test_bytes_after_the_end_are_refused(tiny, tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(tiny[1]["model.bin"] + b"!")
    with pytest.raises(ValueError, match="1 bytes after its last variable"):
        read_model(path)


def test_a_shape_that_does_not_fit_its_bytes_is_refused(tiny, tmp_path):
    data = bytearray(tiny[1]["model.bin"])
    marker = b"encoder/conv1/weight\0"
    # After the name come one byte of rank and the first dimension, 16.
    data[data.index(marker) + len(marker) + 1] = 17
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    with pytest.raises(
        ValueError, match="encoder/conv1/weight.* is|damaged: variable 'encoder/conv1/weight'"
    ):
        read_model(path)


def test_other_versions_and_other_models_are_named(tiny, tmp_path):
    with pytest.raises(ValueError, match="version 9; version 6"):
        read_model(broken(tiny, tmp_path, version=9))
    with pytest.raises(ValueError, match="is a TransformerSpec"):
        whisper_weights(read_model(broken(tiny, tmp_path, spec="TransformerSpec")))


BIAS = "encoder/layer_0/self_attention/linear_0/bias"


@pytest.mark.parametrize(
    "variables, reason",
    [
        ({BIAS: np.ones(48, np.float16)}, "gives the keys a bias"),
        ({"decoder/activation": np.array(0, np.int8)}, "decoder/activation = 0"),
        ({"encoder/conv1/bias": None}, "no variable 'encoder/conv1/bias'"),
        ({"encoder/layer_7/more": np.ones(1, np.float16)}, r"encoder layers \[0, 1, 7\]"),
        ({"encoder/more": np.ones(1, np.float16)}, "no place for"),
        ({"encoder/conv1/weight": np.ones((16, 80, 3), np.int8)}, "quantized to int8"),
    ],
)
def test_what_would_change_the_model_unseen_is_refused(tiny, tmp_path, variables, reason):
    with pytest.raises(ValueError, match=reason):
        whisper_weights(read_model(broken(tiny, tmp_path, variables=variables)))


def test_tokenizer_and_vocabulary_must_number_tokens_alike(tiny, tmp_path):
    lines = tiny[1]["vocabulary.txt"].decode().split("\n")
    lines[3], lines[4] = lines[4], lines[3]
    files = tiny[1] | {"vocabulary.txt": "\n".join(lines).encode()}
    with pytest.raises(ValueError, match="number 2 tokens differently"):
        convert_whisper(write_files(files, tmp_path / "source"), tmp_path / "target")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """`(model, folder)`: a tiny Llama and the folder its GGUF was converted to."""
    pytest.importorskip("gguf", reason="conversion of GGUF files needs the gguf package, which is optional")
    from speechllm.bases.gguf_llama import convert_gguf_llama

    folder = tmp_path_factory.mktemp("gguf")
    model = write_gguf(folder / "model.gguf")
    convert_gguf_llama(folder, folder / "target")
    return model, folder / "target"


def test_converted_gguf_has_the_dequantized_weights(llama):
    model, folder = llama
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float()), name
    ids = torch.arange(12)[None]
    assert torch.allclose(loaded(ids).logits, model(ids).logits, atol=1e-3)


def test_converted_gguf_is_a_plain_bfloat16_llama(llama):
    loaded = AutoModelForCausalLM.from_pretrained(llama[1])
    assert loaded.dtype == torch.bfloat16
    assert not hasattr(loaded.config, "quantization_config")
    assert loaded.config.rms_norm_eps == 1e-6 and loaded.config.tie_word_embeddings


def test_converted_gguf_tokenizer_splits_digits_and_keeps_the_chat_template(llama):
    tokenizer = AutoTokenizer.from_pretrained(llama[1])
    assert tokenizer.tokenize("<|im_start|>1  2") == ["<|im_start|>", "1", "Ġ", "Ġ", "2"]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"
    assert (tokenizer.eos_token_id, tokenizer.model_max_length) == (2, 128)
    assert base_files.MERGES[0][0] == "Ġ" and tokenizer.tokenize(" the") == ["Ġthe"]
