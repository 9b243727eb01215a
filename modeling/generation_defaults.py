"""The settings a fresh model generates with, and those that nobody set."""

import copy

from transformers import GenerationConfig

# Bounds what has no speech to take a budget from; a clip of 30 s may take most of it.
MAX_NEW_TOKENS = 1024
# The stock pipeline takes 5 beams where these are not written down.
ALWAYS_WRITTEN = ("num_beams", "do_sample")


def default_generation(config, base: GenerationConfig) -> GenerationConfig:
    """Greedy, one beam. The decoder's own sampling settings are for chat, not for transcripts.

    Text ends at the decoder's own ends, and at the token that targets end with in training.
    """
    own = base.eos_token_id if isinstance(base.eos_token_id, list) else [base.eos_token_id]
    ends = sorted({end for end in [*own, config.end_token_id] if end is not None})
    return GenerationConfig(
        num_beams=1,
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=config.pad_token_id,
        bos_token_id=base.bos_token_id,
    )


def without_stock_defaults(settings: GenerationConfig) -> GenerationConfig:
    """A copy without what is the library's default anyway.

    An evaluating trainer writes all defaults into its model's settings, a `max_length` of 20 among them.
    """
    settings = copy.deepcopy(settings)
    for name, default in settings._get_default_generation_params().items():
        if name not in ALWAYS_WRITTEN and getattr(settings, name, None) == default:
            setattr(settings, name, None)
    return settings
