"""Cross-entropy of the language router: which adapter of the bank a clip wants."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from speechllm.modeling.encoder_pass import EncoderPass
from speechllm.modeling.length_masks import input_lengths
from torch import Tensor
from torch.nn import functional as F

from ..collator import bank_languages
from .objective import Objective, share_of_step


class Routing(Objective):
    """Trains the router alone; no decoder runs. The right answer is the adapter of the clip's language."""

    @dataclass(frozen=True)
    class Options:
        """None."""

    def __init__(self, model, processor, options, label_smoothing=0.0):
        super().__init__(model, processor, options, label_smoothing)
        if getattr(model.config, "router_config", None) is None:
            raise ValueError(
                "loss routing trains a router, which this model has not: set model.router_config"
            )
        labels = model.config.router_config.labels
        # Labels are called as adapters or as their languages.
        self.places = [
            labels.index(name if name in labels else language)
            for name, language in bank_languages(model.config).items()
            if name in labels or language in labels
        ]
        if len(self.places) != len(bank_languages(model.config)):
            raise ValueError(
                f"the router's labels {labels} lack adapters of the bank, which routing trains on"
            )

    def forward(self, labels, routing_weights, num_items_in_batch=None, **batch) -> dict[str, Tensor]:
        """`{"loss"}`: a mean over clips, whose adapters `routing_weights` `[B, N]` name."""
        logits = self.logits(batch["input_features"], batch.get("input_features_mask"))
        places = torch.tensor(self.places, device=logits.device)
        wanted = places[routing_weights.argmax(-1).to(logits.device)]
        smoothing = self.label_smoothing if self.training else 0.0
        loss = F.cross_entropy(logits.float(), wanted, label_smoothing=smoothing)
        return {"loss": loss * share_of_step(labels, num_items_in_batch)}

    def logits(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """`[B, labels]`, from the states that the router will read when it routes."""
        body = self.model.speech_model
        config, padded = body.config.router_config, body.config.encoder_padding == "max_length"
        body.bank.use(None)
        run = EncoderPass(
            body, features, input_lengths(body.config, features, mask), pad_to_maximum=padded, cut=not padded
        )
        whole = config.layer is None
        with torch.no_grad():
            heard = [(slice(None), run.finish())] if whole else list(run.rest_at(config.layer))
        return torch.cat([body.router(states, run.frames[rows]) for rows, states in heard])
