"""The words there are: of several ways to write a clip down, that with the fewest unknown ones is taken."""

import math
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

# Ways to write a clip down among which is chosen, unless `num_beams` says otherwise.
BEAMS = 5
# Signs that are written in several ways, and those that stand between words without a space.
FOLDED = str.maketrans("\u2019\u02bc\u2010\u2011\u2013\u2014\u2026", "''--   ")
# Within words: "l'hivern", "vint-i-dos".
SEAMS = str.maketrans("'-", "  ")


class WordList:
    """A set of words, whatever their case; `read` takes a file with one a line, as in /usr/share/dict."""

    def __init__(self, words: Iterable[str]):
        self.words = frozenset(word for word in plain_words("\n".join(words), "\n") if word)
        if not self.words:
            raise ValueError("a word list without a word")

    @classmethod
    def read(cls, path: str | os.PathLike) -> "WordList":
        """The list in a file; what cannot be read is told in one line."""
        try:
            with open(os.path.expanduser(path), encoding="utf-8") as lines:
                return cls(lines)
        except OSError as error:
            raise ValueError(f"word list {os.fspath(path)}: {error.strerror}") from None
        except ValueError:
            raise ValueError(f"word list {os.fspath(path)}: one word a line, in UTF-8, is wanted") from None

    def unknown(self, text: str) -> int:
        """How many words of a text are not in the list; numbers, signs and single letters count as known."""
        return sum(not self._knows(word) for word in plain_words(text))

    def best(self, texts: Sequence[str]) -> int:
        """Which of the texts has the fewest unknown words; of equals the first. Nothing at all comes last."""
        unknown = [self.unknown(text) if text.strip() else math.inf for text in texts]
        return unknown.index(min(unknown))

    def _knows(self, word: str) -> bool:
        if word in self.words or len(word) < 2 or any(map(str.isdigit, word)):
            return True
        parts = word.translate(SEAMS).split()
        return len(parts) > 1 and all(map(self._knows, parts))


def plain_words(text: str, between: str | None = None) -> Iterator[str]:
    """Words as they are compared: without case, and without the signs around them."""
    # Once for all of them: a list has hundreds of thousands.
    for word in unicodedata.normalize("NFC", text).translate(FOLDED).casefold().split(between):
        yield word if word.isalpha() else without_signs(word)


def without_signs(word: str) -> str:
    """A word from its first to its last letter, mark or number."""
    inside = [place for place, sign in enumerate(word) if unicodedata.category(sign)[0] in "LMN"]
    return word[inside[0] : inside[-1] + 1] if inside else ""
