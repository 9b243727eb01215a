"""Tiny random bases and a corpus of tones, made on the spot: for a smoke test where there is nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
import torch
from speechllm.configuration.configuration_strict import suggest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from .data.utterances import Utterance, write_manifest

SAMPLING_RATE = 16000
# Word -> the pitch that says it; nothing is learned sooner.
TONES = {"do": 262, "re": 330, "mi": 415, "fa": 523, "sol": 659, "la": 831, "si": 1047}
SECONDS_A_TONE = 0.4
CLIPS = {"train": 512, "eval": 16}
WORDS_A_CLIP = (2, 4)
WIDTH = 64


def make_material(kind: str | None, folder: Path, seed: int) -> dict[str, str]:
    """Make what a run named in `material`, once; keys of the configuration -> what it made for them."""
    if kind is None:
        return {}
    if kind not in MATERIALS:
        raise ValueError(f"unknown material {kind!r}; {suggest(kind, MATERIALS)}")
    return MATERIALS[kind](folder.resolve(), seed)


def tones(folder: Path, seed: int) -> dict[str, str]:
    """A random Whisper, a random Llama that spells, and clips in which every word is a tone."""
    made = {
        "encoder": str(folder / "bases" / "tones--whisper"),
        "decoder": str(folder / "bases" / "tones--llama"),
        "corpus": str(folder / "tones"),
    }
    # Written last: where it is, everything is.
    done = folder / "made.json"
    if not done.exists():
        torch.manual_seed(seed)
        save_whisper(Path(made["encoder"]))
        save_llama(Path(made["decoder"]))
        for split, count in CLIPS.items():
            save_tones(Path(made["corpus"]), split, count, seed)
        done.write_text(json.dumps(made))
    return made


def save_whisper(folder: Path) -> None:
    """A random encoder with its feature extractor."""
    config = WhisperConfig(
        d_model=WIDTH, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, num_mel_bins=80, vocab_size=64,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3, suppress_tokens=None,
        begin_suppress_tokens=None,
        # Wider than usual: what an untrained encoder hears must not drown in its positions.
        init_std=0.2,
    )  # fmt: skip
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)


def save_llama(folder: Path) -> None:
    """A random decoder with a tokenizer of single bytes."""
    specials = ["<|end|>", "<|pad|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(specials + alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=specials[0], pad_token=specials[1])
    config = LlamaConfig(
        vocab_size=len(specials + alphabet), hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=128, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)


def save_tones(folder: Path, split: str, count: int, seed: int) -> None:
    """Clips and their manifest."""
    generator = np.random.default_rng([seed, list(CLIPS).index(split)])
    (folder / split).mkdir(parents=True, exist_ok=True)
    utterances = []
    for number in range(count):
        words = generator.choice(list(TONES), size=generator.integers(WORDS_A_CLIP[0], WORDS_A_CLIP[1] + 1))
        path = folder / split / f"{number:04d}.wav"
        sound = said_in_tones(words, generator)
        soundfile.write(path, sound, SAMPLING_RATE)
        seconds = len(sound) / SAMPLING_RATE
        name = f"{split}-{number:04d}"
        utterances.append(Utterance(str(path), " ".join(words), seconds=seconds, id=name))
    write_manifest(folder / f"{split}.jsonl", utterances)


def said_in_tones(words, generator: np.random.Generator) -> np.ndarray:
    """One tone a word, with a little noise: `[n]` float32."""
    samples = round(SECONDS_A_TONE * SAMPLING_RATE)
    time = np.arange(samples) / SAMPLING_RATE
    fade = np.minimum(1, 20 * np.minimum(time, time[::-1]))
    sound = np.concatenate([np.sin(2 * np.pi * TONES[word] * time) * fade for word in words])
    return (0.3 * sound + 0.01 * generator.standard_normal(len(sound))).astype(np.float32)


MATERIALS = {"tones": tones}
