"""Sentences of `fortunes`, the sayings and quotations that Debian has in several languages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from .filters import sentence_key

FORTUNES = Path("games") / "fortunes"
FEWEST_WORDS, MOST_WORDS = 2, 16
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
# Nothing that voices and transcripts would read differently: digits, abbreviations in capitals, symbols.
SPEAKABLE = re.compile(r"[A-Z][a-z']*(?:[ ,;:-]+(?:[a-z']+|[A-Z][a-z']+|I))*[.!?]")


def english_sentences(root: Path) -> list[str]:
    """English sentences of 2 to 16 words, each once, in an order that does not change."""
    files = [path for path in (root / FORTUNES).glob("*") if path.is_file() and not path.suffix]
    found = distinct(part for one in fortunes(files) for part in SENTENCE_END.split(one) if speakable(part))
    if not found:
        raise ValueError(f"no sentences under {root / FORTUNES}: apt-get install fortunes")
    return found


def fortunes(files: Iterable[Path]) -> Iterator[str]:
    """The fortunes of these files, each on one line."""
    for path in sorted(files):
        for fortune in path.read_text(encoding="utf-8", errors="replace").split("\n%\n"):
            yield " ".join(fortune.split())


def distinct(sentences: Iterable[str]) -> list[str]:
    """Each sentence once, as it is spelled the first time."""
    found: dict[str, str] = {}
    for sentence in sentences:
        found.setdefault(sentence_key(sentence), sentence)
    return list(found.values())


def speakable(sentence: str, pattern: re.Pattern[str] = SPEAKABLE) -> bool:
    """Whether a sentence has neither too few nor too many words, and nothing but what `pattern` allows."""
    return FEWEST_WORDS <= len(sentence.split()) <= MOST_WORDS and bool(pattern.fullmatch(sentence))
