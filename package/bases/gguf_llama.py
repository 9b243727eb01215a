"""Write a plain folder of safetensors from a Llama-type model in a GGUF file, dequantized."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, LlamaConfig, LlamaForCausalLM
from transformers.tokenization_utils_tokenizers import TokenizersBackend

# How a GGUF's named pre-tokenizer cuts text; transformers keeps only the byte-level cut of a name it does not
# know, and then cuts "1  2" unlike the model's own tokenizer.
PRE_TOKENIZERS = {
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
}


def convert_gguf_llama(source: Path, target: Path) -> None:
    """`source` has model.gguf; `target` becomes a folder for `AutoModelForCausalLM` and `AutoTokenizer`.

    Weights are stored as float16. Dequantized values (scale * 4-bit number + minimum) need more bits than
    either half type has; float16 rounds them seven times finer than bfloat16 (relative error 2e-4 against
    1.4e-3, measured on SmolLM2) and its range is never near (largest weight 9.25). The config says bfloat16,
    the type the model was trained and published in, so that it loads as the Hub's copy does.
    """
    # Asked for, because with the right kernel installed transformers would keep the packed weights.
    plainly = GgufConfig(dequantize=True)
    quantized = AutoModelForCausalLM.from_pretrained(
        source, gguf_file="model.gguf", dtype=torch.float16, quantization_config=plainly
    )
    if not isinstance(quantized, LlamaForCausalLM):
        raise ValueError(f"model.gguf holds a {type(quantized).__name__}; a LlamaForCausalLM is needed")
    with torch.device("meta"):
        plain = LlamaForCausalLM(plain_config(quantized.config))
    plain.load_state_dict(quantized.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = quantized.generation_config
    target.mkdir(parents=True, exist_ok=True)
    plain.save_pretrained(target)
    set_dtype(target / "config.json", "bfloat16")
    convert_tokenizer(source, plain.config.max_position_embeddings).save_pretrained(target)


def plain_config(config: LlamaConfig) -> LlamaConfig:
    """The same architecture without the traces of the file it was read from."""
    values = config.to_dict()
    for name in (
        "quantization_config",
        "_name_or_path",
        "_model_name_or_path",
        "transformers_version",
        "unk_token_id",
    ):
        values.pop(name, None)
    # GGUF stores 32-bit floats: 9.999999747378752e-06 was written as 1e-05.
    values["rms_norm_eps"] = float(f"{config.rms_norm_eps:.6g}")
    return LlamaConfig(**values)


def set_dtype(config_file: Path, dtype: str) -> None:
    """`save_pretrained` writes the stored weights' type; `from_pretrained` reads the type to load in."""
    values = json.loads(config_file.read_text(encoding="utf-8"))
    values["dtype"] = dtype
    config_file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def convert_tokenizer(source: Path, model_max_length: int) -> TokenizersBackend:
    """The GGUF's tokenizer with the pre-tokenizer it names, its special tokens and chat template."""
    read = AutoTokenizer.from_pretrained(source, gguf_file="model.gguf")
    backend = Tokenizer.from_str(read.backend_tokenizer.to_str())
    name = pre_tokenizer_name(source / "model.gguf")
    if name in PRE_TOKENIZERS:
        backend.pre_tokenizer = PRE_TOKENIZERS[name]()
    return TokenizersBackend(
        tokenizer_object=backend,
        model_max_length=model_max_length,
        chat_template=read.chat_template,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=[token for token in (read.bos_token, read.eos_token) if token],
        **read.special_tokens_map,
    )


def pre_tokenizer_name(gguf_file: Path) -> str | None:
    """`tokenizer.ggml.pre`, e.g. "smollm"."""
    from gguf import GGUFReader  # needed for this one converter only; its absence is told before any download

    field = GGUFReader(gguf_file).get_field("tokenizer.ggml.pre")
    return field.contents() if field else None
