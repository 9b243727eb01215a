"""Every run of an experiment over models, languages and ranks, by number, from a file of lists."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GRIDS = Path(__file__).parent / "grids"


@dataclass(frozen=True)
class GridModel:
    """A base, and what one run on one language takes: `hours` is the least and the most."""

    name: str
    id: str
    memory_gb: int
    hours: tuple[int, int]
    gpus: tuple[str, ...]

    def __post_init__(self):
        if self.memory_gb <= 0 or not 0 < self.hours[0] <= self.hours[1]:
            raise ValueError(
                f"model {self.name!r}: memory_gb={self.memory_gb}, hours={list(self.hours)} are no resources"
            )


@dataclass(frozen=True)
class GridLanguage:
    """A language, and what the corpora call it."""

    name: str
    code: str
    names: dict[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class GridRun:
    """One training: a LoRA of one rank for one language on one model."""

    index: int
    model: GridModel
    language: GridLanguage
    rank: int

    @property
    def name(self) -> str:
        return f"{self.model.name}_{self.language.name}_r{self.rank}"

    @property
    def lora_alpha(self) -> int:
        """Twice the rank: so a rank is compared, and not a scale of the update."""
        return 2 * self.rank


@dataclass(frozen=True)
class ExperimentGrid:
    """All models x languages x ranks; the rank changes with every run, the model most seldom."""

    models: tuple[GridModel, ...]
    languages: tuple[GridLanguage, ...]
    ranks: tuple[int, ...]

    def __post_init__(self):
        for name in ("models", "languages", "ranks"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"the grid has no {name}")
            twice = [value for value in values if values.count(value) > 1]
            if twice:
                raise ValueError(f"the grid's {name} hold {getattr(twice[0], 'name', twice[0])!r} twice")
        wrong = [rank for rank in self.ranks if type(rank) is not int or rank < 1]
        if wrong:
            raise ValueError(f"the grid's ranks hold {wrong[0]!r}: a rank is a whole number, at least 1")

    def __len__(self) -> int:
        return len(self.models) * len(self.languages) * len(self.ranks)

    def __iter__(self) -> Iterator[GridRun]:
        return (self.run(index) for index in range(len(self)))

    def run(self, index: int) -> GridRun:
        """Run `index`, from 0; a job of an array that has none is an error."""
        if not 0 <= index < len(self):
            raise IndexError(
                f"no run {index}: {len(self.models)} models x {len(self.languages)} languages x "
                f"{len(self.ranks)} ranks are runs 0 to {len(self) - 1}"
            )
        model, rest = divmod(index, len(self.languages) * len(self.ranks))
        language, rank = divmod(rest, len(self.ranks))
        return GridRun(index, self.models[model], self.languages[language], self.ranks[rank])


def read_grid(name: str | os.PathLike = "languages_ranks") -> ExperimentGrid:
    """A grid that ships with the package, by its name, or a JSON file of the same form."""
    path = Path(name) if str(name).endswith(".json") else GRIDS / f"{name}.json"
    if not path.is_file():
        raise ValueError(
            f"no grid {str(name)!r}; there are {', '.join(sorted(p.stem for p in GRIDS.glob('*.json')))}"
        )
    try:
        return grid_from(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name} is no grid of models, languages and ranks: {error!r}") from error


def grid_from(content: dict[str, Any]) -> ExperimentGrid:
    """A grid from what its file holds."""
    models = tuple(
        GridModel(
            name, item["id"], item["memory_gb"], (item["hours"][0], item["hours"][1]), tuple(item["gpus"])
        )
        for name, item in content["models"].items()
    )
    languages = tuple(
        GridLanguage(name, item["code"], {key: value for key, value in item.items() if key != "code"})
        for name, item in content["languages"].items()
    )
    return ExperimentGrid(models, languages, tuple(content["ranks"]))
