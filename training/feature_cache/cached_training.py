"""A run that reads a feature cache in place of its training clips' sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..data.build import BuiltData
from ..data.datasets import SpeechDataset
from ..losses.loss_table import loss_class
from ..routing.mixture_recipe import Mixture
from ..settings import PhaseSettings
from ..trained_parts import set_trained_parts
from .cached_dataset import CachedFeatures
from .identity import encoder_identity, refuse_uncacheable


def with_features(
    data: BuiltData, folder: Path | str, model, processor, phases: Sequence[PhaseSettings]
) -> BuiltData:
    """The data with the cache in `folder` as its training set; what can't be trained so is a `ValueError`."""
    if not isinstance(data.train, SpeechDataset):
        raise ValueError("data.features is for data that is held in full: a stream has no feature cache")
    for phase in phases:
        # Now, and not when hours of the phases before have passed.
        set_trained_parts(model, phase.train)
        try:
            refuse_uncacheable(model)
            if loss_class(phase.loss)[0] is Mixture:
                raise ValueError(
                    "loss mixture asks the router, which reads layers that no feature cache holds"
                )
        except ValueError as error:
            raise ValueError(f"data.features with phase {phase.name!r}: {error}") from error
    identity = encoder_identity(model, processor)
    cached = CachedFeatures(folder, data.train.utterances, identity, "train", data.train.mixture)
    return replace(data, train=cached)
