"""`generate` for a decoder that is prompted with speech."""

import copy
import math

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from ..configuration.encoder_specs import encoder_spec
from .greedy_rows import LoopDetector, decode_greedy_rows

# What the row-dropping greedy loop does not do: any of these leaves decoding to the stock loops.
OTHER_LOOPS = ("streamer", "assistant_model", "synced_gpus", "custom_generate")
STOCK_LOOP_FIELDS = (
    "do_sample",
    "cache_implementation",
    "output_scores",
    "output_logits",
    "output_attentions",
    "output_hidden_states",
)


def left_pack(embeds: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Move every row's real positions to the right end. `[B, L, H]`, `[B, L]` -> the same shapes, cut to the longest."""
    longest = int(mask.sum(-1).max())
    order = torch.argsort(mask.long(), dim=1, stable=True)[:, -longest:]
    return embeds.gather(1, order[..., None].expand(-1, -1, embeds.shape[-1])), mask.gather(1, order)


class RowBudget(StoppingCriteria):
    """Stops each row at its own number of new tokens; for the stock loops, which keep rows in place."""

    def __init__(self, budgets: torch.Tensor, beams: int):
        self.budgets = budgets.repeat_interleave(beams)

    def __call__(self, input_ids, scores, **kwargs) -> torch.Tensor:
        budgets = (
            self.budgets if len(self.budgets) == len(input_ids) else self.budgets.max().expand(len(input_ids))
        )
        return input_ids.shape[1] >= budgets.to(input_ids.device)


class SpeechGenerationMixin:
    """Adds to `GenerationMixin`: speech in the prompt, a token budget per clip, loops cut short."""

    def speech_seconds(self, input_features, input_features_mask=None) -> torch.Tensor:
        """Duration of each clip of a batch, `[B]`."""
        spec = encoder_spec(self.config.audio_config)
        if input_features_mask is not None:
            return input_features_mask.sum(-1) / spec.inputs_per_second
        seconds = input_features.shape[spec.time_axis] / spec.inputs_per_second
        return torch.full((len(input_features),), seconds, device=input_features.device)

    def token_budgets(self, seconds: torch.Tensor) -> torch.Tensor:
        """How many tokens each clip may become, `[B]`: speech has no more a second, only loops have."""
        return (seconds * self.config.tokens_per_second).ceil().long() + self.config.extra_tokens

    def default_prompt(self, input_features, input_features_mask=None) -> tuple[torch.Tensor, torch.Tensor]:
        """The config's prompt around each clip's placeholders: ids and mask `[B, L]`, left-padded."""
        spec = encoder_spec(self.config.audio_config)
        device = input_features.device
        if input_features_mask is None:
            inputs = torch.full((len(input_features),), input_features.shape[spec.time_axis], device=device)
        else:
            inputs = input_features_mask.sum(-1)
        if self.config.prompt_ids is None:
            raise ValueError(
                "this model has no default prompt: pass input_ids, or call config.set_tokens(tokenizer)"
            )
        cut = self.config.prompt_ids.index(-1)
        before, after = self.config.prompt_ids[:cut], self.config.prompt_ids[cut + 1 :]
        counts = self.config.speech_tokens(inputs).tolist()
        rows = [before + [self.config.audio_token_id] * count + after for count in counts]
        longest = max(map(len, rows))
        ids = torch.tensor(
            [[self.config.pad_token_id or 0] * (longest - len(row)) + row for row in rows], device=device
        )
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
        return ids, mask

    @torch.no_grad()
    def generate(
        self, inputs=None, input_ids=None, input_features=None, input_features_mask=None, attention_mask=None,
        inputs_embeds=None, labels=None, generation_config=None, stop_loops=True, **kwargs
    ):  # fmt: skip
        """Text ids for a batch of clips.

        With features only, the config's default prompt is used and new ids `[B, N]` are returned; with
        `input_ids` `[B, L]` (padded on either side) prompt and new ids, as every decoder does; with `labels`,
        as an evaluating trainer passes them, the prompt ends at the first label and new ids are returned.
        Each clip may become as many tokens as its duration allows, unless `max_new_tokens` says less; a row that
        repeats itself is cut short, unless `stop_loops` is off.
        """
        input_ids = inputs if input_ids is None else input_ids
        if input_ids is not None and input_ids.is_floating_point():
            # The stock recognition pipeline passes features under the name of the main input.
            input_ids, input_features, input_features_mask, attention_mask = (
                None,
                input_ids,
                attention_mask,
                None,
            )
        prompt = input_ids if labels is None else None
        if inputs_embeds is None:
            if input_ids is None:
                input_ids, attention_mask = self.default_prompt(input_features, input_features_mask)
            inputs_embeds, attention_mask = self._embed(
                input_ids, attention_mask, labels, input_features, input_features_mask
            )
        # Stock `generate` takes a config or settings, not both: settings of a given config go into a copy of it.
        settings = kwargs if generation_config is None else copy.deepcopy(generation_config).to_diff_dict()
        if input_features is not None:
            budgets = self.token_budgets(self.speech_seconds(input_features, input_features_mask))
            most = settings.get("max_new_tokens") or math.inf
            settings["max_new_tokens"] = min(most, int(budgets.max()))
            self._choose_loop(settings, kwargs, budgets.to(inputs_embeds.device), stop_loops)
        if generation_config is not None:
            kwargs["generation_config"] = GenerationConfig(**settings)
        outputs = super().generate(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)
        if prompt is None:
            return outputs
        return _prepend(prompt, outputs)

    def _choose_loop(self, settings: dict, kwargs: dict, budgets: torch.Tensor, stop_loops: bool) -> None:
        """The loop that drops finished rows where it can, the stock ones with criteria elsewhere."""
        setting = {**self.generation_config.to_dict(), **settings, **kwargs}
        beams = setting.get("num_beams") or 1
        other_loop = any(kwargs.get(name) for name in OTHER_LOOPS) or any(setting.get(n) for n in STOCK_LOOP_FIELDS)
        if beams == 1 and not other_loop:
            kwargs.update(custom_generate=decode_greedy_rows, token_budgets=budgets, stop_loops=stop_loops)
            return
        copies = beams if beams > 1 else setting.get("num_return_sequences") or 1
        criteria = [*(kwargs.pop("stopping_criteria", None) or []), RowBudget(budgets, copies)]
        kwargs["stopping_criteria"] = StoppingCriteriaList(criteria + [LoopCriterion()] * stop_loops)

    def _embed(self, input_ids, attention_mask, labels, input_features, input_features_mask):
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        embeds, _ = self.model.embed_prompt(input_ids, input_features, input_features_mask)
        if labels is not None:
            mask = mask * (torch.cumsum((labels != -100).int(), 1) == 0)
        return left_pack(embeds, mask)


class LoopCriterion(StoppingCriteria):
    """Stops rows that repeat themselves; for the stock loops."""

    def __call__(self, input_ids, scores, **kwargs) -> torch.Tensor:
        return LoopDetector()(input_ids) > 0


def _prepend(prompt: torch.Tensor, outputs):
    """Prompt ids `[B, L]` before the new ids of `outputs`, a tensor or a `ModelOutput`."""
    new = outputs if isinstance(outputs, torch.Tensor) else outputs.sequences
    prompt = prompt.to(new.device).repeat_interleave(len(new) // len(prompt), dim=0)
    if isinstance(outputs, torch.Tensor):
        return torch.cat([prompt, new], dim=1)
    outputs.sequences = torch.cat([prompt, new], dim=1)
    return outputs
