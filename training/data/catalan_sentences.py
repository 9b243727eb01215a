"""Catalan sentences to be spoken: Spanish sayings and quotations, which Apertium puts into Catalan.

They have what the phrases of a dictionary lack: small words, verbs, and every word as often as people say it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from .fortunes import FORTUNES, distinct, fortunes, speakable

INSTALL = "apt-get install fortunes-es apertium apertium-spa-cat"
SENTENCE_END = re.compile(r"(?<=[.!?…:;])\s+|\s+[-–—]+\s*")
AROUND = " \"'«»“”()[].…:;,-–—"
LETTERS = r"(?:[^\W\d_]+)"
SPEAKABLE = re.compile(rf"[¿¡]?{LETTERS}(?:,? {LETTERS})*[!?]?")
# What Apertium puts before a word that it does not know, or cannot inflect.
UNTRANSLATED = re.compile(r"[*@#]")
# Catalan does without them.
OPENING = str.maketrans("", "", "¿¡")


def catalan_sentences(root: Path) -> list[str]:
    """The sentences, each once, in an order that does not change. `root`: where packages put their files."""
    spanish = distinct(_spanish((root / FORTUNES / "es").glob("*.fortunes")))
    modes = root / "apertium"
    if not (spanish and (modes / "modes" / "spa-cat.mode").is_file() and shutil.which("apertium")):
        raise ValueError(f"the sentences of Catalan are not there: {INSTALL}")
    # Across an empty line no sentence is read in the light of another.
    said = subprocess.run(
        ["apertium", "-d", str(modes), "spa-cat"],
        input="\n\n".join(spanish) + "\n",
        text=True,
        capture_output=True,
        check=True,
    ).stdout
    lines = (line.strip().translate(OPENING) for line in said.splitlines())
    known = (line for line in lines if line and not UNTRANSLATED.search(line))
    return distinct(line[0].upper() + line[1:] for line in known)


def _spanish(files: Iterable[Path]) -> Iterator[str]:
    for fortune in fortunes(files):
        for part in SENTENCE_END.split(fortune):
            sentence = part.strip(AROUND)
            if speakable(sentence, SPEAKABLE) and not _shouted(sentence):
                yield sentence if sentence[-1] in "!?" else f"{sentence}."


def _shouted(sentence: str) -> bool:
    """Whether it has words in capitals: voices spell out those that are abbreviations."""
    return any(len(word) > 1 and word.isupper() for word in re.findall(LETTERS, sentence))
