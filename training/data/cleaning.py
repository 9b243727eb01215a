"""Label clean-up: the marks that corpora put into their transcripts, taken out by named rules.

A rule gets a text and returns the cleaned one, or None where no label can be made of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from .normalisers import APOSTROPHE, basic

# [noise], <unk>, {laugh}, *cough*: what is heard besides speech.
TAG = re.compile(r"\[[^\]]*\]|<[^>]*>|\{[^}]*\}|\*\w+\*")
GIGASPEECH_SIGNS = {"<COMMA>": ",", "<PERIOD>": ".", "<QUESTIONMARK>": "?", "<EXCLAMATIONPOINT>": "!"}
SPACE_BEFORE_SIGN = re.compile(r"\s+([,.?!])")
CJK_GAP = re.compile(r"(?<=[\u3040-\u30ff\u3400-\u9fff])\s+(?=[\u3040-\u30ff\u3400-\u9fff])")
REPLACEMENT_CHARACTER = "\ufffd"


def noise_tags(text: str) -> str:
    """Without bracketed sounds: `[laughs] yes` is `yes`."""
    return TAG.sub(" ", text)


def gigaspeech_signs(text: str) -> str:
    """Punctuation written as words in angle brackets becomes punctuation."""
    for word, sign in GIGASPEECH_SIGNS.items():
        text = text.replace(word, sign)
    return SPACE_BEFORE_SIGN.sub(r"\1", text)


def lower(text: str) -> str:
    """For corpora that are all in capitals."""
    return text.lower()


def bare_words(text: str) -> str:
    """Lower case without punctuation, but for apostrophes in words: fewer tokens to learn."""
    return "'".join(basic(part) for part in APOSTROPHE.split(text))


def join_chinese(text: str) -> str:
    """Without the spaces that segmented transcripts put between Chinese words."""
    return CJK_GAP.sub("", text)


def one_side_quotes(text: str) -> str:
    """Without the quotation marks that a table put around the whole sentence."""
    return text.strip('"') if text.startswith('"') and text.endswith('"') else text


def refuse_brackets(text: str) -> str | None:
    """Telephone prompts: a bracket says that this is a tone, or that the text is a remark about it."""
    return None if re.search(r"[\[(<{]", text) else text


RULES: dict[str, Callable[[str], str | None]] = {
    rule.__name__: rule
    for rule in (
        noise_tags,
        gigaspeech_signs,
        lower,
        bare_words,
        join_chinese,
        one_side_quotes,
        refuse_brackets,
    )
}


def check_rules(names: Iterable[str]) -> tuple[str, ...]:
    """The names, if there are such rules."""
    names = tuple(names)
    unknown = [name for name in names if name not in RULES]
    if unknown:
        raise ValueError(f"unknown text rules {unknown}; there are {sorted(RULES)}")
    return names


def clean_text(text: str, rules: Iterable[str] = ()) -> tuple[str, str | None]:
    """The cleaned text, and why it cannot be used, if it cannot."""
    if REPLACEMENT_CHARACTER in text:
        return text, "damaged text"
    for name in rules:
        cleaned = RULES[name](text)
        if cleaned is None:
            return text, "refused text"
        text = cleaned
    return " ".join(text.split()), None
