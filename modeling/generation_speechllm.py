"""`generate`: settings and bounds for every model, and the way of a decoder that is prompted with speech."""

import copy
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, StoppingCriteria, StoppingCriteriaList
from transformers.generation import GenerationMode

from ..configuration.encoder_specs import encoder_spec
from .generation_defaults import without_stock_defaults
from .greedy_rows import LoopDetector, PromptSteps, decode_greedy_rows
from .length_masks import input_lengths

# What the row-dropping greedy loop does not do: any of these leaves decoding to the stock loops.
STOCK_LOOP_ARGUMENTS = ("streamer", "assistant_model", "custom_generate", "past_key_values")
STOCK_LOOP_SETTINGS = (
    "cache_implementation",
    "guidance_scale",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "prefill_chunk_size",
    "stop_strings",
)


def left_pack(embeds: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Move every row's real positions to the right end, and cut to the longest: `[B, L, H]`, `[B, L]`."""
    longest = int(mask.sum(-1).max())
    order = torch.argsort(mask.long(), dim=1, stable=True)[:, -longest:]
    return embeds.gather(1, order[..., None].expand(-1, -1, embeds.shape[-1])), mask.gather(1, order)


class RowBudget(StoppingCriteria):
    """Stops each row at its own number of new tokens; for the stock loops, which keep rows in place."""

    def __init__(self, budgets: torch.Tensor):
        self.budgets = budgets

    def __call__(self, input_ids, scores, **kwargs) -> torch.Tensor:
        # Beams and samples of a clip stand side by side, and beam search asks about more than it keeps.
        budgets = self.budgets.repeat_interleave(len(input_ids) // len(self.budgets))
        return input_ids.shape[1] >= budgets.to(input_ids.device)


class LoopCriterion(StoppingCriteria):
    """Stops rows that repeat themselves; for the stock loops."""

    def __call__(self, input_ids, scores, **kwargs) -> torch.Tensor:
        return LoopDetector()(input_ids) > 0


class SpeechGenerationMixin(GenerationMixin):
    """Adds to `GenerationMixin`: speech in the prompt, a token budget per clip, loops cut short."""

    config: Any
    model: Any

    def speech_seconds(self, input_features, input_features_mask=None) -> torch.Tensor:
        """Duration of each clip of a batch, `[B]`."""
        return self.seconds_of(input_lengths(self.config, input_features, input_features_mask))

    def seconds_of(self, lengths: torch.Tensor) -> torch.Tensor:
        """Durations of clips of so many model inputs, `[B]`."""
        return lengths / encoder_spec(self.config.audio_config).inputs_per_second

    def token_budgets(self, seconds: torch.Tensor) -> torch.Tensor:
        """How many tokens each clip may become, `[B]`: more than speech takes in any script."""
        return (seconds * self.config.tokens_per_second).ceil().long() + self.config.extra_tokens

    def default_prompt(self, input_features, input_features_mask=None) -> tuple[torch.Tensor, torch.Tensor]:
        """The config's prompt around each clip's placeholders: ids and mask `[B, L]`, left-padded."""
        if self.config.prompt_ids is None:
            raise ValueError(
                "this model has no default prompt: pass input_ids, or call config.set_tokens(tokenizer)"
            )
        device = input_features.device
        cut = self.config.prompt_ids.index(-1)
        before, after = self.config.prompt_ids[:cut], self.config.prompt_ids[cut + 1 :]
        inputs = input_lengths(self.config, input_features, input_features_mask)
        counts = self.config.speech_tokens(inputs).tolist()
        rows = [before + [self.config.audio_token_id] * count + after for count in counts]
        longest = max(map(len, rows))
        filler = self.config.pad_token_id or 0
        ids = torch.tensor([[filler] * (longest - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
        return ids, mask

    @torch.no_grad()
    def generate(self, inputs=None, input_features=None, input_features_mask=None, **arguments):  # type: ignore[override]
        """Text ids for a batch of clips; features `[B, mel, T]` or as the encoder wants them, mask `[B, T]`.

        New ids `[B, N]` are returned, in a bridge behind the prompt's where `input_ids` are given. Each clip
        may become as many tokens as its duration allows, unless `max_new_tokens` is given, or `max_length`,
        which counts what is returned. A row that repeats itself is cut short, unless `stop_loops` is off.
        Other arguments: settings of a `GenerationConfig`, and for a bridge those of `generate_from_prompt`,
        for an encoder-decoder those of `transcribe`.
        """
        main = inputs if inputs is not None else arguments.pop("input_ids", None)
        if main is not None and main.is_floating_point():
            # The stock recognition pipeline passes features under the name of the main input.
            input_features, input_features_mask = main, arguments.pop("attention_mask", input_features_mask)
        elif main is not None:
            arguments["input_ids"] = main
        return self.model.family.generate(self, input_features, input_features_mask, **arguments)

    def greedy_steps(self, input_ids, model_kwargs: dict) -> PromptSteps:
        """How the row-dropping loop goes through a batch of this model."""
        return PromptSteps(self, model_kwargs)

    def generate_from_prompt(
        self, input_features=None, input_features_mask=None, input_ids=None, attention_mask=None,
        inputs_embeds=None, labels=None, generation_config=None, stop_loops=True, encoder_states=None,
        feature_lengths=None, rows_kept=None, **kwargs
    ):  # fmt: skip
        """`generate` of a bridge.

        With features only, the config's default prompt is used and new ids `[B, N]` are returned; with
        `input_ids` `[B, L]` (padded on either side) prompt and new ids, as every decoder does; with `labels`,
        as an evaluating trainer passes them, the prompt ends at the first label and new ids are returned.
        `encoder_states` `[B, T, D]` spare the encoder, and with `feature_lengths` `[B]` the features, too;
        `rows_kept` is told of rows that leave the batch.
        """
        prompt = input_ids if labels is None else None
        if inputs_embeds is None:
            inputs_embeds, attention_mask = self._embed(
                input_ids,
                attention_mask,
                labels,
                input_features,
                input_features_mask,
                encoder_states,
                feature_lengths,
            )
        settings, arguments, limited = self.settled(
            generation_config, kwargs, 0 if prompt is None else prompt.shape[1]
        )
        if input_features is not None or feature_lengths is not None:
            lengths = self.model.checked_lengths(input_features, input_features_mask, feature_lengths)
            budgets = self.token_budgets(self.seconds_of(lengths))
            if limited:
                budgets = torch.full_like(budgets, settings.max_new_tokens)
            if self.bound(settings, arguments, budgets.to(inputs_embeds.device), stop_loops):
                arguments["rows_kept"] = rows_kept
        outputs = super().generate(  # type: ignore[misc]
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            generation_config=settings,
            **arguments,
        )
        return outputs if prompt is None else _prepend(prompt, outputs)

    def _embed(
        self, input_ids, attention_mask, labels, input_features, input_features_mask, encoder_states=None,
        feature_lengths=None,
    ):  # fmt: skip
        """Decoder inputs `[B, L, H]` and mask `[B, L]`, left-padded, of a prompt padded on either side."""
        if input_ids is None:
            if input_features is None:
                raise ValueError("nothing to go by: pass input_features, input_ids or both")
            input_ids, attention_mask = self.default_prompt(input_features, input_features_mask)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        embeds, _ = self.model.embed_prompt(
            input_ids,
            input_features,
            input_features_mask,
            encoder_states=encoder_states,
            feature_lengths=feature_lengths,
        )
        if labels is not None:
            mask = mask * (torch.cumsum((labels != -100).int(), 1) == 0)
        return left_pack(embeds, mask)

    def settled(self, given: GenerationConfig | None, kwargs: dict, returned: int):
        """`(settings, other arguments, whether the caller set a length)`; `returned` prompt ids count."""
        self.generation_config = without_stock_defaults(self.generation_config)
        settings = copy.deepcopy(given) if given is not None else GenerationConfig()
        arguments = settings.update(**{name: value for name, value in kwargs.items() if value is not None})
        if settings.max_new_tokens is None and settings.max_length is not None:
            if settings.max_length <= returned:
                raise ValueError(
                    f"max_length={settings.max_length} leaves no room after {returned} prompt tokens"
                )
            settings.max_new_tokens = settings.max_length - returned
        if settings.max_new_tokens is not None:
            # The stock method counts embeddings, too, and warns where it finds both.
            settings.max_length = None
        limited = settings.max_new_tokens is not None
        settings.update(**self.generation_config.to_dict(), defaults_only=True, allow_custom_entries=True)
        return settings, arguments, limited

    def bound(
        self,
        settings: GenerationConfig,
        arguments: dict,
        budgets: torch.Tensor,
        stop_loops: bool,
        prompt: int = 0,
    ) -> bool:
        """Hold every row to its budget, in the loop that drops finished rows (true) or in a stock one.

        `prompt`: how many ids a stock loop sees before the new ones.
        """
        most = int(budgets.max())
        settings.max_new_tokens = min(settings.max_new_tokens or most, most)
        greedy = (
            settings.get_generation_mode(arguments.get("assistant_model")) == GenerationMode.GREEDY_SEARCH
        )
        other = any(arguments.get(name) is not None for name in STOCK_LOOP_ARGUMENTS)
        other = other or any(getattr(settings, name, None) for name in STOCK_LOOP_SETTINGS)
        other = other or settings.use_cache is False
        if greedy and not other and not self._ranks_go_together(arguments.get("synced_gpus")):
            arguments.update(custom_generate=decode_greedy_rows, token_budgets=budgets, stop_loops=stop_loops)
            return True
        criteria = [*(arguments.pop("stopping_criteria", None) or []), RowBudget(budgets + prompt)]
        arguments["stopping_criteria"] = StoppingCriteriaList(criteria + [LoopCriterion()] * stop_loops)
        return False

    def _ranks_go_together(self, asked: bool | None) -> bool:
        """Whether weights are spread over processes, so that all have to take every step."""
        if asked is not None:
            return asked
        # The marks of ZeRO-3, FSDP and FSDP2 (or tensor parallelism), by name: none of them is imported here.
        marks = ("ds_id", "_is_flat_param", "device_mesh")
        return any(hasattr(parameter, mark) for parameter in self.model.parameters() for mark in marks)


def _prepend(prompt: torch.Tensor, outputs):
    """Prompt ids `[B, L]` before the new ids of `outputs`, a tensor or a `ModelOutput`."""
    new = outputs if isinstance(outputs, torch.Tensor) else outputs.sequences
    prompt = prompt.to(new.device).repeat_interleave(len(new) // len(prompt), dim=0)
    if isinstance(outputs, torch.Tensor):
        return torch.cat([prompt, new], dim=1)
    outputs.sequences = torch.cat([prompt, new], dim=1)
    return outputs
