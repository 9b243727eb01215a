"""Cross-entropy of the target text, through the decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .objective import Objective, share_of_step


class CrossEntropy(Objective):
    """The model's own loss, optionally with label smoothing, which the stock trainer gets wrong here."""

    @dataclass(frozen=True)
    class Options:
        """`corruption`: the share of the text's tokens that a language model reads wrong in training."""

        corruption: float = 0.0

    def __init__(self, model, processor, options, label_smoothing=0.0):
        super().__init__(model, processor, options, label_smoothing)
        share = self.options.corruption
        if not 0 <= share < 1:
            raise ValueError(f"corruption is a share of tokens from 0 to below 1, not {share}")
        if share and getattr(model.config, "is_encoder_decoder", False):
            raise ValueError("corruption is for bridges into a language model; leave it out")

    def forward(self, labels, num_items_in_batch=None, **batch) -> dict[str, Tensor]:
        """`{"loss"}`: a mean over target tokens, over all of the step's where their number is given."""
        kept = self.scored_positions(labels)
        if kept is not None:
            batch["logits_to_keep"] = kept
            batch["input_ids"] = self.misread(batch["input_ids"], labels)
        outputs = self.model(**batch, labels=labels, use_cache=False)
        loss = outputs.loss
        if self.label_smoothing and self.training:
            logits, targets = self.aligned(outputs.logits, labels if kept is None else labels[:, kept])
            loss = loss + smoothing_excess(logits, targets, self.label_smoothing)
        # The model's own mean, and with it what an adapter adds to it, counts by its share of the tokens.
        return {"loss": loss * share_of_step(labels, num_items_in_batch)}

    def misread(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Ids `[B, L]` with some of the text's replaced by others of the batch.

        A language model that may trust every word so far foretells the next one without listening, and once
        it writes a wrong one, it goes on from there.
        """
        if not self.options.corruption or not self.training:
            return ids
        text = (labels != -100) & (labels != self.model.config.end_token_id)
        wrong = text & (torch.rand(labels.shape, device=labels.device) < self.options.corruption)
        others = labels[text]
        drawn = torch.randint(len(others), (int(wrong.sum()),), device=labels.device)
        return ids.masked_scatter(wrong, others[drawn])

    def scored_positions(self, labels: Tensor) -> Tensor | None:
        """The positions of a bridge that need logits: of prompt, speech and target the last. `None`: all."""
        if getattr(self.model.config, "is_encoder_decoder", False):
            return None
        first = int((labels != -100).any(0).to(torch.int8).argmax())
        # The state before a token is the one that foretells it.
        return torch.arange(max(first - 1, 0), labels.shape[1], device=labels.device)

    def aligned(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[N, V]` and the targets `[N]` they are about, of positions that are scored."""
        if getattr(self.model.config, "is_encoder_decoder", False):
            logits, targets = logits[:, -labels.shape[1] :], labels
        else:
            # A causal model's state at a position speaks about the next one.
            logits, targets = logits[:, :-1], labels[:, 1:]
        scored = targets != -100
        return logits[scored].float(), targets[scored]

    @torch.no_grad()
    def predict(self, batch: dict[str, Tensor], **generation) -> Tensor:
        """New ids `[B, N]` of real generation."""
        return self.model.generate(**batch, **generation)


def smoothing_excess(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """What label smoothing adds to the mean cross-entropy; `[N, V]` and `[N]`."""
    smoothed = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    return smoothed - F.cross_entropy(logits, targets)
