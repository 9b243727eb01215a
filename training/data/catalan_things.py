"""Catalan words for what pictures show, from the dictionary Dacco: animals, tools, food, clothes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

DICTIONARY = Path("dacco-common") / "dictionaries" / "cateng"
# What the dictionary files a word under if one can see what it means.
SEEN = re.compile(
    r"animal|architecture|astronomy|body|clothes|computers-hardware|family|food|fruit|household|material"
    r"|music-instrument|plant|sport|tools|transport|weather|work-job"
)
# Most words are filed under nothing: those that are frequent are there too, each a fifth as often as a thing,
# for a word is drawn by the root of its weight.
FREQUENT, FREQUENT_WEIGHT, SEEN_WEIGHT = 5000, 0.04, 1.0
NUMBERS = {"m": ("m", "sg"), "f": ("f", "sg"), "mpl": ("m", "pl"), "fpl": ("f", "pl")}


def things(folder: Path, word: re.Pattern[str]) -> dict[tuple[str, str], dict[str, float]]:
    """(gender, number) -> noun -> weight, of the nouns that `word` matches as a whole."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for path in sorted(folder.glob("*.dic")):
        for entry in ElementTree.parse(path).getroot():
            name = (entry.text or "").strip()
            if word.fullmatch(name):
                often = int(re.sub(r"\D", "", entry.get("frequency", "")) or 0)
                for kind, weight in _senses(entry, often):
                    known = found.setdefault(kind, {})
                    known[name] = max(weight, known.get(name, 0.0))
    return found


def _senses(entry: ElementTree.Element, often: int) -> Iterator[tuple[tuple[str, str], float]]:
    for sense in entry.iterfind("nouns/translations/translation"):
        # The dictionary spells it so.
        filed = f"{sense.get('catagory', '')} {sense.get('disambiguate', '')}".strip()
        kind = NUMBERS.get(sense.get("gender", ""))
        if kind and SEEN.search(filed):
            yield kind, SEEN_WEIGHT
        elif kind and not filed and often >= FREQUENT:
            yield kind, FREQUENT_WEIGHT
