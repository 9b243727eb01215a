"""Named corpora: what the files in `presets/` say of where they are and how they are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from .cleaning import check_rules
from .corpora import KINDS
from .normalisers import normaliser

FOLDER = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class Preset:
    """One corpus. `languages`: our code -> its config on the Hub, None where languages are not configs."""

    title: str
    kind: str
    languages: Mapping[str, str | None]
    id: str | None = None
    config: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[str, ...] = ()
    normaliser: str = "basic"
    licence: str | None = None
    note: str = ""

    def __post_init__(self):
        object.__setattr__(self, "rules", check_rules(self.rules))
        normaliser(self.normaliser)
        if self.kind not in (*KINDS, "hub"):
            raise ValueError(
                f"preset {self.title}: unknown kind {self.kind!r}; there are {sorted([*KINDS, 'hub'])}"
            )

    def split(self, name: str) -> str:
        """What the corpus calls our split; a name of its own, such as `validation.clean`, stays."""
        if name in self.splits:
            return self.splits[name]
        if not self.splits or name in self.splits.values():
            return name
        raise ValueError(f"{self.title} has no split {name!r}; there are {sorted(self.splits)}")

    def language(self, code: str | None) -> tuple[str, str | None]:
        """The language's code and its config."""
        if code is None and len(self.languages) == 1:
            code = next(iter(self.languages))
        if code is None or code not in self.languages:
            raise ValueError(f"{self.title}: language {code!r}; the preset has {sorted(self.languages)}")
        return code, self.languages[code]


def preset_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def preset(name: str) -> Preset:
    """The corpus of that name."""
    path = FOLDER / f"{name}.yaml"
    if name not in preset_names():
        raise ValueError(f"unknown preset {name!r}; there are {preset_names()}")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    unknown = sorted(set(content) - {item.name for item in dataclasses.fields(Preset)})
    if unknown:
        raise ValueError(f"{path.name}: unknown keys {unknown}")
    return Preset(**content)
