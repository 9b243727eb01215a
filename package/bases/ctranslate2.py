"""Read CTranslate2's `model.bin`, and rename a Whisper inside it to what transformers calls its weights."""

import math
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

BINARY_VERSION = 6
MAX_RANK = 8
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
GELU = 3  # CTranslate2's number for the exact gelu, the only activation Whisper has


@dataclass
class CTranslate2Model:
    """The content of a `model.bin`: variables by name, and second names for some of them."""

    spec: str
    revision: int
    variables: dict[str, np.ndarray]
    aliases: dict[str, str] = field(default_factory=dict)


class _Cursor:
    """Reads little-endian values one after the other and never past the end."""

    def __init__(self, path: Path):
        self.path = path
        self.data = (
            np.memmap(path, dtype=np.uint8, mode="r") if path.stat().st_size else np.zeros(0, np.uint8)
        )
        self.offset = 0

    def take(self, byte_count: int, what: str) -> np.ndarray:
        end = self.offset + byte_count
        if end > len(self.data):
            raise ValueError(
                f"{self.path.name} ends inside {what}: {end} bytes needed, {len(self.data)} there; "
                "fetch it again"
            )
        piece = self.data[self.offset : end]
        self.offset = end
        return piece

    def integer(self, code: str, what: str) -> int:
        return struct.unpack("<" + code, self.take(struct.calcsize(code), what).tobytes())[0]

    def text(self, what: str) -> str:
        raw = self.take(self.integer("H", what), what).tobytes()
        try:
            return raw.rstrip(b"\0").decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path.name} is not a CTranslate2 model: {what} is not text") from error


def read_model(path: str | Path) -> CTranslate2Model:
    """All variables of a `model.bin`; arrays stay on disk until they are used."""
    cursor = _Cursor(Path(path))
    version = cursor.integer("I", "the version")
    if version != BINARY_VERSION:
        raise ValueError(
            f"{cursor.path.name} has CTranslate2 version {version}; version {BINARY_VERSION} is read here"
        )
    model = CTranslate2Model(cursor.text("the spec name"), cursor.integer("I", "the spec revision"), {})
    for index in range(cursor.integer("I", "the variable count")):
        name = cursor.text(f"the name of variable {index}")
        if name in model.variables:
            raise ValueError(f"{cursor.path.name} holds variable {name!r} twice")
        model.variables[name] = _read_variable(cursor, name)
    for index in range(cursor.integer("I", "the alias count")):
        alias = cursor.text(f"alias {index}")
        model.aliases[alias] = cursor.text(f"the target of alias {alias!r}")
    if cursor.offset != len(cursor.data):
        raise ValueError(
            f"{cursor.path.name} has {len(cursor.data) - cursor.offset} bytes after its last variable"
        )
    return model


def _read_variable(cursor: _Cursor, name: str) -> np.ndarray:
    rank = cursor.integer("B", f"the rank of {name!r}")
    if rank > MAX_RANK:
        raise ValueError(f"{cursor.path.name} is damaged: variable {name!r} has {rank} dimensions")
    shape = tuple(cursor.integer("I", f"the shape of {name!r}") for _ in range(rank))
    code = cursor.integer("B", f"the dtype of {name!r}")
    if code not in DTYPES:
        raise ValueError(
            f"{cursor.path.name}: variable {name!r} has dtype number {code}; read are {sorted(DTYPES)}"
        )
    byte_count = cursor.integer("I", f"the size of {name!r}")
    dtype = np.dtype(DTYPES[code]).newbyteorder("<")
    if byte_count != math.prod(shape) * dtype.itemsize:
        raise ValueError(
            f"{cursor.path.name} is damaged: variable {name!r} of shape {shape} has {byte_count} bytes "
            f"instead of {math.prod(shape) * dtype.itemsize}"
        )
    return cursor.take(byte_count, f"variable {name!r}").view(dtype).reshape(shape)


class _Variables:
    """Hands out each variable once, so that what nobody asked for is noticed at the end."""

    def __init__(self, variables: dict[str, np.ndarray]):
        self.left = dict(variables)

    def take(self, name: str, rank: int | None = None) -> np.ndarray:
        if name not in self.left:
            raise ValueError(f"the CTranslate2 model has no variable {name!r}: it is not a complete Whisper")
        value = self.left.pop(name)
        if value.dtype.kind != "f" and rank:
            raise ValueError(
                f"variable {name!r} is quantized to {value.dtype}; convert from a float16 or float32 model"
            )
        if rank and value.ndim != rank:
            raise ValueError(f"variable {name!r} has shape {value.shape} instead of {rank} dimensions")
        return value

    def setting(self, name: str, *legal: int) -> int:
        """A scalar of the spec, e.g. the number of heads; refused where it changes the computation."""
        value = int(self.take(name).reshape(-1)[0])
        if legal and value not in legal:
            raise ValueError(
                f"the CTranslate2 model has {name} = {value}; a Whisper of transformers needs {legal[0]}"
            )
        return value

    def layers(self, side: str) -> int:
        """Number of `side/layer_N`, which have to be 0..N-1."""
        matches = (re.match(rf"{side}/layer_(\d+)/", name) for name in self.left)
        indices = {int(match[1]) for match in matches if match}
        if not indices or indices != set(range(len(indices))):
            raise ValueError(
                f"the CTranslate2 model has {side} layers {sorted(indices)}, which is not a complete run"
            )
        return len(indices)


def whisper_weights(model: CTranslate2Model) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """`(state dict of WhisperForConditionalGeneration, sizes for WhisperConfig)` of a CTranslate2 Whisper."""
    if model.spec != "WhisperSpec":
        raise ValueError(f"the CTranslate2 model is a {model.spec}; a WhisperSpec is needed")
    if model.aliases.get("decoder/projection/weight") != "decoder/embeddings/weight":
        raise ValueError(
            "the CTranslate2 model has an output projection of its own; Whisper shares the embeddings"
        )
    variables = _Variables(model.variables)
    state: dict[str, np.ndarray] = {}
    sizes = {
        "encoder_layers": variables.layers("encoder"),
        "decoder_layers": variables.layers("decoder"),
        "encoder_attention_heads": variables.setting("encoder/num_heads"),
        "decoder_attention_heads": variables.setting("decoder/num_heads"),
    }
    _check_settings(variables)
    for side in ("encoder", "decoder"):
        _norm(variables, state, f"{side}/layer_norm", f"model.{side}.layer_norm")
        state[f"model.{side}.embed_positions.weight"] = variables.take(
            f"{side}/position_encodings/encodings", 2
        )
        for index in range(sizes[f"{side}_layers"]):
            _layer(variables, state, f"{side}/layer_{index}", f"model.{side}.layers.{index}")
    for index in (1, 2):
        state[f"model.encoder.conv{index}.weight"] = variables.take(f"encoder/conv{index}/weight", 3)
        state[f"model.encoder.conv{index}.bias"] = variables.take(f"encoder/conv{index}/bias", 1)
    state["model.decoder.embed_tokens.weight"] = variables.take("decoder/embeddings/weight", 2)
    if variables.left:
        raise ValueError(
            f"the CTranslate2 model has variables a Whisper has no place for: {sorted(variables.left)[:5]}"
        )
    return state, sizes | _sizes(state)


def _check_settings(variables: _Variables) -> None:
    variables.setting("decoder/activation", GELU)
    variables.setting("decoder/pre_norm", 1)
    for name in ("alibi", "scale_embeddings", "start_from_zero_embedding"):
        variables.setting(f"decoder/{name}", 0)
    # The heads for word times are read from config.json, which names them one by one.
    for name in ("decoder/alignment_heads", "decoder/alignment_layer"):
        variables.left.pop(name, None)


def _layer(variables: _Variables, state: dict, source: str, target: str) -> None:
    _norm(variables, state, f"{source}/self_attention/layer_norm", f"{target}.self_attn_layer_norm")
    _linears(
        variables,
        state,
        f"{source}/self_attention/linear_0",
        f"{target}.self_attn",
        ("q_proj", "k_proj", "v_proj"),
    )
    _linears(variables, state, f"{source}/self_attention/linear_1", f"{target}.self_attn", ("out_proj",))
    if source.startswith("decoder"):
        _norm(variables, state, f"{source}/attention/layer_norm", f"{target}.encoder_attn_layer_norm")
        _linears(variables, state, f"{source}/attention/linear_0", f"{target}.encoder_attn", ("q_proj",))
        _linears(
            variables, state, f"{source}/attention/linear_1", f"{target}.encoder_attn", ("k_proj", "v_proj")
        )
        _linears(variables, state, f"{source}/attention/linear_2", f"{target}.encoder_attn", ("out_proj",))
    _norm(variables, state, f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
    _linears(variables, state, f"{source}/ffn/linear_0", target, ("fc1",))
    _linears(variables, state, f"{source}/ffn/linear_1", target, ("fc2",))


def _norm(variables: _Variables, state: dict, source: str, target: str) -> None:
    state[f"{target}.weight"] = variables.take(f"{source}/gamma", 1)
    state[f"{target}.bias"] = variables.take(f"{source}/beta", 1)


def _linears(variables: _Variables, state: dict, source: str, target: str, names: tuple[str, ...]) -> None:
    """One stacked linear, weight (len(names) * out, in), split into `names`."""
    weight, bias = variables.take(f"{source}/weight", 2), variables.take(f"{source}/bias", 1)
    if len(weight) % len(names) or len(bias) != len(weight):
        raise ValueError(
            f"{source} has weight {weight.shape} and bias {bias.shape}, not {len(names)} equal parts"
        )
    parts = zip(names, np.split(weight, len(names)), np.split(bias, len(names)), strict=True)
    for name, part_weight, part_bias in parts:
        state[f"{target}.{name}.weight"] = part_weight
        if name != "k_proj":
            state[f"{target}.{name}.bias"] = part_bias
        elif part_bias.any():
            # Whisper's keys have no bias; dropping one that is not zero would change the model unseen.
            raise ValueError(
                f"{source} gives the keys a bias, which a Whisper of transformers has no place for"
            )


def _sizes(state: dict[str, np.ndarray]) -> dict[str, int]:
    vocab_size, d_model = state["model.decoder.embed_tokens.weight"].shape
    return {
        "vocab_size": vocab_size,
        "d_model": d_model,
        "num_mel_bins": state["model.encoder.conv1.weight"].shape[1],
        "max_source_positions": len(state["model.encoder.embed_positions.weight"]),
        "max_target_positions": len(state["model.decoder.embed_positions.weight"]),
        "encoder_ffn_dim": len(state["model.encoder.layers.0.fc1.weight"]),
        "decoder_ffn_dim": len(state["model.decoder.layers.0.fc1.weight"]),
    }
