"""Write a folder that loads as a stock Whisper from CTranslate2's `model.bin` and the files beside it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TASK_IDS

from .ctranslate2 import read_model, whisper_weights

# A Whisper for English alone has fewer tokens: its languages are not counted in.
MULTILINGUAL_VOCAB_SIZE = 51865
SETTINGS = ("lang_ids", "suppress_ids", "suppress_ids_begin")
# A first word later than 1 s (50 steps of 0.02 s) into a window is an error of the model more often than not.
MAX_INITIAL_TIMESTAMP_INDEX = 50


def convert_whisper(source: Path, target: Path) -> None:
    """From model.bin, config.json, tokenizer.json, vocabulary.txt in `source` to a model folder `target`."""
    settings = read_settings(source / "config.json")
    tokenizer = build_tokenizer(source)
    arrays, sizes = whisper_weights(read_model(source / "model.bin"))
    if len(tokenizer) > sizes["vocab_size"]:
        raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, the model {sizes['vocab_size']}")
    config = build_config(tokenizer, settings, sizes)
    state = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    check_state(config, state)
    target.mkdir(parents=True, exist_ok=True)
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(target)
    build_generation_config(tokenizer, settings, config).save_pretrained(target)
    tokenizer.save_pretrained(target)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(target)


def read_settings(path: Path) -> dict[str, Any]:
    """CTranslate2's config.json, with the token numbers that a Whisper needs."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    missing = [name for name in SETTINGS if name not in settings]
    if missing:
        raise ValueError(f"{path.name} has no {missing[0]!r}: it is not a Whisper's for CTranslate2")
    return settings


def build_tokenizer(source: Path) -> WhisperTokenizer:
    """Byte-pair vocabulary and special tokens of `tokenizer.json`, timestamps from `vocabulary.txt`."""
    stored = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    merges = [
        tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
        for merge in stored["model"]["merges"]
    ]
    special = sorted(
        (token for token in stored["added_tokens"] if token["special"]), key=lambda token: token["id"]
    )
    tokenizer = WhisperTokenizer(vocab=stored["model"]["vocab"], merges=merges, model_max_length=448)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [_added(token["content"], True) for token in special]}
    )
    # One token per line; lines are split at \n alone because other line ends are tokens of their own.
    vocabulary = (source / "vocabulary.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    tokenizer.add_tokens([_added(token, False) for token in vocabulary[len(tokenizer) :]])
    moved = [
        token for index, token in enumerate(vocabulary) if tokenizer.convert_tokens_to_ids(token) != index
    ]
    if moved:
        raise ValueError(
            f"tokenizer.json and vocabulary.txt number {len(moved)} tokens differently, e.g. {moved[0]!r}"
        )
    return tokenizer


def _added(text: str, special: bool) -> AddedToken:
    return AddedToken(text, normalized=False, special=special)


def token_id(tokenizer: WhisperTokenizer, token: str) -> int:
    """Number of a special token; an absent one is an error instead of the unknown token's number."""
    vocabulary = tokenizer.get_vocab()
    if token not in vocabulary:
        raise ValueError(f"tokenizer.json has no token {token}: it is not a Whisper's")
    return vocabulary[token]


def build_config(tokenizer: WhisperTokenizer, settings: dict, sizes: dict[str, Any]) -> WhisperConfig:
    """Sizes come from the weights, token numbers from the tokenizer."""
    end = token_id(tokenizer, "<|endoftext|>")
    return WhisperConfig(
        **sizes,
        architectures=["WhisperForConditionalGeneration"],
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=token_id(tokenizer, "<|startoftranscript|>"),
        begin_suppress_tokens=settings["suppress_ids_begin"],
        # As on the Hub: the file keeps the float16 it was released in, `from_pretrained` gives float32.
        dtype="float32",
    )


def build_generation_config(
    tokenizer: WhisperTokenizer, settings: dict, config: WhisperConfig
) -> GenerationConfig:
    """All that stock `generate(language=..., task=..., return_timestamps=...)` asks for."""
    multilingual = config.vocab_size >= MULTILINGUAL_VOCAB_SIZE
    choices = {
        "lang_to_id": {token: token_id(tokenizer, token) for token in language_tokens(settings, tokenizer)},
        "task_to_id": {task: token_id(tokenizer, f"<|{task}|>") for task in sorted(TASK_IDS)},
    }
    if "alignment_heads" in settings:
        choices["alignment_heads"] = settings["alignment_heads"]
    return GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        suppress_tokens=settings["suppress_ids"],
        begin_suppress_tokens=settings["suppress_ids_begin"],
        no_timestamps_token_id=token_id(tokenizer, "<|notimestamps|>"),
        prev_sot_token_id=token_id(tokenizer, "<|startofprev|>"),
        max_initial_timestamp_index=MAX_INITIAL_TIMESTAMP_INDEX,
        max_length=config.max_target_positions,
        is_multilingual=multilingual,
        return_timestamps=False,
        **{name: value for name, value in choices.items() if multilingual or name == "alignment_heads"},
    )


def language_tokens(settings: dict, tokenizer: WhisperTokenizer) -> list[str]:
    """`<|en|>`, `<|zh|>`, ... in the order of their numbers; each is a language transformers knows."""
    tokens = list(tokenizer.convert_ids_to_tokens(settings["lang_ids"]))
    unknown = [token for token in tokens if token.strip("<|>") not in LANGUAGES]
    if unknown:
        raise ValueError(f"config.json lists {unknown[0]!r} as a language, which transformers does not know")
    return tokens


def check_state(config: WhisperConfig, state: dict[str, torch.Tensor]) -> None:
    """Every weight that a stock Whisper of this config has is there in the right shape, and no other."""
    with torch.device("meta"):
        needed = {
            name: value.shape for name, value in WhisperForConditionalGeneration(config).state_dict().items()
        }
    needed.pop("proj_out.weight")  # tied to the embeddings, as Whisper's always is
    held = {name: value.shape for name, value in state.items()}
    wrong = sorted(name for name in needed.keys() | held.keys() if needed.get(name) != held.get(name))
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"converted {len(wrong)} weights wrongly, e.g. {name}: {held.get(name)}, not {needed.get(name)}"
        )
