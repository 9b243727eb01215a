"""An evaluation as files: `results.json`, `report.md`, `worst.md`, pictures."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from speechllm.configuration.writing import replacing_files

from .alignments import columns_of, drawn_alignment, worst_clips
from .bootstrap import CONFIDENCE
from .evaluation import Evaluation, NoiseResult, SetResult
from .machine import hardware, versions
from .pictures import draw_evaluation
from .tables import (
    comparison_table,
    confusion_table,
    group_table,
    noise_table,
    overall_table,
    percent,
    speed_table,
)

RESULTS, REPORT, WORST = "results.json", "report.md", "worst.md"
SHOWN_FAILURES = 20


def write_report(evaluation: Evaluation, folder: Path, command: str = "", worst: int = 20) -> list[str]:
    """All files, replaced together; their names. Pictures of an earlier evaluation that this one lacks go."""
    facts = results(evaluation, command)
    with replacing_files(folder) as partial:
        written = Path(partial)
        pictures = draw_evaluation(evaluation, written)
        (written / RESULTS).write_text(
            json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        (written / REPORT).write_text(report_text(evaluation, facts, pictures), encoding="utf-8")
        (written / WORST).write_text(worst_text(evaluation, worst), encoding="utf-8")
        named = sorted(path.name for path in written.iterdir())
    for kind in ("languages", "lengths", "noise", "confusion"):
        for old in folder.glob(f"{kind}.*.png"):
            if old.name not in named:
                old.unlink()
    return named


def results(evaluation: Evaluation, command: str = "") -> dict[str, Any]:
    """Every number as plain values."""
    settings = evaluation.settings
    return {
        "command": command,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "hardware": hardware(),
        "normalisers": settings.normalisers.facts(),
        "bootstrap": {
            "resamples": settings.resamples,
            "seed": settings.seed,
            "confidence": CONFIDENCE,
            "unit": "clip",
        },
        "reference": evaluation.reference,
        "systems": evaluation.configurations,
        "sets": {chosen.name: chosen.facts() for chosen in evaluation.sets},
        "results": [_result_facts(one) for one in evaluation.results],
        "comparisons": [
            {
                "system": one.system,
                "against": evaluation.reference,
                "set": one.chosen,
                "group": one.group or "all",
                "measure": one.measure,
                **asdict(one.difference),
            }
            for one in evaluation.comparisons
        ],
        "noise": [_noise_facts(one) for one in evaluation.noise],
    }


def _result_facts(one: SetResult) -> dict[str, Any]:
    run = one.run
    return {
        "system": one.system,
        "set": one.chosen,
        **asdict(one.score),
        "by_language": {name: asdict(score) for name, score in one.by_language.items()},
        "by_length": {name: asdict(score) for name, score in one.by_length.items()},
        "language_identification": None if one.identification is None else asdict(one.identification),
        "rtfx": None if run is None else run.speed,
        "processing_seconds": None if run is None else run.processing_seconds,
        "latency_seconds": None if run is None or run.latency is None else asdict(run.latency),
        "memory": None if run is None else run.memory,
        "reused": None if run is None else run.reused,
        "failed_clips": [{"clip": name, "reason": reason} for name, reason in failures(one)],
    }


def _noise_facts(one: NoiseResult) -> dict[str, Any]:
    return {
        "system": one.system,
        "set": one.chosen,
        "noise": one.noise,
        # JSON has no infinity.
        "snr_db": "clean" if math.isinf(one.snr_db) else one.snr_db,
        **asdict(one.score),
        "against_reference": None if one.against is None else asdict(one.against),
    }


def failures(one: SetResult) -> list[tuple[str, str]]:
    """Clips that have no answer, and why."""
    pairs = zip(one.clips.utterances, one.clips.heard, strict=True)
    return [(item.name, heard.error) for item, heard in pairs if heard.error is not None]


def report_text(evaluation: Evaluation, facts: dict[str, Any], pictures: Sequence[str]) -> str:
    """The report in Markdown."""
    parts = ["# Evaluation", _conditions(evaluation, facts)]
    for chosen in evaluation.set_names:
        results = [one for one in evaluation.results if one.chosen == chosen]
        parts += [f"## {chosen}", *_set_parts(evaluation, chosen, results, pictures)]
    parts += ["## Systems", _system_lines(facts["systems"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _set_parts(
    evaluation: Evaluation, chosen: str, results: Sequence[SetResult], pictures: Sequence[str]
) -> Iterator[str]:
    """What is said of one set."""
    name = chosen.replace(" ", "-")
    yield overall_table(results)
    if any(one.score.silent_clips for one in results):
        yield _silence_line(results)
    if len(evaluation.systems) > 1:
        yield "### Differences"
        yield comparison_table(evaluation, chosen)
    yield "### By language"
    yield group_table(results, "by_language", "language")
    yield f"![Error rates by language](languages.{name}.png)"
    yield "### By length"
    yield group_table(results, "by_length", "length")
    yield f"![Error rates by length](lengths.{name}.png)"
    if any(one.run for one in results):
        yield "### Speed and memory"
        yield speed_table(results)
    for one in results:
        if one.identification is not None:
            yield f"### Languages as {one.system} finds them"
            right = percent(one.identification.accuracy)
            yield f"{right} % of {one.identification.clips} clips right. Rows: what was spoken."
            yield confusion_table(one.identification)
            yield f"![Confusion](confusion.{one.system}.{name}.png)"
    points = [one for one in evaluation.noise if one.chosen == chosen]
    if points:
        yield "### Under noise"
        yield (
            f"First {points[0].score.clips + points[0].score.failed} clips of the set; \\*: differs from "
            f"{evaluation.reference} (paired bootstrap, p < .05)."
        )
        yield noise_table(points)
        yield f"![Error rates under noise](noise.{name}.png)"
    yield from _failure_parts(results)


def _silence_line(results: Sequence[SetResult]) -> str:
    heard = ", ".join(f"{one.system} {one.score.words_in_silence}" for one in results)
    clips = max(one.score.silent_clips for one in results)
    return f"In {clips} clips nothing is said. Words heard in them, which count as insertions: {heard}."


def _failure_parts(results: Sequence[SetResult]) -> Iterator[str]:
    for one in results:
        found = failures(one)
        if found and one.run is not None:
            yield f"### Failed clips of {one.system}"
            yield "\n".join(f"- `{name}`: {reason}" for name, reason in found[:SHOWN_FAILURES])
            if len(found) > SHOWN_FAILURES:
                yield f"and {len(found) - SHOWN_FAILURES} more; `{RESULTS}` names them all."


def _conditions(evaluation: Evaluation, facts: dict[str, Any]) -> str:
    machine, settings = facts["hardware"], evaluation.settings
    accelerators = ", ".join(machine["accelerators"]) or "no accelerator"
    lines = [
        f"Normaliser: `{settings.normalisers}`, on both sides.",
        f"Intervals: 95 %, percentile bootstrap over clips, {settings.resamples} draws, "
        f"seed {settings.seed}.",
        f"Differences: paired bootstrap against `{evaluation.reference}`, two-sided; no correction for the "
        "number of comparisons.",
        "Failed clips are in no rate; a comparison takes the clips that both systems answered.",
        "RTFx: seconds of sound for a second of recognizing, in batches, files read beforehand. Latency: a "
        "clip alone, from samples to text.",
        "Peak: the most that the process held of memory (resident set) since it loaded the system; before: "
        "what it held then.",
        f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{accelerators}.",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()) + ".",
        *(
            f"Set `{name}`: {about['clips']} of {about['clips_in_manifest']} clips of `{about['origin']}`, "
            f"fingerprint `{about['fingerprint']}`."
            for name, about in facts["sets"].items()
        ),
        *([f"Command: `{facts['command']}`"] if facts["command"] else []),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _system_lines(systems: dict[str, dict[str, Any]]) -> str:
    facts = {
        name: ", ".join(f"{key}={value}" for key, value in about.items() if value not in (None, ""))
        for name, about in systems.items()
    }
    return "\n".join(f"- `{name}`: {told}" for name, told in facts.items())


def worst_text(evaluation: Evaluation, count: int) -> str:
    """The clips with most errors of every system and set, word under word."""
    parts = [
        "# Worst clips",
        f"Those with most errors first, texts after `{evaluation.settings.normalisers}`. "
        "S: another word, D: missing, I: added.",
    ]
    for one in evaluation.results:
        if one.run is None:
            continue
        places = worst_clips(one.clips, count)
        parts.append(f"## {one.system} on {one.chosen}")
        parts += [_worst_clip(one, place) for place in places] or ["No errors."]
    return "\n\n".join(parts) + "\n"


def _worst_clip(one: SetResult, place: int) -> str:
    clips = one.clips
    item, heard = clips.utterances[place], clips.heard[place]
    unit = "characters" if clips.take([place]).unspaced else "words"
    columns = columns_of(clips.said_texts[place], clips.heard_texts[place], unit)
    errors = sum(bool(column.mark) for column in columns)
    said = sum(bool(column.said) for column in columns)
    about = [item.language, f"{clips.seconds[place]:.1f} s", heard.language and f"found: {heard.language}"]
    named = ", ".join(str(fact) for fact in about if fact)
    return f"**{item.name}** ({named}): {said} {unit}, {errors} wrong\n\n```\n{drawn_alignment(columns)}\n```"
