"""One entry of a data configuration: which corpus, what of it, and how it is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .cleaning import check_rules
from .corpora import KINDS, read_corpus
from .hub import dataset_utterances, open_dataset, row_utterances
from .presets import Preset, preset
from .streams import BLOCK_ROWS, DatasetRows
from .utterances import Utterance


@dataclass(frozen=True)
class Source:
    """A corpus, or one split of it, as a configuration names it; None is "as the corpus or preset says"."""

    name: str | None = None
    preset: str | None = None
    kind: str | None = None
    path: str | None = None
    id: str | None = None
    config: str | None = None
    revision: str | None = None
    split: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    language: str | None = None
    task: str | None = None
    prompt: str | None = None
    rules: tuple[str, ...] | None = None
    weight: float | None = None
    limit: int | None = None
    streaming: bool = False

    @property
    def title(self) -> str:
        place = self.preset or self.id or (Path(self.path).name if self.path else "data")
        return self.name or "/".join(filter(None, (place, self.language, self.split)))


def source_from(fields: Mapping[str, Any] | str, default_split: str | None = None) -> Source:
    """The source that a mapping describes, completed by its preset; a mere path is a manifest."""
    fields = {"path": fields} if isinstance(fields, str) else dict(fields)
    known = {item.name for item in dataclasses.fields(Source)}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ValueError(f"unknown keys {unknown} of a data source; there are {sorted(known)}")
    source = Source(**fields)
    if source.preset is not None:
        source = _completed(source, preset(source.preset), default_split)
    elif source.kind is None:
        source = replace(source, kind="hub" if source.id else "manifest")
    if source.kind not in LOADERS:
        raise ValueError(f"unknown kind of data {source.kind!r}; there are {sorted(LOADERS)}")
    if source.kind == "hub" and not (source.id or source.path):
        raise ValueError(f"{source.title}: a dataset needs an id on the Hub, or a path on disk")
    if source.kind != "hub" and not source.path:
        raise ValueError(f"{source.title}: {source.kind} needs a path")
    if source.streaming and source.kind != "hub":
        raise ValueError(f"{source.title}: only datasets (kind hub) are streamed, not {source.kind}")
    return replace(source, rules=check_rules(source.rules or ()))


def load_source(source: Source) -> list[Utterance]:
    """Its utterances, with the language, task and prompt that it gives to all of them."""
    utterances = LOADERS[source.kind or "manifest"](source)
    return [labelled(source, utterance) for utterance in utterances[: source.limit]]


def labelled(source: Source, utterance: Utterance) -> Utterance:
    """What the source says of all its clips, which counts more than a column called language."""
    given = {name: getattr(source, name) for name in ("language", "task", "prompt")}
    given = {name: value for name, value in given.items() if value is not None}
    return replace(utterance, **given) if given else utterance


def dataset_rows(source: Source, streaming: bool) -> Any:
    """The source's rows, with its sound undecoded."""
    place = source.id or source.path or ""
    return open_dataset(place, source.split or "train", source.config, streaming, source.revision)


class LabelledRows(DatasetRows):
    """Rows of a stream with what their source says of all of them."""

    def __init__(self, source: Source):
        super().__init__(dataset_rows(source, streaming=True), source.columns, source.title)
        self.source = source

    def blocks(self, *place):
        for block, state in super().blocks(*place):
            yield [labelled(self.source, utterance) for utterance in block], state


def _corpus(source: Source) -> list[Utterance]:
    return read_corpus(source.kind or "manifest", source.path or "", source.split, source.columns)


def _dataset(source: Source) -> list[Utterance]:
    if not source.streaming:
        return list(dataset_utterances(dataset_rows(source, False), source.columns, source.title))
    if source.limit is None:
        raise ValueError(f"{source.title}: what is streamed into memory needs a limit, a number of clips")
    taken: list[Utterance] = []
    for batch in dataset_rows(source, True).iter(batch_size=BLOCK_ROWS):
        taken += row_utterances(batch, source.columns, source.title)
        if len(taken) >= source.limit:
            break
    return taken


LOADERS: dict[str, Callable[[Source], list[Utterance]]] = {**dict.fromkeys(KINDS, _corpus), "hub": _dataset}


def _completed(source: Source, found: Preset, default_split: str | None) -> Source:
    """The source, with what it leaves open taken from its preset."""
    language, config = found.language(source.language)
    split = source.split or default_split
    return replace(
        source,
        kind=source.kind or found.kind,
        id=source.id or (None if source.path else found.id),
        config=source.config or config or found.config,
        split=None if split is None else found.split(split),
        columns={**found.columns, **source.columns} if source.kind in (None, found.kind) else source.columns,
        language=language,
        rules=found.rules if source.rules is None else source.rules,
    )
