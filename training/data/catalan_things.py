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
# Most words are filed under nothing: of those, the ones that it found this often.
FREQUENT = 1000
# Of a word for both, it gives the masculine form.
NUMBERS = {"m": ("m", "sg"), "m / f": ("m", "sg"), "f": ("f", "sg"), "mpl": ("m", "pl"), "fpl": ("f", "pl")}


def things(folder: Path, word: re.Pattern[str]) -> dict[tuple[str, str], set[str]]:
    """(gender, number) -> nouns that `word` matches as a whole."""
    found: dict[tuple[str, str], set[str]] = {}
    for path in sorted(folder.glob("*.dic")):
        for entry in ElementTree.parse(path).getroot():
            name = (entry.text or "").strip()
            if word.fullmatch(name):
                for kind in _kinds(entry):
                    found.setdefault(kind, set()).add(name)
    return found


def _kinds(entry: ElementTree.Element) -> Iterator[tuple[str, str]]:
    often = int(re.sub(r"\D", "", entry.get("frequency", "")) or 0)
    for sense in entry.iterfind("nouns/translations/translation"):
        # The dictionary spells it so.
        filed = f"{sense.get('catagory', '')} {sense.get('disambiguate', '')}".strip()
        kind = NUMBERS.get(sense.get("gender", ""))
        if kind and (SEEN.search(filed) if filed else often >= FREQUENT):
            yield kind
