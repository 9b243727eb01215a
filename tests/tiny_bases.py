"""Tiny random bases, saved like the real ones: every family of encoder, several kinds of decoder."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    FalconH1Config,
    Gemma2Config,
    GenerationConfig,
    GPT2Config,
    GraniteConfig,
    HubertConfig,
    HubertForCTC,
    Lfm2Config,
    LlamaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    SeamlessM4TFeatureExtractor,
    SpeechT5Config,
    SpeechT5FeatureExtractor,
    SpeechT5ForSpeechToText,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

CONV_STACK = {
    "conv_dim": (16,) * 7,
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "num_feat_extract_layers": 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
# The masking that training would do; frozen encoders must never do it.
SPECAUGMENT = {"mask_time_prob": 0.5, "mask_time_length": 2, "layerdrop": 0.3}
WAVEFORM_FAMILIES = {
    "hubert_base": (HubertConfig, HubertForCTC, {"feat_extract_norm": "group", "vocab_size": 12}),
    "hubert_large": (
        HubertConfig,
        HubertForCTC,
        {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "vocab_size": 12},
    ),
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model, {"feat_extract_norm": "group"}),
    "wavlm": (WavLMConfig, WavLMModel, {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
}
ENCODER_NAMES = ["whisper", *WAVEFORM_FAMILIES, "wav2vec2_bert", "speecht5"]


def save_encoder(name: str, folder: Path) -> str:
    """Save a tiny random encoder base with its feature extractor; the folder."""
    torch.manual_seed(ENCODER_NAMES.index(name))
    if name == "whisper":
        model, extractor = _whisper()
    elif name == "wav2vec2_bert":
        config = Wav2Vec2BertConfig(**TOWER, conv_depthwise_kernel_size=5, apply_spec_augment=True)
        model, extractor = Wav2Vec2BertModel(config), SeamlessM4TFeatureExtractor()
    elif name == "speecht5":
        model, extractor = _speecht5()
    else:
        config_class, model_class, fields = WAVEFORM_FAMILIES[name]
        model = model_class(config_class(**TOWER, **CONV_STACK, **SPECAUGMENT, **fields))
        # As published: the group-norm checkpoints ask for no attention mask.
        extractor = Wav2Vec2FeatureExtractor(
            do_normalize=True, return_attention_mask=fields["feat_extract_norm"] == "layer"
        )
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return str(folder)


def _whisper():
    config = WhisperConfig(
        d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=80, vocab_size=64, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=3, suppress_tokens=None,
        begin_suppress_tokens=None,
    )  # fmt: skip
    return WhisperForConditionalGeneration(config), WhisperFeatureExtractor()


WHISPER_LANGUAGES = ("en", "it", "fr", "be", "el")
TIMESTAMPS = 1501


def whisper_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and Whisper's specials: languages, tasks, timestamps."""
    tasks = ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    names = ["endoftext", "startoftranscript", *WHISPER_LANGUAGES, *tasks]
    specials = [f"<|{name}|>" for name in names] + [f"<|{step * 0.02:.2f}|>" for step in range(TIMESTAMPS)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(alphabet + specials)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, bos_token=end, pad_token=end)
    fast.add_special_tokens({"extra_special_tokens": specials[1:]})
    return fast


def save_encoder_decoder(folder: Path, width: int = 32, mel: int = 80) -> str:
    """Save a tiny random Whisper with tokenizer and generation settings; the folder."""
    torch.manual_seed(50)
    tokenizer = whisper_tokenizer()
    ids = tokenizer.get_vocab()
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    config = WhisperConfig(
        d_model=width, encoder_layers=3, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=mel,
        vocab_size=len(tokenizer), pad_token_id=end, bos_token_id=end, eos_token_id=end,
        decoder_start_token_id=start, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():
        # As for the decoders below: louder weights say many tokens, and hear the difference of clips.
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embed_positions" not in name:
                parameter.mul_(8.0)
        # Text is what comparisons are made of; timestamps would be most of the vocabulary.
        model.model.decoder.embed_tokens.weight[-TIMESTAMPS:].mul_(0.1)
    # A fresh one: the model's own is derived from its config once more wherever it is loaded.
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
        bos_token_id=end,
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": ids[f"<|{code}|>"] for code in WHISPER_LANGUAGES},
        task_to_id={task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        suppress_tokens=[5, 6, 7],
        begin_suppress_tokens=[3, end],
        max_initial_timestamp_index=50,
        max_length=448,
        return_timestamps=False,
    )
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=mel).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _speecht5():
    config = SpeechT5Config(
        vocab_size=24, hidden_size=32, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=48,
        decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=48, encoder_layerdrop=0.3,
        decoder_layerdrop=0.0, **CONV_STACK,
    )  # fmt: skip
    return SpeechT5ForSpeechToText(config), SpeechT5FeatureExtractor()


LM = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
KV = {"num_key_value_heads": 2, "max_position_embeddings": 4096}
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
DECODERS = {
    "llama": (LlamaConfig, {**LM, **KV, "tie_word_embeddings": False}, None),
    "llama_tied": (LlamaConfig, {**LM, **KV, "tie_word_embeddings": True}, CHAT_TEMPLATE),
    "qwen3": (Qwen3Config, {**LM, **KV, "head_dim": 8, "tie_word_embeddings": True}, CHAT_TEMPLATE),
    "gemma2": (Gemma2Config, {**LM, **KV, "head_dim": 8}, None),
    "granite": (
        GraniteConfig, {**LM, **KV, "logits_scaling": 4.0, "embedding_multiplier": 12.0}, CHAT_TEMPLATE,
    ),
    "cohere": (CohereConfig, {**LM, **KV, "logit_scale": 0.25}, None),
    "gpt2": (GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 2048}, None),
    "opt": (OPTConfig, {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2,
                        "num_attention_heads": 4, "max_position_embeddings": 2048}, None),
    # ALiBi: its forward takes no position_ids.
    "bloom": (BloomConfig, {"hidden_size": 32, "n_layer": 2, "n_head": 4}, None),
    # Convolutions beside attention: a cache with layers of several kinds.
    "lfm2": (Lfm2Config, {**LM, **KV, "full_attn_idxs": [1], "block_auto_adjust_ff_dim": False}, None),
    # State spaces beside attention, and buffers that no checkpoint holds.
    "falcon_h1": (FalconH1Config, {**LM, **KV, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8,
                                   "mamba_d_state": 8, "mamba_chunk_size": 16, "head_dim": 8}, None),
}  # fmt: skip


def tiny_tokenizer(chat_template: str | None = None, pad: bool = False) -> PreTrainedTokenizerFast:
    """Bytes and three specials: any text goes in and comes out again."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(specials + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>" if chat_template else "<|endoftext|>",
        bos_token="<|endoftext|>",
        pad_token="<|endoftext|>" if pad else None,
        chat_template=chat_template,
    )


def save_decoder(name: str, folder: Path) -> str:
    """Save a tiny random decoder base with its tokenizer; the folder."""
    torch.manual_seed(100 + list(DECODERS).index(name))
    config_class, fields, template = DECODERS[name]
    tokenizer = tiny_tokenizer(template, pad=name == "llama")
    ids = {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    config = config_class(**fields, **ids, pad_token_id=tokenizer.pad_token_id)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        # Random models of this size say one token forever; louder weights make them say many.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
