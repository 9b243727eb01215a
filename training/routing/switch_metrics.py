"""How soon and how rightly changes of language are noticed, and what they cost in words."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from speechllm.modeling.router.frame_routing import LanguageSegment

try:
    import jiwer
except ImportError as error:
    raise ImportError("word error rates need jiwer: install speechllm[eval]") from error

# A change counts as noticed by so many right windows in a row, or by as many as its segment has.
STABLE_WINDOWS = 3
TARGET_SECONDS = 0.5


@dataclass(frozen=True)
class SwitchScores:
    """Over all clips. Latencies are of the changes that were noticed at all, None where none was.

    `time_accuracy` is the share of speech under the right label. It is what shows a change that came too
    early, for which the latency is small.
    """

    boundaries: int
    found_in_time: float | None
    missed: float | None
    median_latency: float | None
    mean_latency: float | None
    time_accuracy: float


@dataclass(frozen=True)
class WordErrorRise:
    """Word error rates of single-language and of switched speech; positive means that switching is worse."""

    single: float
    switched: float
    absolute: float
    relative: float | None  # None where single-language speech has no error


def truth_of(extra: dict) -> list[LanguageSegment]:
    """The segments that a manifest of `write_switched` keeps in `extra`."""
    if "segments" not in extra:
        raise ValueError(f"no segments in extra, which holds {sorted(extra)}; score clips of write_switched")
    return [LanguageSegment(item["start"], item["end"], item["language"]) for item in extra["segments"]]


def switch_latencies(
    labels: Sequence[str], ends: Sequence[float], truth: Sequence[LanguageSegment]
) -> list[float | None]:
    """For every true change the seconds to the first stable right window, or None where there is none.

    A window counts from its end: only then has it been heard. `labels` and `ends` are a clip's windows.
    """
    latencies: list[float | None] = []
    for index, segment in enumerate(truth[1:], 1):
        # The window that ends just past a change hears the language before; nobody would expect it to be
        # right, but whoever is, is not late.
        last = truth[index + 1].start if index + 1 < len(truth) else float("inf")
        within = [w for w, end in enumerate(ends) if segment.start < end <= last]
        right = [labels[w] == segment.label for w in within]
        needed = min(STABLE_WINDOWS, len(within))
        starts = (w for w in range(len(within) - needed + 1) if all(right[w : w + needed]))
        first = next(starts, None) if within else None
        latencies.append(None if first is None else ends[within[first]] - segment.start)
    return latencies


def time_right(found: Sequence[LanguageSegment], truth: Sequence[LanguageSegment]) -> tuple[float, float]:
    """Seconds under the right label, and seconds of speech; pauses between true segments do not count."""
    right = sum(
        max(min(one.end, other.end) - max(one.start, other.start), 0.0)
        for one in found
        for other in truth
        if one.label == other.label
    )
    return right, sum(segment.end - segment.start for segment in truth)


def score_switches(
    latencies: Sequence[Sequence[float | None]],
    found: Sequence[Sequence[LanguageSegment]],
    truth: Sequence[Sequence[LanguageSegment]],
) -> SwitchScores:
    """Of all clips: their latencies from `switch_latencies`, their segments and the true ones."""
    if not truth:
        raise ValueError("no clips to score")
    every = [latency for clip in latencies for latency in clip]
    noticed = [latency for latency in every if latency is not None]
    times = [time_right(one, other) for one, other in zip(found, truth, strict=True)]
    in_time = sum(latency <= TARGET_SECONDS for latency in noticed)
    return SwitchScores(
        boundaries=len(every),
        found_in_time=in_time / len(every) if every else None,
        missed=1 - len(noticed) / len(every) if every else None,
        median_latency=statistics.median(noticed) if noticed else None,
        mean_latency=statistics.fmean(noticed) if noticed else None,
        time_accuracy=sum(right for right, _ in times) / sum(seconds for _, seconds in times),
    )


def word_error_rise(
    single: tuple[Sequence[str], Sequence[str]], switched: tuple[Sequence[str], Sequence[str]]
) -> WordErrorRise:
    """From references and hypotheses of single-language and of switched speech, normalised alike before."""
    rates = []
    for references, hypotheses in (single, switched):
        if len(references) != len(hypotheses) or not references:
            raise ValueError(f"{len(references)} references and {len(hypotheses)} hypotheses do not pair up")
        rates.append(float(jiwer.wer(list(references), list(hypotheses))))
    absolute = rates[1] - rates[0]
    return WordErrorRise(rates[0], rates[1], absolute, absolute / rates[0] if rates[0] else None)
