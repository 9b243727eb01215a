"""Writes what the converters read: a tiny Whisper as CTranslate2 files, a tiny Llama as GGUF, wheels."""

import hashlib
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, WhisperConfig, WhisperForConditionalGeneration

DTYPE_CODES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
SPECIAL_TOKENS = [
    *(
        "<|endoftext|>",
        "<|startoftranscript|>",
        "<|en|>",
        "<|zh|>",
        "<|de|>",
        "<|translate|>",
        "<|transcribe|>",
    ),
    *("<|startoflm|>", "<|startofprev|>", "<|nocaptions|>", "<|notimestamps|>"),
]
MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he")]
TIMESTAMPS = [f"<|{step * 0.02:.2f}|>" for step in range(1501)]


def byte_level_tokens() -> list[str]:
    """The 256 bytes as a byte-level vocabulary spells them, then the results of the merges."""
    return sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(pair) for pair in MERGES]


def tiny_whisper(vocab_size: int) -> WhisperForConditionalGeneration:
    """Random float16 weights, width 16, two encoder layers and one decoder layer."""
    torch.manual_seed(3)
    config = WhisperConfig(
        vocab_size=vocab_size,
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=32,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=1,
    )
    return WhisperForConditionalGeneration(config).half().eval()


def ctranslate2_variables(model: WhisperForConditionalGeneration) -> dict[str, np.ndarray]:
    """The model's weights under CTranslate2's names, q, k, v (or k, v) stacked."""
    state = {name.removeprefix("model."): value.numpy() for name, value in model.state_dict().items()}
    variables = {
        "encoder/num_heads": np.array(model.config.encoder_attention_heads, np.int16),
        "decoder/num_heads": np.array(model.config.decoder_attention_heads, np.int16),
        "decoder/activation": np.array(3, np.int8),
        "decoder/pre_norm": np.array(1, np.int8),
        "decoder/alignment_heads": np.array(1, np.int16),
        "decoder/alignment_layer": np.array(-1, np.int16),
        "decoder/embeddings/weight": state["decoder.embed_tokens.weight"],
    }
    for name in ("alibi", "scale_embeddings", "start_from_zero_embedding"):
        variables[f"decoder/{name}"] = np.array(0, np.int8)
    for kind in ("weight", "bias"):
        for index in (1, 2):
            variables[f"encoder/conv{index}/{kind}"] = state[f"encoder.conv{index}.{kind}"]

    def norm(target: str, source: str) -> None:
        variables[f"{target}/gamma"], variables[f"{target}/beta"] = (
            state[f"{source}.weight"],
            state[f"{source}.bias"],
        )

    def linear(target: str, *sources: str) -> None:
        weights = [state[f"{source}.weight"] for source in sources]
        biases = [
            state.get(f"{source}.bias", np.zeros(len(weight), np.float16))
            for source, weight in zip(sources, weights, strict=True)
        ]
        variables[f"{target}/weight"] = np.concatenate(weights)
        variables[f"{target}/bias"] = np.concatenate(biases)

    for side, count in (("encoder", model.config.encoder_layers), ("decoder", model.config.decoder_layers)):
        norm(f"{side}/layer_norm", f"{side}.layer_norm")
        variables[f"{side}/position_encodings/encodings"] = state[f"{side}.embed_positions.weight"]
        for index in range(count):
            target, source = f"{side}/layer_{index}", f"{side}.layers.{index}"
            attention = f"{source}.self_attn"
            norm(f"{target}/self_attention/layer_norm", f"{source}.self_attn_layer_norm")
            linear(
                f"{target}/self_attention/linear_0",
                *(f"{attention}.{letter}_proj" for letter in ("q", "k", "v")),
            )
            linear(f"{target}/self_attention/linear_1", f"{attention}.out_proj")
            norm(f"{target}/ffn/layer_norm", f"{source}.final_layer_norm")
            linear(f"{target}/ffn/linear_0", f"{source}.fc1")
            linear(f"{target}/ffn/linear_1", f"{source}.fc2")
            if side == "decoder":
                attention = f"{source}.encoder_attn"
                norm(f"{target}/attention/layer_norm", f"{source}.encoder_attn_layer_norm")
                linear(f"{target}/attention/linear_0", f"{attention}.q_proj")
                linear(f"{target}/attention/linear_1", f"{attention}.k_proj", f"{attention}.v_proj")
                linear(f"{target}/attention/linear_2", f"{attention}.out_proj")
    return variables


def model_bin(variables: dict[str, np.ndarray], spec: str = "WhisperSpec", version: int = 6) -> bytes:
    """The bytes of a `model.bin`."""

    def text(value: str) -> bytes:
        raw = value.encode() + b"\0"
        return struct.pack("<H", len(raw)) + raw

    parts = [struct.pack("<I", version), text(spec), struct.pack("<II", 3, len(variables))]
    for name, array in variables.items():
        parts += [text(name), struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)]
        parts += [struct.pack("<BI", DTYPE_CODES[array.dtype.name], array.nbytes), array.tobytes()]
    aliases = [text("decoder/projection/weight"), text("decoder/embeddings/weight")]
    return b"".join([*parts, struct.pack("<I", 1), *aliases])


def whisper_files() -> tuple[WhisperForConditionalGeneration, dict[str, bytes]]:
    """A tiny multilingual Whisper and the four files it is distributed in."""
    tokens = byte_level_tokens() + SPECIAL_TOKENS + TIMESTAMPS
    number = {token: index for index, token in enumerate(tokens)}
    tokenizer = {
        "model": {
            "vocab": {token: number[token] for token in byte_level_tokens() + SPECIAL_TOKENS[:1]},
            "merges": [" ".join(pair) for pair in MERGES],
        },
        "added_tokens": [
            {"id": number[token], "content": token, "special": True} for token in SPECIAL_TOKENS
        ],
    }
    settings = {
        "alignment_heads": [[0, 1]],
        "lang_ids": [number[token] for token in ("<|en|>", "<|zh|>", "<|de|>")],
        "suppress_ids": [number[token] for token in ("#", "<|startoftranscript|>")],
        "suppress_ids_begin": [number["Ġ"], number["<|endoftext|>"]],
    }
    model = tiny_whisper(len(tokens))
    return model, {
        "model.bin": model_bin(ctranslate2_variables(model)),
        "config.json": json.dumps(settings).encode(),
        "tokenizer.json": json.dumps(tokenizer).encode(),
        "vocabulary.txt": ("\n".join(tokens) + "\n").encode(),
    }


def write_files(files: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def write_wheel(folder: Path, distribution: str, version: str, members: dict[str, bytes]) -> None:
    """A wheel as far as a reader of its members can tell."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{distribution}-{version}-py3-none-any.whl", "w") as wheel:
        for name, data in members.items():
            wheel.writestr(name, data)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_gguf(path: Path, pre_tokenizer: str = "smollm") -> LlamaForCausalLM:
    """A tiny Llama, its matrices in 8-bit blocks; returned is the float32 model those blocks stand for."""
    import gguf

    torch.manual_seed(5)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_level_tokens()]
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).eval()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_name("tiny")
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "input_layernorm": "attn_norm"}
    names |= {f"self_attn.{letter}_proj": f"attn_{letter}" for letter in "qkv"}
    names |= {"self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm"}
    names |= {f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")}
    for name, parameter in model.named_parameters():
        kept = name.removeprefix("model.layers.0.").removesuffix(".weight")
        target = ("blk.0." if "layers" in name else "") + names[kept] + ".weight"
        values = parameter.detach().numpy()
        if values.ndim == 1:
            writer.add_tensor(target, values)
            continue
        packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
        plain = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)
        parameter.data = torch.from_numpy(plain)
        heads = {"attn_q": 4, "attn_k": 2}.get(names[kept])
        if heads:  # llama.cpp turns neighbouring rows, transformers rows half a head apart
            order = np.arange(len(values)).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)
            packed = packed[order]
        writer.add_tensor(target, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model
