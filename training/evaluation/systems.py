"""Systems as they are named on the command line: `NAME=KIND:MODEL,key=value`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from speechllm.configuration.configuration_strict import suggest

from .provider_base import Provider
from .provider_table import PROVIDERS

OWN_KIND = "speechllm"
# Names become parts of file names and labels of pictures.
NAME = re.compile(r"[\w-]{1,60}")


@dataclass(frozen=True)
class System:
    """A recognizer with its options, and what the report calls it."""

    name: str
    kind: str
    model: str
    options: Mapping[str, str] = field(default_factory=dict)

    def provider(self) -> Provider:
        """The recognizer, checked but not loaded."""
        if self.kind not in PROVIDERS:
            raise ValueError(f"unknown provider {self.kind!r}; {suggest(self.kind, PROVIDERS)}")
        return PROVIDERS[self.kind](self.kind, self.model, self.options)


def system_from(text: str) -> System:
    """`stock=transformers:openai/whisper-base,language=given`; a bare path or id is a checkpoint of ours."""
    head, *rest = text.split(",")
    name, separator, target = head.rpartition("=")
    kind, colon, model = target.partition(":")
    if not colon or Path(target).exists() or "/" in kind or "\\" in kind:
        kind, model = OWN_KIND, target
    options = {}
    for part in rest:
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{text}: {part!r} is no key=value")
        options[key.strip()] = value.strip()
    name = name if separator else name_of(model)
    check_name("system", name)
    return System(name, kind, model, options)


def name_of(place: str) -> str:
    """What something is called after the last part of its path or id."""
    return re.sub(r"[^\w-]", "-", Path(place).name)


def check_name(what: str, name: str) -> None:
    """Raise `ValueError` for a name that could not be part of a file's."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{what} {name!r}: a name is made of letters, digits, - and _, 60 at most")


def check_distinct(what: str, names: Iterable[str]) -> None:
    """Raise `ValueError` where two of the same kind share a name."""
    names = list(names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two {what} are called {twice[0]!r}: give them names, NAME={what.upper()[:-1]}")


def reference_of(systems: Sequence[System], against: str | None) -> str:
    """The system that the others are compared with: the first, or the one that is named."""
    names = [system.name for system in systems]
    if against is not None and against not in names:
        raise ValueError(f"--against {against!r} names no system; {suggest(against, names)}")
    return against or names[0]
