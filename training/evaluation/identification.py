"""Whether the languages that a system found are those that were spoken."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .provider_base import short_language
from .scoring import JudgedClips


@dataclass(frozen=True)
class Identification:
    """Over the clips whose language is known and of which the system said one."""

    clips: int
    accuracy: float
    # Spoken -> found -> clips.
    confusion: dict[str, dict[str, int]]
    accuracy_by_language: dict[str, float]


def identification(clips: JudgedClips) -> Identification | None:
    """None where the system was told the languages, or says nothing of them."""
    pairs = [
        (str(short_language(item.language)), str(short_language(heard.language)))
        for item, heard in zip(clips.utterances, clips.heard, strict=True)
        if item.language and heard.language and heard.error is None
    ]
    if not pairs:
        return None
    counts = Counter(pairs)
    spoken = sorted({language for language, _ in pairs})
    confusion = {
        language: {found: count for (one, found), count in sorted(counts.items()) if one == language}
        for language in spoken
    }
    by_language = {
        language: found.get(language, 0) / sum(found.values()) for language, found in confusion.items()
    }
    right = sum(one == other for one, other in pairs)
    return Identification(len(pairs), right / len(pairs), confusion, by_language)
