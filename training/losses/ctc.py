"""CTC of the adapter's output, with the decoder's own embedding table as its classifier: no decoder runs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .objective import Objective, share_of_step, target_rows


class CTC(Objective):
    """Cosine logits with a learned scale over the corpus's tokens and a learned blank."""

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

    def see_corpus(self, texts: Iterable[str]) -> None:
        """Restrict the classes to the tokens that occur: a tenth of the vocabulary is a tenth of the work."""
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
        """`{"loss"}`: a mean over target tokens, as that of cross-entropy."""
        log_probabilities, counts, auxiliary = self.classified(batch)
        targets = [self.classes_of(row) for row in target_rows(labels, self.model.config.end_token_id)]
        loss = F.ctc_loss(
            log_probabilities.transpose(0, 1),
            torch.cat(targets),
            counts,
            torch.tensor([len(row) for row in targets], device=counts.device),
            reduction="sum",
            # A text of more tokens than its clip has speech tokens can't be written at all.
            zero_infinity=True,
        )
        loss = loss / ((labels != -100).sum() if num_items_in_batch is None else num_items_in_batch)
        if auxiliary is not None:
            loss = loss + auxiliary * share_of_step(labels, num_items_in_batch)
        return {"loss": loss}

    def classified(self, batch: dict[str, Tensor]):
        """`(log probabilities [B, T, 1 + tokens], speech tokens of each row [B], auxiliary loss)`."""
        speech, counts, auxiliary = self.bridge_speech(batch)
        rows = nn.utils.rnn.pad_sequence(list(speech.split(counts.tolist())), batch_first=True)
        table = self.model.get_input_embeddings().weight[self.tokens].float()
        classes = F.normalize(torch.cat([self.blank[None], table]), dim=-1)
        logits = F.normalize(rows, dim=-1) @ classes.T * self.log_scale.exp()
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
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
