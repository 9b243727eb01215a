"""Text normalisers for WER and CER: named and versioned, for a rate means nothing without its normaliser.

A change of what one of them returns is a new version.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

# Inside a word they join it (don't, l'eau); elsewhere they are quotation marks.
APOSTROPHE = re.compile(r"(?<=\w)['\u2019\u02bc](?=\w)")
# Joiners and direction marks: seen by nobody, put in or left out by keyboards.
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
# Short vowels, doubling, Quranic signs and the stretching stroke.
ARABIC_DIACRITICS = re.compile(
    "[\u0610-\u061a\u0640\u064b-\u0652\u0656-\u065f\u0670\u06d6-\u06dc\u06df-\u06ed]"
)
ARABIC_DIGITS = {ord(first) + digit: str(digit) for first in "\u0660\u06f0" for digit in range(10)}
DOTTED_CAPITAL_I = "\u0130"


@dataclass(frozen=True)
class Normaliser:
    """`normaliser(text) -> text`; printed as `basic/1`, which is what a result is labelled with."""

    name: str
    version: int
    function: Callable[[str], str]

    def __call__(self, text: str) -> str:
        return self.function(text)

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


def normaliser(name: str) -> Normaliser:
    """The normaliser called `name`, or `name/version` where the version matters."""
    plain, _, version = name.partition("/")
    if plain not in NORMALISERS:
        raise ValueError(f"unknown normaliser {name!r}; there are {sorted(map(str, NORMALISERS.values()))}")
    found = NORMALISERS[plain]
    if version and version != str(found.version):
        raise ValueError(f"normaliser {name!r} is not this version's; there is {found}")
    return found


def basic(text: str) -> str:
    """Lower case, no punctuation or symbols, single spaces. Marks stay: in Indic scripts they are vowels."""
    # Lower-casing the dotted capital I would leave a loose dot behind the i.
    text = unicodedata.normalize("NFKC", text).replace(DOTTED_CAPITAL_I, "i").lower()
    text = APOSTROPHE.sub("", INVISIBLE.sub("", text))
    return " ".join(
        "".join(" " if unicodedata.category(sign)[0] in "PSZC" else sign for sign in text).split()
    )


def arabic(text: str) -> str:
    """`basic` without the diacritics, which few writers write, and with Western digits."""
    return basic(ARABIC_DIACRITICS.sub("", unicodedata.normalize("NFKC", text)).translate(ARABIC_DIGITS))


def turkic(text: str) -> str:
    """`basic` with the two letters i of Turkish and Azerbaijani kept apart."""
    return basic(text.replace(DOTTED_CAPITAL_I, "i").replace("I", "\u0131"))


def joined(text: str) -> str:
    """`basic` without spaces, for the CER of scripts that write none."""
    return basic(text).replace(" ", "")


def plain(text: str) -> str:
    """Only the spaces tidied: for rates with case and punctuation."""
    return " ".join(unicodedata.normalize("NFC", text).split())


# Its British spellings come with some tokenizers and not with others: left out, all are scored alike.
_WHISPER_ENGLISH = EnglishTextNormalizer({})

NORMALISERS = {
    item.name: item
    for item in (
        Normaliser("plain", 1, plain),
        Normaliser("basic", 1, basic),
        Normaliser("arabic", 1, arabic),
        Normaliser("turkic", 1, turkic),
        Normaliser("chinese", 1, joined),
        Normaliser("english", 1, lambda text: " ".join(_WHISPER_ENGLISH(text).split())),
    )
}
