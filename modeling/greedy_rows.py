"""Greedy decoding in which a finished row costs nothing more.

The stock loop computes every row until the last one ends. Clips of a batch differ several times in length, so
most of that is work on padding; here a row leaves the batch, and the cache, when it ends.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import ModelOutput


@dataclass
class SpeechGenerateOutput(ModelOutput):
    """What decoding gives. `sequences` `[B, N]`: new tokens; `token_logprobs` `[B, N]`: 0 past each end.

    `looped` `[B]`: cut short because the row repeated itself; `exhausted` `[B]`: ended by its token budget.
    """

    sequences: torch.Tensor | None = None
    token_logprobs: torch.Tensor | None = None
    looped: torch.Tensor | None = None
    exhausted: torch.Tensor | None = None


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


def decode_greedy_rows(
    model,
    input_ids,
    logits_processor,
    stopping_criteria,
    generation_config,
    token_budgets=None,
    stop_loops=True,
    **model_kwargs,
):  # fmt: skip
    """A decoding loop for `generate(custom_generate=...)`. Ids `[B, N]`, padded behind each row's end.

    `token_budgets` `[B]` bounds each row by itself; `stop_loops` cuts rows that repeat themselves.
    """
    loop = _GreedyRows(model, input_ids, generation_config, token_budgets, model_kwargs)
    loop.logits_processor, loop.stopping_criteria = logits_processor, stopping_criteria
    loop.stop_loops = stop_loops
    while loop.rows.numel():
        loop.step()
    return loop.result(generation_config.return_dict_in_generate)


class _GreedyRows:
    """State of one call: which rows run, what they wrote, their cache."""

    def __init__(self, model, input_ids, generation_config, token_budgets, model_kwargs):
        batch = len(model_kwargs["inputs_embeds"])
        device = model_kwargs["inputs_embeds"].device
        self.model = model
        self.embeds = model_kwargs["inputs_embeds"]
        # `generate` leaves the mask out when nothing is padded: attention is faster without.
        self.mask = model_kwargs.get("attention_mask")
        self.cache = model_kwargs["past_key_values"]
        self.rows = torch.arange(batch, device=device)
        self.batch = batch
        self.limit = generation_config.max_length - input_ids.shape[1]
        self.budgets = torch.full((batch,), self.limit, device=device)
        if token_budgets is not None:
            self.budgets = self.budgets.minimum(token_budgets)
        eos = generation_config._eos_token_tensor
        self.eos = eos.to(device) if eos is not None else torch.empty(0, dtype=torch.long, device=device)
        pad = generation_config._pad_token_tensor
        self.pad = int(pad) if pad is not None else 0
        self.ids = torch.full((batch, self.limit), self.pad, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(batch, self.limit, device=device)
        self.looped = torch.zeros(batch, dtype=torch.bool, device=device)
        self.exhausted = torch.zeros(batch, dtype=torch.bool, device=device)
        self.stop_loops = True
        self.logits_processor: Any = []
        self.stopping_criteria: Any = None
        self.written = 0

    def step(self) -> None:
        """One token for every running row; those it ends leave."""
        logits = self._forward()
        tokens = self._processed(logits).argmax(-1)
        self.ids[self.rows, self.written] = tokens
        chosen = logits.gather(1, tokens[:, None])[:, 0]
        self.logprobs[self.rows, self.written] = chosen - logits.logsumexp(-1)
        self.written += 1
        ended = torch.isin(tokens, self.eos)
        spent = self.written >= self.budgets[self.rows]
        self.exhausted[self.rows] = spent & ~ended
        done = ended | spent
        done |= self.stopping_criteria(self.ids[:, : self.written], None).to(done.device)[self.rows]
        if self.stop_loops and self.written % LOOP_CHECK_INTERVAL == 0:
            done |= self._cut_loops()
        self._leave(done, tokens)

    def _processed(self, logits: torch.Tensor) -> torch.Tensor:
        """Scores `[rows, V]` after the logits processors.

        A processor may tell rows apart by their place in the batch, so it always sees all of them.
        """
        if not self.logits_processor:
            return logits
        scores = logits.new_zeros(self.batch, logits.shape[-1])
        scores[self.rows] = logits
        return self.logits_processor(self.ids[:, : self.written], scores)[self.rows]

    def _forward(self) -> torch.Tensor:
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
        return torch.arange(past, past + new, device=self.embeds.device).expand(len(self.rows), -1)

    def _cut_loops(self) -> torch.Tensor:
        """Mark running rows that loop, and keep one round of what they repeat, `[rows]`."""
        periods = LoopDetector()(self.ids[self.rows, : self.written])
        for place in (periods > 0).nonzero()[:, 0].tolist():
            row, period = self.rows[place], int(periods[place])
            written = self.ids[row, : self.written]
            # The loop goes back to where a token last differed from the one a period before it.
            differs = (written[period:] != written[:-period]).nonzero()
            begin = int(differs[-1]) + 1 if len(differs) else 0
            self.ids[row, begin + period : self.written] = self.pad
            self.logprobs[row, begin + period : self.written] = 0.0
            self.looped[row] = True
        return periods > 0

    def _leave(self, done: torch.Tensor, tokens: torch.Tensor) -> None:
        """Go on with the rows that are not done."""
        running = (~done).nonzero()[:, 0]
        if len(running) < len(self.rows):
            self.rows, tokens = self.rows[running], tokens[running]
            self.mask = self.mask[running] if self.mask is not None else None
            if len(running):
                # Meant for beams; unlike `batch_select_indices`, every kind of cache layer has it.
                self.cache.reorder_cache(running)
        if self.mask is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.rows), 1)], dim=1)
        self.embeds = self.model.get_input_embeddings()(tokens)[:, None]

    def result(self, as_dict: bool):
        """What `generate` returns."""
        ids = self.ids[:, : self.written]
        if not as_dict:
            return ids
        return SpeechGenerateOutput(
            sequences=ids,
            token_logprobs=self.logprobs[:, : self.written],
            looped=self.looped,
            exhausted=self.exhausted,
        )
