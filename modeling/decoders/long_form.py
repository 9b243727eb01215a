"""Recordings longer than the encoder hears at once, by the stock Whisper's sequential algorithm."""

import torch
import torch.nn.functional as F

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
    "temperature",
    "time_precision",
)


def transcribe_long(model, input_features, lengths, request, found, arguments: dict):
    """As the stock `generate`: every clip in windows of 30 s, each begun where the last one's text ended.

    The stock method drops recordings that have ended from its batch, so where they differ in their adapters
    each is transcribed by itself.
    """
    if request.token_times:
        asking = ", ".join(name for name in STOCK_ARGUMENTS if name in arguments) or "a clip above 30 s"
        raise ValueError(
            f"{asking} asks for the stock long-form algorithm, in which tokens have no times: leave it out; "
            "the pipeline cuts long recordings by itself"
        )
    weights = found.weights
    if weights is None or bool((weights == weights[:1]).all()):
        model.model.bank.use(None if weights is None else weights[:1])
        return _together(model, input_features, lengths, request, arguments)
    if arguments.get("return_dict_in_generate") or arguments.get("return_segments"):
        raise ValueError("long recordings with different adapters give ids alone: ask for one at a time")
    done = []
    for row in range(len(lengths)):
        one = slice(row, row + 1)
        model.model.bank.use(weights[one])
        done.append(_together(model, input_features[one], lengths[one], request.part(row), arguments))
    longest, pad = max(ids.shape[1] for ids in done), model.generation_config.pad_token_id
    return torch.cat([F.pad(ids, (0, longest - ids.shape[1]), value=pad) for ids in done])


def _together(model, input_features, lengths, request, arguments: dict):
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
