"""Systems x sets -> transcripts, error rates with intervals, differences with significance, noise, speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from speechllm.training.augmentation.noise_sweep import CLEAN

from .bootstrap import Difference, paired_difference
from .evaluation_sets import Condition, EvaluationSet
from .evaluation_settings import ALL_SETS, EvaluationSettings
from .identification import Identification, identification
from .running import Run, first_clips
from .scoring import (
    JudgedClips,
    Score,
    errors_of,
    groups_by_language,
    groups_by_length,
    joined,
    judge_run,
    said_of,
    score,
)
from .system_runs import run_system, swept
from .systems import System, check_distinct, reference_of


@dataclass(frozen=True)
class Comparison:
    """A system against the reference, in all clips of a set or in one language."""

    system: str
    chosen: str
    group: str  # "" for all clips
    measure: str
    difference: Difference


@dataclass(frozen=True)
class SetResult:
    """One system on one set."""

    system: str
    chosen: str
    clips: JudgedClips
    run: Run | None  # None for all sets together
    score: Score
    by_language: Mapping[str, Score]
    by_length: Mapping[str, Score]
    identification: Identification | None


@dataclass(frozen=True)
class NoiseResult:
    """One system on one set under one noise; the clean ratio is there for every noise."""

    system: str
    chosen: str
    noise: str
    snr_db: float
    score: Score
    against: Difference | None


@dataclass(frozen=True)
class Evaluation:
    """Everything that was found."""

    systems: tuple[System, ...]
    sets: tuple[EvaluationSet, ...]
    settings: EvaluationSettings
    reference: str
    results: tuple[SetResult, ...]
    comparisons: tuple[Comparison, ...]
    noise: tuple[NoiseResult, ...]
    configurations: Mapping[str, dict[str, Any]]

    def result(self, system: str, chosen: str) -> SetResult:
        """The result of one system on one set."""
        return next(one for one in self.results if (one.system, one.chosen) == (system, chosen))

    @property
    def set_names(self) -> list[str]:
        """Sets in order, and all of them together where there are several."""
        return list(dict.fromkeys(one.chosen for one in self.results))


def evaluate_systems(
    systems: Sequence[System], sets: Sequence[EvaluationSet], settings: EvaluationSettings
) -> Evaluation:
    """Run every system over every set, one system in memory at a time, and score what they heard."""
    if not systems or not sets:
        raise ValueError("an evaluation needs at least one system and one set")
    check_distinct("systems", [system.name for system in systems])
    check_distinct("sets", [chosen.name for chosen in sets])
    reference = reference_of(systems, settings.against)
    # All are checked before the first one runs.
    providers = {system.name: system.provider() for system in systems}
    runs: dict[tuple[str, str, Condition | None], Run] = {}
    for name, provider in providers.items():
        runs |= {(name, *where): run for where, run in run_system(name, provider, sets, settings).items()}
    results = _results(systems, sets, runs, settings)
    return Evaluation(
        tuple(systems),
        tuple(sets),
        settings,
        reference,
        tuple(results),
        tuple(_comparisons(results, reference, settings)),
        tuple(_noise_results(systems, sets, runs, reference, settings)),
        {name: runs[name, sets[0].name, None].configuration for name in providers},
    )


def _results(systems, sets, runs, settings: EvaluationSettings) -> list[SetResult]:
    found = []
    for system in systems:
        judged = []
        for chosen in sets:
            run = runs[system.name, chosen.name, None]
            judged.append(judge_run(chosen.utterances, run, settings.normalisers))
            found.append(_result(system.name, chosen.name, judged[-1], run, settings))
        if len(sets) > 1:
            found.append(_result(system.name, ALL_SETS, joined(judged), None, settings))
    return found


def _result(
    system: str, chosen: str, clips: JudgedClips, run: Run | None, settings: EvaluationSettings
) -> SetResult:
    scored = partial(score, resamples=settings.resamples, seed=settings.seed)
    by_language = {name: scored(clips.take(rows)) for name, rows in groups_by_language(clips).items()}
    by_length = {name: scored(clips.take(rows)) for name, rows in groups_by_length(clips).items()}
    return SetResult(system, chosen, clips, run, scored(clips), by_language, by_length, identification(clips))


def _comparisons(
    results: Sequence[SetResult], reference: str, settings: EvaluationSettings
) -> list[Comparison]:
    """Every other system against the reference: all clips of a set, and each of its languages."""
    references = {one.chosen: one.clips for one in results if one.system == reference}
    found = []
    for one in results:
        if one.system == reference:
            continue
        groups = {"": np.arange(len(one.clips)), **groups_by_language(one.clips)}
        for name, rows in groups.items():
            if name and len(groups) == 2:
                continue  # one language is the whole set
            pair = one.clips.take(rows), references[one.chosen].take(rows)
            measure = "cer" if pair[0].unspaced else "wer"
            found.append(Comparison(one.system, one.chosen, name, measure, compared(*pair, settings)))
    return found


def compared(clips: JudgedClips, reference: JudgedClips, settings: EvaluationSettings) -> Difference:
    """Two systems on the same clips, of which both answered."""
    both = np.flatnonzero(clips.answered & reference.answered)
    pair = clips.take(both), reference.take(both)
    counts = [one.characters if one.unspaced else one.words for one in pair]
    return paired_difference(
        errors_of(counts[0]), errors_of(counts[1]), said_of(counts[0]), settings.resamples, settings.seed
    )


def _noise_results(systems, sets, runs, reference: str, settings: EvaluationSettings) -> list[NoiseResult]:
    """Scores by set, noise and ratio, in the order of the ratios that were asked for."""
    sweep = settings.sweep
    if sweep is None:
        return []
    found = []
    for chosen in sets:
        for kind in sweep.kinds:
            for snr_db in sweep.snrs:
                names = [system.name for system in systems]
                judged = {name: _under(runs, name, chosen, kind, snr_db, settings) for name in names}
                for name, clips in judged.items():
                    against = None
                    if name != reference:
                        against = compared(clips, judged[reference], settings)
                    scored = score(clips, settings.resamples, settings.seed)
                    found.append(NoiseResult(name, chosen.name, kind, snr_db, scored, against))
    return found


def _under(runs, system: str, chosen: EvaluationSet, kind: str, snr_db: float, settings) -> JudgedClips:
    """What a system made of the swept clips at one ratio; clean ones are those of the set itself."""
    utterances = swept(chosen, settings.sweep).utterances
    if snr_db == CLEAN:
        run = first_clips(runs[system, chosen.name, None], len(utterances))
    else:
        run = runs[system, chosen.name, Condition(kind, snr_db)]
    return judge_run(utterances, run, settings.normalisers)
