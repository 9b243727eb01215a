"""Greedy decoding in which finished rows cost nothing more.

The stock loop computes every row until the last one ends. Clips of a batch differ several times in length, so
most of that is work on padding; here rows leave the batch, and the cache, when they have ended.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers.utils import ModelOutput


@dataclass
class SpeechGenerateOutput(ModelOutput):
    """What decoding gives. `sequences` `[B, N]`: new tokens; `token_logprobs` `[B, N]`: 0 past each end.

    `looped` `[B]`: cut short because the row repeated itself; `exhausted` `[B]`: ended by its token budget.
    `language`: of each clip, where the model was told or found one; `language_scores`: the router's.
    `token_times` `[B, N, 2]`: start and end of each token in seconds, where an encoder-decoder was asked.
    """

    sequences: torch.Tensor | None = None
    token_logprobs: torch.Tensor | None = None
    looped: torch.Tensor | None = None
    exhausted: torch.Tensor | None = None
    language: list | None = None
    language_scores: list | None = None
    token_times: torch.Tensor | None = None


class LoopDetector:
    """Finds rows whose last tokens are one short pattern over and over.

    A pattern of p tokens counts once it fills max(12, 4 p) tokens: 12 times the same token, 4 times the
    same phrase. Counted by hand, "no, no, no, no" and telephone numbers stay below it.
    """

    MAX_PERIOD = 16

    def span(self, period: int) -> int:
        """How many tokens of a pattern of `period` make a loop."""
        return max(12, 4 * period)

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids `[B, N]` of equally long rows -> period of the loop at each row's end, 0 for none, `[B]`."""
        found = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        for period in range(self.MAX_PERIOD, 0, -1):
            span = self.span(period)
            if ids.shape[1] >= span:
                tail = ids[:, -span:]
                found[(tail[:, period:] == tail[:, :-period]).all(1)] = period
        return found


# Looking for loops costs some 20 small kernels: every 8th token is often enough.
LOOP_CHECK_INTERVAL = 8
# Taking rows out of the cache copies what stays: it waits until so large a share has ended.
SHARE_TO_LEAVE = 0.125


class Steps(Protocol):
    """A model on its way through a batch of texts, one token at a time."""

    batch: int
    device: torch.device

    def logits(self) -> torch.Tensor:
        """Of the next token, `[rows, V]`."""

    def append(self, tokens: torch.Tensor) -> None:
        """Go on with `tokens` `[rows]`."""

    def keep(self, places: torch.Tensor) -> None:
        """Forget all rows but those at `places`."""


def decode_greedy_rows(
    model,
    input_ids,
    logits_processor,
    stopping_criteria,
    generation_config,
    token_budgets=None,
    stop_loops=True,
    rows_kept: Callable[[torch.Tensor], None] | None = None,
    never: torch.Tensor | None = None,
    never_first: torch.Tensor | None = None,
    **model_kwargs,
):  # fmt: skip
    """A decoding loop for `generate(custom_generate=...)`. New ids `[B, N]`, padded behind each row's end.

    `token_budgets` `[B]` bounds each row by itself; `stop_loops` cuts rows that repeat themselves;
    `rows_kept` is told which places of the batch go on whenever others leave it; `never` and `never_first`
    are ids that are not said, at all or as a row's first.
    """
    loop = _GreedyRows(
        model.greedy_steps(input_ids, model_kwargs), input_ids, generation_config, token_budgets
    )
    loop.logits_processor, loop.stopping_criteria = logits_processor, stopping_criteria
    loop.stop_loops, loop.rows_kept = stop_loops, rows_kept
    loop.never, loop.never_first = never, never_first
    while loop.alive.any():
        loop.step()
    return loop.result(generation_config.return_dict_in_generate)


class _GreedyRows:
    """State of one call: which rows are computed, which of them still write, what they wrote."""

    def __init__(self, steps: Steps, input_ids, generation_config, token_budgets):
        self.steps, self.batch, device = steps, steps.batch, steps.device
        self.prompt = input_ids.shape[1]
        self.rows = torch.arange(self.batch, device=device)
        self.alive = torch.ones(self.batch, dtype=torch.bool, device=device)
        limit = generation_config.max_length - self.prompt
        self.budgets = torch.full((self.batch,), limit, device=device)
        if token_budgets is not None:
            self.budgets = self.budgets.minimum(token_budgets)
        eos = generation_config._eos_token_tensor
        self.eos = eos.to(device) if eos is not None else torch.empty(0, dtype=torch.long, device=device)
        pad = generation_config._pad_token_tensor
        self.pad = int(pad) if pad is not None else 0
        size = self.prompt + limit
        self.ids = torch.full((self.batch, size), self.pad, dtype=torch.long, device=device)
        self.ids[:, : self.prompt] = input_ids
        self.logprobs = torch.zeros(self.batch, limit, device=device)
        self.looped = torch.zeros(self.batch, dtype=torch.bool, device=device)
        self.exhausted = torch.zeros(self.batch, dtype=torch.bool, device=device)
        self.stop_loops = True
        self.rows_kept: Callable[[torch.Tensor], None] | None = None
        self.never: torch.Tensor | None = None
        self.never_first: torch.Tensor | None = None
        self.logits_processor: Any = []
        self.stopping_criteria: Any = None
        self.written = 0

    @property
    def new_ids(self) -> torch.Tensor:
        """What was written so far, `[B, written]`."""
        return self.ids[:, self.prompt : self.prompt + self.written]

    def step(self) -> None:
        """One token for every row that still writes; those it ends leave, sooner or later."""
        logits = self.steps.logits()
        # In place, where the stock processors build masks over the whole vocabulary at every step.
        for ids in (self.never, self.never_first if self.written == 0 else None):
            if ids is not None:
                logits.index_fill_(1, ids, -torch.inf)
        tokens = self._processed(logits).argmax(-1)
        writing = self.rows[self.alive]
        self.ids[writing, self.prompt + self.written] = tokens[self.alive]
        chosen = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
        self.logprobs[writing, self.written] = chosen[self.alive]
        self.written += 1
        ended = torch.isin(tokens, self.eos)
        spent = self.written >= self.budgets[self.rows]
        self.exhausted[writing] = (spent & ~ended)[self.alive]
        done = ended | spent
        asked = self.stopping_criteria(self.ids[:, : self.prompt + self.written], None)
        done |= asked.to(done.device)[self.rows]
        if self.stop_loops and self.written % LOOP_CHECK_INTERVAL == 0:
            done |= self._cut_loops()
        self.alive &= ~done
        self._leave(tokens)

    def _processed(self, logits: torch.Tensor) -> torch.Tensor:
        """Scores `[rows, V]` after the logits processors.

        A processor may tell rows apart by their place in the batch, so it always sees all of them.
        """
        if not self.logits_processor:
            return logits
        scores = logits.new_zeros(self.batch, logits.shape[-1])
        scores[self.rows] = logits
        return self.logits_processor(self.ids[:, : self.prompt + self.written], scores)[self.rows]

    def _cut_loops(self) -> torch.Tensor:
        """Mark rows that loop, and keep one round of what they repeat, `[rows]`."""
        periods = LoopDetector()(self.new_ids[self.rows]) * self.alive
        for place in (periods > 0).nonzero()[:, 0].tolist():
            row, period = self.rows[place], int(periods[place])
            written = self.new_ids[row]
            # The loop goes back to where a token last differed from the one a period before it.
            differs = (written[period:] != written[:-period]).nonzero()
            begin = int(differs[-1]) + 1 if len(differs) else 0
            written[begin + period :] = self.pad
            self.logprobs[row, begin + period : self.written] = 0.0
            self.looped[row] = True
        return periods > 0

    def _leave(self, tokens: torch.Tensor) -> None:
        """Go on, without the rows that have ended once there are enough of them."""
        ended = len(self.rows) - int(self.alive.sum())
        if 0 < ended < len(self.rows) and ended >= SHARE_TO_LEAVE * len(self.rows):
            places = self.alive.nonzero()[:, 0]
            self.rows, tokens, self.alive = self.rows[places], tokens[places], self.alive[places]
            self.steps.keep(places)
            if self.rows_kept is not None:
                self.rows_kept(places)
        self.steps.append(tokens)

    def result(self, as_dict: bool):
        """What `generate` returns."""
        ids = self.new_ids
        if not as_dict:
            return ids
        return SpeechGenerateOutput(
            sequences=ids,
            token_logprobs=self.logprobs[:, : self.written],
            looped=self.looped,
            exhausted=self.exhausted,
        )


class PromptSteps:
    """A bridge: embeddings `[rows, L, H]` go in, at first those of the whole prompt."""

    def __init__(self, model, model_kwargs: dict):
        self.model = model
        self.embeds = model_kwargs["inputs_embeds"]
        # `generate` leaves the mask out when nothing is padded: attention is faster without.
        self.mask = model_kwargs.get("attention_mask")
        self.cache = model_kwargs["past_key_values"]
        self.batch, self.device = len(self.embeds), self.embeds.device

    def logits(self) -> torch.Tensor:
        """Logits `[rows, V]`, float32, of the running rows' next token."""
        # As a tensor, not as 1: the slice that stock heads take of the prompt is not contiguous, for which
        # torch copies the whole head once a row (three quarters of the prompt's time with SmolLM2, 32 rows).
        last = torch.tensor([-1], device=self.embeds.device)
        outputs = self.model(
            inputs_embeds=self.embeds,
            attention_mask=self.mask,
            position_ids=self._positions(),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=last,
        )
        self.cache = outputs.past_key_values
        return outputs.logits[:, -1].float()

    def _positions(self) -> torch.Tensor:
        """Positions `[rows, new]` of the tokens that go in, counted from each row's first real one."""
        new = self.embeds.shape[1]
        if self.mask is not None:
            return (self.mask.cumsum(-1) - 1).clamp(min=0)[:, -new:]
        past = self.cache.get_seq_length()
        return torch.arange(past, past + new, device=self.embeds.device).expand(len(self.embeds), -1)

    def append(self, tokens: torch.Tensor) -> None:
        if self.mask is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        self.embeds = self.model.get_input_embeddings()(tokens)[:, None]

    def keep(self, places: torch.Tensor) -> None:
        self.mask = self.mask[places] if self.mask is not None else None
        # Meant for beams; unlike `batch_select_indices`, every kind of cache layer has it.
        self.cache.reorder_cache(places)


class SpeechSteps:
    """An encoder-decoder: ids `[rows, L]` go in, at first those of the whole prompt."""

    def __init__(self, model, input_ids: torch.Tensor, model_kwargs: dict):
        self.model = model
        self.ids = input_ids
        self.mask = model_kwargs.get("decoder_attention_mask")
        self.states = model_kwargs["encoder_outputs"][0]
        self.speech_mask = model_kwargs.get("encoder_attention_mask")
        self.cache = model_kwargs["past_key_values"]
        self.batch, self.device = len(self.ids), self.ids.device

    def logits(self) -> torch.Tensor:
        """Logits `[rows, V]`, float32, of the running rows' next token."""
        positions = None
        if self.mask is not None:
            positions = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, -self.ids.shape[1] :]
        outputs = self.model(
            decoder_input_ids=self.ids,
            decoder_attention_mask=self.mask,
            decoder_position_ids=positions,
            encoder_outputs=(self.states,),
            encoder_attention_mask=self.speech_mask,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
            token_steps=True,
        )
        self.cache = outputs.past_key_values
        return outputs.logits[:, -1].float()

    def append(self, tokens: torch.Tensor) -> None:
        if self.mask is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        self.ids = tokens[:, None]

    def keep(self, places: torch.Tensor) -> None:
        self.mask = self.mask[places] if self.mask is not None else None
        self.speech_mask = self.speech_mask[places] if self.speech_mask is not None else None
        self.states = self.states[places]
        self.cache.reorder_cache(places)
