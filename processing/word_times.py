"""Tokens with their times -> words with theirs, cut as stock Whisper's pipeline cuts them."""

import codecs
import math
import string
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import fmean

from ..configuration.whisper_tokens import language_code

# The `return_timestamps` that asks for them.
WORDS = "word"
# Chinese, Japanese, Thai, Lao, Burmese, Cantonese: no spaces between words, so each character is one.
UNSPACED_LANGUAGES = frozenset(["zh", "ja", "th", "lo", "my", "yue"])
# Punctuation that belongs to the word behind it, after a space, and to the word before it, without one.
OPENING = frozenset("\"'“¡¿([{-")
CLOSING = frozenset("\"'.。,，!！?？:：”)]}、")
PRINTABLE_BYTES = (*range(33, 127), *range(161, 173), *range(174, 256))


@dataclass(frozen=True)
class Word:
    """Some tokens of a transcript, from the place `first` to before `end`, and what they say."""

    text: str
    first: int
    end: int

    def with_next(self, other: "Word") -> "Word":
        return Word(self.text + other.text, self.first, other.end)


@dataclass(frozen=True)
class TimedWord:
    """A word, when it was said (seconds), and the geometric mean of its tokens' probabilities, if known."""

    text: str
    start: float
    end: float
    confidence: float | None


def timed_words(
    tokenizer, ids: list[int], times: list, logprobs: list | None, language: str | None, seconds: float
) -> list[TimedWord]:
    """The words of one clip's ids `[N]` with their times `[N, 2]`; none ends behind its `seconds`."""
    words = [
        TimedWord(
            text=word.text,
            start=_within(times[word.first][0], seconds),
            end=_within(times[word.end - 1][1], seconds),
            confidence=None if logprobs is None else math.exp(fmean(logprobs[word.first : word.end])),
        )
        for word in words_of(tokenizer, ids, language)
        if word.text.strip()
    ]
    if words and has_spaces(language) and not words[0].text[0].isspace():
        # An adapter's training targets may begin without the space that Whisper writes.
        words[0] = replace(words[0], text=f" {words[0].text}")
    return words


def words_of(tokenizer, ids: list[int], language: str | None = None) -> list[Word]:
    """Words of Whisper's ids; special tokens, timestamps among them, are in none and end one.

    `language`: a code or a name, which says whether words have spaces between them.
    """
    words: list[Word] = []
    for first, end in _runs_of_text(ids, tokenizer.eos_token_id):
        pieces = list(characters(tokenizer, ids[first:end], first))
        words += with_punctuation(list(_joined(pieces)) if has_spaces(language) else pieces)
    return words


def has_spaces(language: str | None) -> bool:
    """Whether a language, by code or name, has spaces between its words; one that nobody knows has."""
    return language is None or language_code(language) not in UNSPACED_LANGUAGES


def _runs_of_text(ids: list[int], special: int) -> Iterator[tuple[int, int]]:
    """From where to where there is text between special tokens, all of which are from `special` on."""
    borders = [-1, *(place for place, token in enumerate(ids) if token >= special), len(ids)]
    for before, after in zip(borders, borders[1:], strict=False):
        if after - before > 1:
            yield before + 1, after


def characters(tokenizer, ids: list[int], offset: int = 0) -> Iterator[Word]:
    """Runs of tokens that are whole characters: a token is bytes, and may be a part of one."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    text, first = "", 0
    for place, token in enumerate(tokenizer.convert_ids_to_tokens(ids), 1):
        text += decoder.decode(token_bytes(token), final=place == len(ids))
        if text and not decoder.getstate()[0]:
            yield Word(text, offset + first, offset + place)
            text, first = "", place


def _joined(pieces: list[Word]) -> Iterator[Word]:
    """Words of pieces: one begins at a space, and at a punctuation mark that is a token of its own."""
    word: Word | None = None
    for piece in pieces:
        begins = piece.text.startswith(" ") or piece.text.strip() in string.punctuation
        if word is not None and not begins:
            word = word.with_next(piece)
            continue
        if word is not None:
            yield word
        word = piece
    if word is not None:
        yield word


def with_punctuation(words: list[Word]) -> list[Word]:
    """Words, with the punctuation marks among them put to those that they belong to."""
    attached: list[Word] = []
    for word in reversed(words):
        opens = word.text.startswith(" ") and set(word.text.strip()) <= OPENING
        if attached and opens:
            word = word.with_next(attached.pop())
        attached.append(word)
    closed: list[Word] = []
    for word in reversed(attached):
        if closed and not closed[-1].text.endswith(" ") and set(word.text) <= CLOSING:
            word = closed.pop().with_next(word)
        closed.append(word)
    return closed


def token_bytes(token: str) -> bytes:
    """The bytes that a token of a byte-level vocabulary stands for; another token is its text."""
    try:
        return bytes(BYTES[letter] for letter in token)
    except KeyError:
        return token.encode()


def _byte_letters() -> dict[str, int]:
    """Such vocabularies write a byte that is no printable letter as one from 256 on."""
    others = [byte for byte in range(256) if byte not in PRINTABLE_BYTES]
    return {chr(byte): byte for byte in PRINTABLE_BYTES} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


BYTES = _byte_letters()


def _within(time: float, seconds: float) -> float:
    # The last frame may end behind the sound.
    return min(round(time, 2), seconds)
