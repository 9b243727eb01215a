"""Catalan words, their gender and number: those that Festival's tagger saw, as Apertium analyses them."""

from __future__ import annotations

import re
from collections.abc import Iterable

ENTRY = re.compile(r'\("([^"]+)" \((.*)\) \(\) \)')
TAG = re.compile(r"\((\S+) (-?[\d.]+)\)")
WORD = re.compile(r"[a-zàèéíïóòúüç·-]{3,14}")

# (gender, number) -> words
Forms = dict[tuple[str, str], set[str]]


def lexicon_words(lines: Iterable[str]) -> tuple[set[str], dict[str, set[str]]]:
    """All words, and by tag those that were seen in texts: all others have the least frequency."""
    found: dict[str, dict[str, float]] = {}
    for line in lines:
        entry = ENTRY.match(line)
        if entry and WORD.fullmatch(entry[1]):
            for tag, frequency in TAG.findall(entry[2]):
                found.setdefault(tag, {})[entry[1]] = float(frequency)
    least = {tag: min(words.values()) for tag, words in found.items()}
    known = {word for words in found.values() for word in words}
    return known, {
        tag: {word for word, frequency in words.items() if frequency > least[tag]}
        for tag, words in found.items()
    }


def forms(analysed: str, part: str, chosen: set[str]) -> Forms:
    """The chosen words by gender and number, as an analysis `^word/lemma<n><f><sg>$` tells them."""
    shape = re.compile(rf"<{part}>(?:<sup>)?<(m|f|mf)><(sg|pl)>$")
    found: Forms = {}
    for word, *analyses in (one.split("/") for one in re.findall(r"\^([^$]*)\$", analysed)):
        for kind in map(shape.search, analyses if word in chosen else ()):
            if kind:
                # "mf" is said of both.
                for gender in kind[1]:
                    found.setdefault((gender, kind[2]), set()).add(word)
    return found


def with_plurals(shown: Forms, analysed: str) -> Forms:
    """The same words, and those plurals of theirs that an analysis knows."""
    grown = {kind: set(words) for kind, words in shown.items()}
    for plural, lemma, gender in re.findall(r"\^([^/$]*)/(?:[^$]*?/)?([^/<$]*)<n><(m|f)><pl>", analysed):
        if lemma in shown.get((gender, "sg"), ()):
            grown.setdefault((gender, "pl"), set()).add(plural)
    return grown
