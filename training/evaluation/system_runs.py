"""One system over all sets, clean and under noise: loaded when something must be computed, then released."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace

from speechllm.processing.memory_release import release_freed_memory

from .evaluation_sets import (
    Condition,
    EvaluationSet,
    NoiseSweep,
    Sound,
    clean_sound,
    noisy_sound,
    sound_identity,
)
from .evaluation_settings import EvaluationSettings
from .machine import RECOGNIZING, PeakMemory, versions
from .provider_base import Provider
from .running import UNREADABLE, Run, measure_latency, run_over
from .transcripts import read_run, run_key, transcript_path, write_run


def run_system(
    name: str, provider: Provider, sets: Sequence[EvaluationSet], settings: EvaluationSettings
) -> dict[tuple[str, Condition | None], Run]:
    """A system over all sets, clean and under each noise; then it is released."""
    loaded = Loaded(name, provider, settings)
    runs: dict[tuple[str, Condition | None], Run] = {}
    conditions = settings.sweep.conditions() if settings.sweep else []
    try:
        for chosen in sets:
            runs[chosen.name, None] = loaded.run(chosen, None)
        for chosen in sets:
            for condition in conditions:
                runs[chosen.name, condition] = loaded.run(swept(chosen, settings.sweep), condition)
    finally:
        loaded.release()
    return runs


class Loaded:
    """A system that is loaded when something has to be computed, and not before."""

    def __init__(self, name: str, provider: Provider, settings: EvaluationSettings):
        self.name, self.settings = name, settings
        self.provider = provider
        self.identity = provider.identity()
        self.memory: PeakMemory | None = None

    def run(self, chosen: EvaluationSet, condition: Condition | None) -> Run:
        """What it hears in a set: as it was kept, or computed and kept."""
        settings = self.settings
        sounds = sound_identity(chosen, condition, settings.sweep, settings.seed)
        key = run_key(self.identity, sounds, versions(RECOGNIZING))
        path = None
        if settings.folder is not None:
            name = condition.name if condition else None
            path = transcript_path(settings.folder, self.name, chosen.name, name)
        kept = read_run(path, key, len(chosen.utterances)) if path and not settings.fresh else None
        run = self._mended(kept, chosen, condition) if kept else self._computed(chosen, condition)
        run = self._with_latency(run, chosen) if condition is None else run
        if path is not None and run is not kept:
            write_run(path, key, run, chosen.utterances)
        return run

    def release(self) -> None:
        """Give its memory back."""
        self.provider.release()
        gc.collect()
        release_freed_memory()

    def _ready(self) -> Provider:
        if self.memory is None:
            self.memory = PeakMemory()
            self.provider.load()
        return self.provider

    def _computed(self, chosen: EvaluationSet, condition: Condition | None) -> Run:
        provider = self._ready()
        title = f"{self.name} on {chosen.name}{f', {condition.name}' if condition else ''}"
        sound = self._sound(chosen, condition)
        heard, seconds, spent = run_over(provider, sound, _languages(chosen), title)
        memory = self.memory.facts() if self.memory and provider.local else {}
        return Run(tuple(heard), tuple(seconds), spent, provider.configuration(), memory)

    def _mended(self, kept: Run, chosen: EvaluationSet, condition: Condition | None) -> Run:
        """A kept run in which the clips that were read but not answered, by a service, are tried again."""
        failed = [
            place
            for place, heard in enumerate(kept.heard)
            if heard.error is not None and not heard.error.startswith(UNREADABLE)
        ]
        if not failed:
            return kept
        again = self._computed(
            replace(chosen, utterances=tuple(chosen.utterances[place] for place in failed)), condition
        )
        heard = list(kept.heard)
        for place, one in zip(failed, again.heard, strict=True):
            heard[place] = one
        spent = kept.processing_seconds + again.processing_seconds
        return replace(kept, heard=tuple(heard), processing_seconds=spent)

    def _sound(self, chosen: EvaluationSet, condition: Condition | None) -> Sound:
        sweep = self.settings.sweep
        if condition is None or sweep is None:
            return clean_sound(chosen)
        return noisy_sound(chosen, condition, sweep, self.settings.seed)

    def _with_latency(self, run: Run, chosen: EvaluationSet) -> Run:
        wanted = self.settings.latency_clips
        known = run.latency.clips if run.latency else 0
        if not wanted or known == min(wanted, sum(heard.error is None for heard in run.heard)):
            return run
        measured = measure_latency(self._ready(), clean_sound(chosen), _languages(chosen), run, wanted)
        return replace(run, latency=measured)


def _languages(chosen: EvaluationSet) -> list[str | None]:
    return [item.language for item in chosen.utterances]


def swept(chosen: EvaluationSet, sweep: NoiseSweep | None) -> EvaluationSet:
    """The clips of a set that noise is mixed with."""
    return replace(chosen, utterances=chosen.utterances[: sweep.clips if sweep else None])
