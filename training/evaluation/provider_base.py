"""What every recognizer that can be evaluated has: options as data, clips in, what was heard out."""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from speechllm.configuration.configuration_strict import suggest
from speechllm.configuration.whisper_tokens import language_code

# What `language=` may say besides a code: what the manifest says of each clip, or nothing at all.
GIVEN, AUTO = "given", "auto"
TRUE_WORDS, FALSE_WORDS = ("true", "yes", "1"), ("false", "no", "0")


class SpeechClip(NamedTuple):
    """What a recognizer is given."""

    waveform: np.ndarray  # [n] float32 at 16 kHz
    language: str | None  # as the manifest has it


@dataclass(frozen=True)
class Heard:
    """What a recognizer made of one clip; `error` says why it made nothing."""

    text: str = ""
    # As the recognizer found it; None where it was told, or says nothing of it.
    language: str | None = None
    language_scores: Mapping[str, float] | None = None
    error: str | None = None


@dataclass(frozen=True)
class ProviderOptions:
    """What may follow a model as `key=value`."""

    language: str = AUTO
    batch_size: int = 8


class Provider(ABC):
    """A recognizer. Making one checks what can be checked without loading; `load` makes it ready."""

    Options: ClassVar[type[ProviderOptions]] = ProviderOptions
    # Whether it runs on this machine, where its memory is measured and its first call is not.
    local: ClassVar[bool] = True
    # What `load` made and `release` gives up.
    engine: Any = None

    def __init__(self, kind: str, model: str, options: Mapping[str, str]):
        if not model:
            raise ValueError(f"{kind} needs a model: {kind}:MODEL")
        self.kind, self.model = kind, os.path.expanduser(model)
        self.options = options_from(self.Options, kind, options)
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Raise `ValueError` for what would otherwise fail only after minutes."""

    @abstractmethod
    def load(self) -> None:
        """Make it ready to transcribe."""

    def release(self) -> None:
        """Give up what was loaded."""
        self.engine = None

    @abstractmethod
    def transcribe(self, clips: Sequence[SpeechClip]) -> list[Heard]:
        """What is heard in each clip. What is wrong with one clip alone is its `Heard.error`."""

    def configuration(self) -> dict[str, Any]:
        """How it was set up, for whoever reads the results."""
        return {"kind": self.kind, "model": self.model, **dataclasses.asdict(self.options)}

    def identity(self) -> dict[str, Any]:
        """All that its transcripts depend on and that is known before it is loaded."""
        return {**self.configuration(), "files": file_states(self.model)}

    def told(self, clip: SpeechClip) -> str | None:
        """The language that the recognizer is told of a clip."""
        return {GIVEN: clip.language, AUTO: None}.get(self.options.language, self.options.language)


def by_language(
    provider: Provider,
    clips: Sequence[SpeechClip],
    transcribe: Callable[[list[np.ndarray], str | None], list[Heard]],
) -> list[Heard]:
    """For recognizers that are told one language a call: a call for each language, results in order."""
    places: dict[str | None, list[int]] = defaultdict(list)
    for place, clip in enumerate(clips):
        places[provider.told(clip)].append(place)
    heard = [Heard()] * len(clips)
    for language, group in places.items():
        for place, one in zip(group, transcribe([clips[p].waveform for p in group], language), strict=True):
            # What it was told, it has not found.
            heard[place] = one if language is None else dataclasses.replace(one, language=None)
    return heard


def options_from(options: type[ProviderOptions], kind: str, given: Mapping[str, str]) -> Any:
    """An options object from words; unknown keys and words of the wrong kind are refused."""
    hints = typing.get_type_hints(options)
    for key in given:
        if key not in hints:
            raise ValueError(f"{kind} has no option {key!r}; {suggest(key, hints)}")
    return options(**{key: _converted(f"{kind}: {key}", word, hints[key]) for key, word in given.items()})


def _converted(name: str, word: str, hint: Any) -> Any:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kind = next(one for one in kinds if one is not types.NoneType)
    if kind is bool and word.lower() in (*TRUE_WORDS, *FALSE_WORDS):
        return word.lower() in TRUE_WORDS
    try:
        number = kind(word) if kind is not bool else None
    except ValueError:
        number = None
    if number is None or (kind in (int, float) and number < 0):
        raise ValueError(f"{name}={word} is no {'yes or no' if kind is bool else kind.__name__} from 0 on")
    return number


def file_states(place: str) -> list[list[Any]]:
    """Name, size and time of change of the files of a folder, or of one file; none for an id on the Hub."""
    path = Path(place)
    paths = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    states = [(p, p.stat()) for p in paths if p.is_file()]
    return [[str(p.relative_to(path.parent)), state.st_size, state.st_mtime_ns] for p, state in states]


def short_language(name: str | None) -> str | None:
    """ "en-US", "en_us", "English" -> "en"; what is no known language stays as it is."""
    if not name:
        return None
    first = name.lower().replace("_", "-").partition("-")[0]
    return language_code(name) or language_code(first) or name
