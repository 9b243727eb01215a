"""CTC of the adapter's output, with the decoder's own embedding table as its classifier: no decoder runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .objective import Objective, share_of_step, target_rows

FRAMES_AT_ONCE = 512


class CTC(Objective):
    """Cosine logits with a learned scale over the corpus's tokens and a learned blank."""

    aligns_bridge = True
    tokens: Tensor

    @dataclass(frozen=True)
    class Options:
        """`scale`: where the learned one begins."""

        scale: float = 20.0

    def __init__(self, model, processor, options, label_smoothing=0.0):
        super().__init__(model, processor, options, label_smoothing)
        width = model.get_input_embeddings().weight.shape[-1]
        self.log_scale = nn.Parameter(torch.tensor(math.log(self.options.scale)))
        self.blank = nn.Parameter(torch.randn(width))
        self.register_buffer("tokens", torch.zeros(0, dtype=torch.long))

    def see_corpus(self, texts: Iterable[str] | None) -> None:
        """Restrict the classes to the tokens that occur: a tenth of the vocabulary is a tenth of the work."""
        if texts is None:
            # Nobody knows what a stream will say, and a token that is no class would be missing in its text.
            rows = len(self.model.get_input_embeddings().weight)
            count = min(len(self.processor.tokenizer), rows)
            self.tokens = torch.arange(count, device=self.blank.device)
            return
        found: set[int] = set()
        for text in texts:
            found.update(self.processor.tokenizer(text, add_special_tokens=False).input_ids)
        if not found:
            raise ValueError("loss ctc has no text to take its tokens from: the training data has none")
        self.tokens = torch.tensor(sorted(found), device=self.blank.device)

    def load_own_state(self, tensors: dict[str, Tensor]) -> None:
        """As in the base; the tokens may be more or fewer than those of this corpus."""
        self.tokens = tensors.pop("tokens").to(self.blank.device)
        super().load_own_state(tensors)

    def forward(self, labels, num_items_in_batch=None, **batch) -> dict[str, Tensor]:
        """`{"loss"}`: a mean over target tokens, as that of cross-entropy.

        A clip's paths pass through the blank and its own tokens alone, so that log probabilities are made of
        these; all other classes are only in the sum that normalizes them.
        """
        speech, counts, auxiliary = self.bridge_speech(batch)
        frames = F.normalize(speech, dim=-1)
        rows = [self.classes_of(row) for row in target_rows(labels, self.model.config.end_token_id)]
        lengths = torch.tensor([len(row) for row in rows], device=counts.device)
        # One column more, for a batch without any text.
        targets = F.pad(padded(rows), (0, 1))
        log_probabilities = self.target_probabilities(frames, counts, targets)
        loss = ctc_of_targets(log_probabilities, counts, targets, lengths)
        loss = loss / ((labels != -100).sum() if num_items_in_batch is None else num_items_in_batch)
        if auxiliary is not None:
            loss = loss + auxiliary * share_of_step(labels, num_items_in_batch)
        return {"loss": loss}

    def target_probabilities(self, frames: Tensor, counts: Tensor, targets: Tensor) -> Tensor:
        """Log probabilities of the blank and of each row's targets `[B, S]`: `[B, T, 1 + S]`.

        `frames` `[sum of counts, H]` are of length 1.
        """
        blank, table = F.normalize(self.blank, dim=-1), self.table()
        # Never all logits at once: a step's would be gigabytes.
        sums = [
            LogSum.apply(chunk, blank, table, self.log_scale.exp()) for chunk in frames.split(FRAMES_AT_ONCE)
        ]
        rows, normalizers = (padded(whole.split(counts.tolist())) for whole in (frames, torch.cat(sums)))
        own = table[(targets - 1).clamp(min=0)]
        candidates = torch.cat([blank.expand(len(own), 1, -1), own], dim=1)
        with torch.autocast(frames.device.type, enabled=False):
            logits = rows @ candidates.transpose(1, 2) * self.log_scale.exp()
        return logits - normalizers[..., None]

    def table(self) -> Tensor:
        """The classes' embeddings, of length 1, without the blank's: `[tokens, H]`."""
        return F.normalize(self.model.get_input_embeddings().weight[self.tokens].float(), dim=-1)

    def classified(self, batch: dict[str, Tensor]):
        """`(log probabilities [B, T, 1 + tokens], speech tokens of each row [B], auxiliary loss)`."""
        speech, counts, auxiliary = self.bridge_speech(batch)
        rows = padded(F.normalize(speech, dim=-1).split(counts.tolist()))
        classes = torch.cat([F.normalize(self.blank, dim=-1)[None], self.table()])
        logits = rows @ classes.T * self.log_scale.exp()
        return logits.float().log_softmax(-1), counts, auxiliary

    def classes_of(self, ids: Tensor) -> Tensor:
        """Class numbers of token ids, 0 being the blank; a token that is none of the classes is left out."""
        place = torch.searchsorted(self.tokens, ids).clamp(max=len(self.tokens) - 1)
        return place[self.tokens[place] == ids] + 1

    @torch.no_grad()
    def predict(self, batch: dict[str, Tensor], **generation) -> Tensor:
        """The best path of every row, `[B, N]`, -100 behind its end: what the adapter alone has heard."""
        log_probabilities, counts, _ = self.classified(batch)
        rows = []
        for row, count in zip(log_probabilities.argmax(-1), counts.tolist(), strict=True):
            classes = torch.unique_consecutive(row[:count])
            rows.append(self.tokens[classes[classes > 0] - 1])
        return padded(rows, -100)


def padded(rows: Sequence[Tensor], value: int = 0) -> Tensor:
    """`[B, longest, ...]`."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)


class LogSum(torch.autograd.Function):
    """The log of the sum of the exponents of all classes' logits: `[N, H]` -> `[N]`.

    Its gradient is the mean of the classes, each as likely as it is. That is taken on the way forward, while
    the logits are at hand: they are many, and would have to be kept or computed again.
    """

    @staticmethod
    def forward(ctx, frames: Tensor, blank: Tensor, table: Tensor, scale: Tensor) -> Tensor:
        tokens, blanks = (frames @ table.T).float() * scale, (frames @ blank).float() * scale
        total = torch.logaddexp(tokens.logsumexp(-1), blanks)
        shares, blank_shares = (tokens - total[:, None]).exp_(), (blanks - total).exp_()
        mean = (shares.to(table.dtype) @ table).float() + blank_shares[:, None] * blank
        ctx.save_for_backward(
            frames, table, scale, mean, blank_shares, shares if table.requires_grad else None
        )
        return total

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        frames, table, scale, mean, blank_shares, shares = ctx.saved_tensors
        gradient = gradients[0] * scale
        of_table = None if shares is None else (shares * gradient[:, None]).T @ frames
        return (
            gradient[:, None] * mean,
            (gradient * blank_shares) @ frames,
            of_table,
            (gradients[0] * (frames * mean).sum(-1)).sum(),
        )


def ctc_of_targets(log_probabilities: Tensor, counts: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
    """The sum of the rows' CTC losses from the log probabilities of the blank and their targets alone.

    `log_probabilities` `[B, T, 1 + S]`, `targets` `[B, S]`; a text of more tokens than its clip has speech
    tokens can't be written at all, and costs nothing.
    """
    # A token that comes twice has one class, or there would be no blank wanted between two in a row.
    places = (targets[:, :, None] == targets[:, None, :]).int().argmax(-1) + 1
    losses = F.ctc_loss(
        log_probabilities.transpose(0, 1), places, counts, lengths, reduction="none", zero_infinity=True
    )
    # Its gradient takes for granted that the classes add up to 1: a part of it, which a softmax over all of
    # them would cancel, is taken out here.
    frames = torch.arange(log_probabilities.shape[1], device=counts.device) < counts[:, None]
    counted = (frames & (losses > 0)[:, None])[..., None]
    surplus = torch.where(counted, log_probabilities, -torch.inf).exp().sum()
    return losses.sum() - surplus + surplus.detach()
