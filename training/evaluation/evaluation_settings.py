"""How an evaluation is run and scored."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .evaluation_sets import NoiseSweep
from .scoring import Normalisers

# What the results call all sets together.
ALL_SETS = "all sets"


@dataclass(frozen=True)
class EvaluationSettings:
    """How systems are run and scored."""

    normalisers: Normalisers = field(default_factory=Normalisers)
    resamples: int = 2000
    seed: int = 0
    # The system that others are compared with; None: the first.
    against: str | None = None
    # Clips whose latency is measured, each alone; 0: none.
    latency_clips: int = 0
    sweep: NoiseSweep | None = None
    # Where transcripts are kept and looked for; None: nowhere.
    folder: Path | None = None
    # Compute again what is there.
    fresh: bool = False
