"""Catalan phrases to be spoken, of words that dictionaries have: "Una papallona vermella."

Festival's tagger knows which words were seen in texts, Dacco those of things, Apertium how they agree. Words
are dealt like cards: none comes again before all others of its kind have come.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .catalan_things import DICTIONARY, things
from .catalan_words import WORD, Forms, forms, lexicon_words, with_plurals
from .filters import sentence_key

INSTALL = "apt-get install festival-ca apertium-fra-cat lttoolbox dacco-common"
LEXICON = Path("festival") / "dicts" / "upc" / "upc_freeling_catalan.poslex"
ANALYSER = Path("apertium") / "apertium-fra-cat" / "cat-fra.automorf.bin"
PHRASES = 14000

VOWEL = re.compile(r"h?[aeiouàèéíòóúïü]")
# What the lexicon and the analyser call a part of speech. A participle stands where an adjective does.
PARTS = {"NC": "n", "AQ": "adj", "VMP": "vblex><pp"}
INFINITIVE, GERUND = "VMN", "VMG"
A = {("m", "sg"): "un", ("f", "sg"): "una", ("m", "pl"): "uns", ("f", "pl"): "unes"}
THE = {("m", "sg"): "el", ("f", "sg"): "la", ("m", "pl"): "els", ("f", "pl"): "les"}
OF_THE = {"el": "del", "els": "dels"}
PLURALS, SEED = 0.25, 0

# A noun, its gender and number
Noun = tuple[str, str, str]


def catalan_phrases(root: Path) -> list[str]:
    """The phrases, each once, in an order that does not change. `root`: where packages put their files."""
    lexicon, analyser, dictionary = root / LEXICON, root / ANALYSER, root / DICTIONARY
    there = lexicon.is_file() and analyser.is_file() and dictionary.is_dir()
    if not (there and shutil.which("lt-proc")):
        raise ValueError(f"the words of Catalan are not there: {INSTALL}")
    known, seen = lexicon_words(lexicon.read_text(encoding="latin-1").splitlines())
    words = "\n".join(sorted(known))
    command = ["lt-proc", "-a", str(analyser)]
    said = subprocess.run(command, input=words, text=True, capture_output=True, check=True).stdout
    nouns, adjectives, participles = (forms(said, part, seen[tag]) for tag, part in PARTS.items())
    nouns = _joined(nouns, with_plurals(things(dictionary, WORD), said))
    speaker = Phrases(nouns, _joined(adjectives, participles), seen[INFINITIVE], seen[GERUND])
    return speaker.draw(PHRASES)


def _joined(first: Forms, second: Forms) -> Forms:
    return {kind: first.get(kind, set()) | second.get(kind, set()) for kind in A}


class Phrases:
    """Phrases of nouns and adjectives by gender and number, and of infinitives and gerunds."""

    def __init__(self, nouns: Forms, adjectives: Forms, infinitives: set[str], gerunds: set[str]):
        self.random = random.Random(SEED)
        self.nouns = {kind: dealt(sorted(words), self.random) for kind, words in nouns.items()}
        self.adjectives = {kind: dealt(sorted(words), self.random) for kind, words in adjectives.items()}
        self.infinitives, self.gerunds = (
            dealt(sorted(words), self.random) for words in (infinitives, gerunds)
        )
        # What is said of a noun, and how often.
        self.shapes: dict[Callable[[Noun], str], float] = {
            self._some: 0.2,
            lambda noun: f"{self._some(noun)} {self._such(noun)}": 0.3,
            lambda noun: f"{self._some(noun)} {_of(self._noun()[0])}": 0.1,
            lambda noun: f"{_the(noun)} {_of_the(self._noun())}": 0.1,
            lambda noun: f"{self._some(noun)} amb {self._some(self._noun())}": 0.1,
            lambda noun: f"{self._some(noun)} per {next(self.infinitives)} {_the(self._noun())}": 0.1,
            lambda noun: f"{self._some(noun)} {next(self.gerunds)} {self._some(self._noun())}": 0.04,
            lambda noun: noun[0]: 0.03,
            self._such: 0.03,
        }

    def draw(self, count: int) -> list[str]:
        """`count` different phrases."""
        found: dict[str, str] = {}
        while len(found) < count:
            noun = self._noun()
            (shape,) = self.random.choices(list(self.shapes), list(self.shapes.values()))
            phrase = shape(noun)
            found.setdefault(sentence_key(phrase), phrase[0].upper() + phrase[1:] + ".")
        return list(found.values())

    def _noun(self) -> Noun:
        gender, number = self.random.choice("mf"), "pl" if self.random.random() < PLURALS else "sg"
        return next(self.nouns[gender, number]), gender, number

    def _such(self, noun: Noun) -> str:
        return next(self.adjectives[noun[1:]])

    @staticmethod
    def _some(noun: Noun) -> str:
        return f"{A[noun[1:]]} {noun[0]}"


def dealt(words: Sequence[str], draw: random.Random) -> Iterator[str]:
    """One after another in random order, and once all were dealt, all of them again."""
    while words:
        yield from draw.sample(words, len(words))


def _of(name: str) -> str:
    return f"d'{name}" if VOWEL.match(name) else f"de {name}"


def _the(noun: Noun) -> str:
    name, _, number = noun
    return f"l'{name}" if number == "sg" and VOWEL.match(name) else f"{THE[noun[1:]]} {name}"


def _of_the(noun: Noun) -> str:
    article, _, rest = _the(noun).partition(" ")
    return f"{OF_THE[article]} {rest}" if article in OF_THE else f"de {_the(noun)}"
