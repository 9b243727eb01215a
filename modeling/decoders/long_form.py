"""Recordings longer than the encoder hears at once, by the stock Whisper's sequential algorithm."""

import torch

from ..length_masks import length_mask

# Arguments that only the stock algorithm understands: they ask for it, however short the clips.
STOCK_ARGUMENTS = (
    "compression_ratio_threshold",
    "condition_on_prev_tokens",
    "logprob_threshold",
    "monitor_progress",
    "no_speech_threshold",
    "prompt_condition_type",
    "return_segments",
    "return_token_timestamps",
    "temperature",
    "time_precision",
)


def transcribe_long(model, input_features, lengths, request, arguments: dict):
    """As the stock `generate`: every clip in windows of 30 s, each begun where the last one's text ended."""
    if request.prompt_ids is not None:
        raise ValueError("a long recording is decoded window by window, without decoder_prompt_ids")
    whisper = model.causal_lm
    whisper.generation_config = model.generation_config
    known = [language for language in request.languages if language is not None]
    if known and len(known) < len(request.languages):
        raise ValueError("name the language of every long recording, or of none")
    context = request.context
    return whisper.generate(
        _whole_windows(model, input_features),
        attention_mask=length_mask(lengths, input_features.shape[2]).long(),
        language=known or None,
        task=request.task,
        return_timestamps=request.timestamps or None,
        prompt_ids=torch.tensor(context, device=input_features.device) if context else None,
        **arguments,
    )


def _whole_windows(model, input_features: torch.Tensor) -> torch.Tensor:
    """Features `[B, mel, T]` of at least one window, silence after them."""
    missing = model.config.max_inputs - input_features.shape[2]
    if missing <= 0:
        return input_features
    floor = input_features.amax(dim=(1, 2), keepdim=True) - 2.0
    return torch.cat([input_features, floor.expand(-1, input_features.shape[1], missing)], dim=2)
