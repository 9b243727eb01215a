"""What every loss shares: the model inside, options that are checked, and its place in a larger batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from speechllm.configuration.configuration_strict import refuse_unknown
from torch import Tensor, nn


class Objective(nn.Module):
    """A model with the loss it is trained by: `objective(**batch)["loss"]`.

    It is a module around the model, so that parameters of the loss itself (a temperature, a blank) are
    trained, synchronized and saved like the model's, and the model stays as it was.
    """

    # The trainer passes `num_items_in_batch`: target tokens of all micro-batches and processes of a step.
    accepts_loss_kwargs = True
    Options: ClassVar[type]
    # Whether it aligns an adapter's output with the embeddings of a language model.
    aligns_bridge: ClassVar[bool] = False
    # Ids of what is heard, `predict(batch, **generation) -> [B, N]`; without it evaluations count no errors.
    predict: ClassVar[Callable[..., Tensor] | None] = None

    def __init__(self, model, processor, options: dict[str, Any], label_smoothing: float = 0.0):
        super().__init__()
        self.model: Any = model
        self.processor = processor
        self.label_smoothing = label_smoothing
        kind = type(self)
        if kind.aligns_bridge and getattr(model.config, "is_encoder_decoder", False):
            raise ValueError(
                f"loss {kind.__name__} aligns a bridge with a language model's embeddings; adapter "
                f"{model.config.adapter_config.model_type!r} has none: use cross_entropy"
            )
        names = [item.name for item in dataclasses.fields(kind.Options)]
        refuse_unknown(f"loss {kind.__name__}", options, names)
        self.options = kind.Options(**options)

    def check_trained(self, parts: Iterable[str]) -> None:
        """Raise `ValueError` where this loss cannot train one of the parts of a phase."""

    def see_corpus(self, texts: Iterable[str] | None) -> None:
        """Look at the texts that will be trained and judged on, before the first step; `None`: unknown."""

    def own_state(self) -> dict[str, Tensor]:
        """The loss's own parameters and buffers."""
        return {name: t for name, t in self.state_dict().items() if not name.startswith("model.")}

    def load_own_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `own_state` gave."""
        self.load_state_dict(tensors, strict=False)

    def bridge_speech(self, batch: dict[str, Tensor]):
        """`(speech tokens of all rows, one after the other [sum, H]; their counts [B]; auxiliary loss)`."""
        names = ("input_features", "input_features_mask", "encoder_states", "feature_lengths")
        speech = self.model.model.encode_speech(*(batch.get(name) for name in names))
        return speech.pooler_output.float(), speech.lengths, speech.auxiliary_loss


def target_rows(labels: Tensor, end_token_id: int) -> list[Tensor]:
    """Each row's target tokens, without the end token that closes it."""
    rows = [row[row != -100] for row in labels]
    return [row[:-1] if len(row) and int(row[-1]) == end_token_id else row for row in rows]


def share_of_step(labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor | float:
    """This micro-batch's share of a step's target tokens; 1 where it is all there is.

    The trainer adds up what micro-batches and processes return: a mean has to come in with its share.
    """
    if num_items_in_batch is None:
        return 1.0
    return (labels != -100).sum() / torch.as_tensor(num_items_in_batch, device=labels.device)
