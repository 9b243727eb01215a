"""What is wrong with any phase is said before the first step, not after hours of the phases before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .arguments import training_arguments
from .losses.loss_table import loss_class
from .trained_parts import check_rates, part_names

if TYPE_CHECKING:
    from .phases import Workshop
    from .settings import PhaseSettings


def check_phase(shop: Workshop, phase: PhaseSettings, number: int) -> None:
    """Raise `ValueError` for a loss, parts, rates or an optimizer that do not go with this model."""
    settings = phase.trainer
    parts = {part: part_names(shop.model, part) for part in phase.train}
    check_rates(settings.learning_rates or {}, parts)
    kind, options = loss_class(phase.loss)
    kind(shop.model, shop.processor, options, settings.label_smoothing).check_trained(phase.train)
    folder = shop.folder / f"phase-{number}-{phase.name}"
    training_arguments(settings, folder, 0, shop.precision, phase.name, False, shop.on_cpu, False)
