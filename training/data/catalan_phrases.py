"""Catalan phrases to be spoken, of nouns and adjectives that dictionaries have: "Una papallona vermella."

Words and how frequent they are come from Festival's Catalan tagger, gender and number from Apertium. As many
phrases again are of words for what one can see.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path

from .catalan_things import DICTIONARY, things
from .filters import sentence_key

INSTALL = "apt-get install festival-ca apertium-fra-cat lttoolbox dacco-common"
LEXICON = Path("festival") / "dicts" / "upc" / "upc_freeling_catalan.poslex"
ANALYSER = Path("apertium") / "apertium-fra-cat" / "cat-fra.automorf.bin"
PHRASES = PHRASES_OF_THINGS = 6000

ENTRY = re.compile(r'\("([^"]+)" \((.*)\) \(\) \)')
TAG = re.compile(r"\((\S+) (-?[\d.]+)\)")
WORD = re.compile(r"[a-zàèéíïóòúüç·-]{3,14}")
VOWEL = re.compile(r"h?[aeiouàèéíòóúïü]")
NOUN, ADJECTIVE = "n", "adj"
# What the lexicon calls them.
LEXICON_TAGS = {NOUN: "NC", ADJECTIVE: "AQ"}
A = {("m", "sg"): "un", ("f", "sg"): "una", ("m", "pl"): "uns", ("f", "pl"): "unes"}
THE = {("m", "sg"): "el", ("f", "sg"): "la", ("m", "pl"): "els", ("f", "pl"): "les"}
OF_THE = {"el": "del", "els": "dels"}
PLURALS, SEED = 0.2, 0

# (gender, number) -> word -> how frequent it is
Forms = dict[tuple[str, str], dict[str, float]]


def catalan_phrases(root: Path) -> list[str]:
    """The phrases, each once, in an order that does not change. `root`: where packages put their files."""
    lexicon, analyser = root / LEXICON, root / ANALYSER
    dictionary = root / DICTIONARY
    there = lexicon.is_file() and analyser.is_file() and dictionary.is_dir()
    if not (there and shutil.which("lt-proc")):
        raise ValueError(f"the words of Catalan are not there: {INSTALL}")
    frequencies = lexicon_words(lexicon.read_text(encoding="latin-1").splitlines())
    words = sorted({word for known in frequencies.values() for word in known})
    command = ["lt-proc", "-a", str(analyser)]
    said = subprocess.run(command, input="\n".join(words), text=True, capture_output=True, check=True).stdout
    nouns, adjectives = (forms(said, part, frequencies[part]) for part in (NOUN, ADJECTIVE))
    shown = with_plurals(things(dictionary, WORD), said)
    drawn = drawn_phrases(nouns, adjectives, PHRASES) + drawn_phrases(shown, adjectives, PHRASES_OF_THINGS)
    return list({sentence_key(phrase): phrase for phrase in drawn}.values())


def lexicon_words(lines: Iterable[str]) -> dict[str, dict[str, float]]:
    """Part of speech -> word -> frequency, of the words that are nouns or adjectives."""
    found: dict[str, dict[str, float]] = {part: {} for part in LEXICON_TAGS}
    for line in lines:
        entry = ENTRY.match(line)
        if entry and WORD.fullmatch(entry[1]):
            tags = dict(TAG.findall(entry[2]))
            for part, tag in LEXICON_TAGS.items():
                if tag in tags:
                    found[part][entry[1]] = 10 ** float(tags[tag])
    return found


def forms(analysed: str, part: str, frequencies: Mapping[str, float]) -> Forms:
    """Words of a part of speech by gender and number, as an analysis `^word/lemma<n><f><sg>$` tells them."""
    shape = re.compile(rf"<{part}>(?:<sup>)?<(m|f|mf)><(sg|pl|sp)>$")
    analyses = {
        word: found for word, *found in (one.split("/") for one in re.findall(r"\^([^$]*)\$", analysed))
    }
    known: Forms = {}
    for word, frequency in frequencies.items():
        for analysis in analyses.get(word, ()):
            if kind := shape.search(analysis):
                known.setdefault((kind[1], kind[2]), {})[word] = frequency
    return known


def with_plurals(shown: Forms, analysed: str) -> Forms:
    """The same words, and those plurals of theirs that an analysis knows, with their weight."""
    grown = {kind: dict(words) for kind, words in shown.items()}
    for plural, lemma, gender in re.findall(r"\^([^/$]*)/(?:[^$]*?/)?([^/<$]*)<n><(m|f)><pl>", analysed):
        if lemma in shown.get((gender, "sg"), {}):
            grown.setdefault((gender, "pl"), {}).setdefault(plural, shown[gender, "sg"][lemma])
    return grown


def drawn_phrases(nouns: Forms, adjectives: Forms, count: int) -> list[str]:
    """`count` different phrases."""
    found: dict[str, str] = {}
    for phrase in _phrases(nouns, adjectives, random.Random(SEED)):
        found.setdefault(sentence_key(phrase), phrase[0].upper() + phrase[1:] + ".")
        if len(found) == count:
            break
    return list(found.values())


def _phrases(nouns: Forms, adjectives: Forms, draw: random.Random) -> Iterator[str]:
    pools = {kind: _Pool(words) for kind, words in nouns.items()}
    agreeing = {(g, n): _Pool(adjectives[g, n] | adjectives.get(("mf", n), {})) for g, n in A}

    def noun() -> tuple[str, str, str]:
        number = draw.choices(["sg", "pl"], [1 - PLURALS, PLURALS])[0]
        gender = draw.choice("mf")
        return pools[gender, number].word(draw), gender, number

    while True:
        (name, gender, number), kind = noun(), draw.random()
        some = f"{A[gender, number]} {name}"
        if kind < 0.3:
            yield some
        elif kind < 0.6:
            yield f"{some} {agreeing[gender, number].word(draw)}"
        elif kind < 0.72:
            other = noun()[0]
            of = "d'" if VOWEL.match(other) else "de "
            yield f"{some} {of}{other}"
        elif kind < 0.84:
            yield f"{_the(name, gender, number)} {_of_the(*noun())}"
        elif kind < 0.94:
            other, gender, number = noun()
            yield f"{some} amb {A[gender, number]} {other}"
        else:
            yield name


class _Pool:
    """Words to draw from. The root brings rare words in: the frequent ones are known."""

    def __init__(self, frequencies: Mapping[str, float]):
        self.words = list(frequencies)
        self.weights = list(accumulate(frequency**0.5 for frequency in frequencies.values()))

    def word(self, draw: random.Random) -> str:
        return draw.choices(self.words, cum_weights=self.weights)[0]


def _the(name: str, gender: str, number: str) -> str:
    return f"l'{name}" if number == "sg" and VOWEL.match(name) else f"{THE[gender, number]} {name}"


def _of_the(name: str, gender: str, number: str) -> str:
    article, _, rest = _the(name, gender, number).partition(" ")
    return f"{OF_THE[article]} {rest}" if article in OF_THE else f"de {_the(name, gender, number)}"
