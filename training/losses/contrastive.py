"""InfoNCE of clips and transcripts: the adapter's mean output finds the mean of its text's embeddings."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .objective import Objective, share_of_step, target_rows

# A temperature may not sink below this: beyond it gradients of a batch are those of its hardest pair alone.
LOWEST_TEMPERATURE = 0.01


class Contrastive(Objective):
    """Cosine similarities over a learned temperature; every other text of the batch is a wrong answer."""

    aligns_bridge = True

    @dataclass(frozen=True)
    class Options:
        """`temperature`: where the learned one begins. `symmetric`: texts also look for their clips."""

        temperature: float = 0.07
        symmetric: bool = True

    def __init__(self, model, processor, options, label_smoothing=0.0):
        super().__init__(model, processor, options, label_smoothing)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(self.options.temperature)))

    def forward(self, labels, num_items_in_batch=None, **batch) -> dict[str, Tensor]:
        """`{"loss"}` of a batch of pairs."""
        speech, counts, auxiliary = self.bridge_speech(batch)
        texts = target_rows(labels, self.model.config.end_token_id)
        clips = torch.stack([part.mean(0) for part in speech.split(counts.tolist())])
        embed = self.model.get_input_embeddings()
        # A silent clip has no text to be like.
        spoken = torch.tensor([len(text) > 0 for text in texts], device=clips.device)
        means = torch.stack([embed(text).float().mean(0) if len(text) else clips[0] * 0 for text in texts])
        same = torch.tensor([[a.equal(b) for b in texts] for a in texts], device=clips.device)
        loss = self.pair_loss(clips[spoken], means[spoken], same[spoken][:, spoken])
        loss = loss if auxiliary is None else loss + auxiliary
        return {"loss": loss * share_of_step(labels, num_items_in_batch)}

    def pair_loss(self, clips: Tensor, texts: Tensor, same: Tensor) -> Tensor:
        """Clips `[B, H]` and texts `[B, H]`, row by row a pair; `same` `[B, B]` marks equal texts."""
        if not len(clips):
            return (self.log_scale * 0).sum()
        scale = self.log_scale.clamp(max=-math.log(LOWEST_TEMPERATURE)).exp()
        logits = F.normalize(clips, dim=-1) @ F.normalize(texts, dim=-1).T * scale
        own = torch.eye(len(clips), dtype=torch.bool, device=clips.device)
        # The same sentence from another clip is no wrong answer.
        logits = logits.masked_fill(same & ~own, -torch.inf)
        answers = torch.arange(len(clips), device=clips.device)
        forth = F.cross_entropy(logits, answers)
        return (forth + F.cross_entropy(logits.T, answers)) / 2 if self.options.symmetric else forth
