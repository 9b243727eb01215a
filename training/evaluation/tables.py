"""Tables of an evaluation in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from speechllm.training.augmentation.noise_sweep import CLEAN

from .bootstrap import Difference, Interval
from .evaluation import Evaluation, NoiseResult, SetResult
from .identification import Identification
from .scoring import LENGTHS, Score

NOTHING = "–"
SIGNIFICANT = 0.05


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Names on the left, numbers on the right."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def percent(rate: float | None) -> str:
    return NOTHING if rate is None else f"{100 * rate:.1f}"


def with_interval(rate: float | None, interval: Interval | None) -> str:
    """ "12.3 (10.1–14.9)"."""
    if interval is None:
        return percent(rate)
    return f"{percent(rate)} ({percent(interval.low)}–{percent(interval.high)})"


def measured(score: Score) -> str:
    """The rate that counts for a group, marked where it is of characters."""
    mark = " CER" if score.measure == "cer" else ""
    return f"{with_interval(score.rate, score.interval)}{mark}"


def snr_name(snr_db: float) -> str:
    return "clean" if snr_db == CLEAN else f"{snr_db:g} dB"


def overall_table(results: Sequence[SetResult]) -> str:
    """Rates and kinds of errors, a row a system."""
    head = ["system", "WER %", "CER %", "sub", "del", "ins", "words", "loops %", "empty %", "clips", "failed"]
    rows = []
    for one in results:
        score = one.score
        counts = (score.substitutions, score.deletions, score.insertions, score.said_words)
        rows.append(
            [
                one.system,
                with_interval(score.wer, score.wer_interval),
                with_interval(score.cer, score.cer_interval),
                *map(str, counts),
                percent(score.repetition_rate),
                percent(score.empty_rate),
                str(score.clips),
                str(score.failed),
            ]
        )
    return table(head, rows)


def speed_table(results: Sequence[SetResult]) -> str:
    """Speed, latency and memory, a row a system."""
    head = ["system", "RTFx", "processing s", "latency s", "95th percentile s", "peak MB", "before", "from"]
    rows = []
    for one in results:
        if one.run is None:
            continue
        run, memory, latency = one.run, one.run.memory, one.run.latency
        rows.append(
            [
                one.system,
                NOTHING if run.speed is None else f"{run.speed:.1f}",
                f"{run.processing_seconds:.1f}",
                NOTHING if latency is None else f"{latency.median:.2f}",
                NOTHING if latency is None else f"{latency.slowest_of_20:.2f}",
                *(megabytes(memory.get(name)) for name in ("peak_bytes", "before_bytes")),
                "an earlier run" if run.reused else "this run",
            ]
        )
    return table(head, rows)


def megabytes(count: int | None) -> str:
    return NOTHING if count is None else f"{count / 1e6:.0f}"


def comparison_table(evaluation: Evaluation, chosen: str) -> str:
    """Differences from the reference with their p values."""
    head = [f"against {evaluation.reference}", "clips", "points", "95 % interval", "p", ""]
    rows = []
    for one in evaluation.comparisons:
        if one.chosen == chosen:
            found = one.difference
            name = f"{one.system}{f', {one.group}' if one.group else ''} ({one.measure.upper()})"
            rows.append([name, str(found.clips), *difference_cells(found)])
    return table(head, rows)


def difference_cells(found: Difference) -> list[str]:
    """Points, interval, p, and what that means."""
    points = f"{100 * found.difference:+.1f}"
    if found.interval is None or found.p is None:
        return [points, NOTHING, NOTHING, "too few clips"]
    ends = f"{100 * found.interval.low:+.1f} to {100 * found.interval.high:+.1f}"
    verdict = "better" if found.difference < 0 else "worse"
    return [points, ends, p_value(found.p), verdict if found.p < SIGNIFICANT else "no clear difference"]


def p_value(p: float) -> str:
    return "< .001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 1 else "1"


def group_table(results: Sequence[SetResult], kind: str, title: str) -> str:
    """Rates by group: `kind` is `by_language` or `by_length`; a column a system."""
    there = {name for one in results for name in getattr(one, kind)}
    rows = []
    for name in [name for name in (LENGTHS if kind == "by_length" else sorted(there)) if name in there]:
        scores = [getattr(one, kind).get(name) for one in results]
        clips = max(score.clips + score.failed for score in scores if score)
        rows.append([name, str(clips), *(measured(score) if score else NOTHING for score in scores)])
    return table([title, "clips", *(one.system for one in results)], rows)


def noise_table(points: Sequence[NoiseResult]) -> str:
    """Rates by noise and system, a column a ratio; a star where it differs from the reference."""
    snrs = list(dict.fromkeys(one.snr_db for one in points))
    rows = []
    for noise, system in dict.fromkeys((one.noise, one.system) for one in points):
        found = {one.snr_db: one for one in points if (one.noise, one.system) == (noise, system)}
        rows.append([f"{noise}, {system}", *(_noise_cell(found[snr_db]) for snr_db in snrs)])
    return table(["noise", *map(snr_name, snrs)], rows)


def _noise_cell(point: NoiseResult) -> str:
    found = point.against
    differs = found is not None and found.p is not None and found.p < SIGNIFICANT
    return measured(point.score) + (" *" if differs else "")


def confusion_table(found: Identification) -> str:
    """Spoken languages in rows, found ones in columns."""
    names = languages_of(found)
    rows = []
    for spoken, row in found.confusion.items():
        counts = (str(row.get(name, 0) or "·") for name in names)
        rows.append([spoken, *counts, percent(found.accuracy_by_language[spoken])])
    return table(["spoken", *names, "right %"], rows)


def confusion_matrix(found: Identification) -> tuple[list[str], list[str], np.ndarray]:
    """Names of the rows, of the columns, and the shares of each row `[spoken, found]`."""
    columns = languages_of(found)
    counts = np.array([[row.get(name, 0) for name in columns] for row in found.confusion.values()], float)
    return list(found.confusion), columns, counts / counts.sum(axis=1, keepdims=True)


def languages_of(found: Identification) -> list[str]:
    """All that were spoken or found."""
    return sorted({*found.confusion, *(name for row in found.confusion.values() for name in row)})
