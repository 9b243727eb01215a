"""From a data configuration, a plain mapping, to the datasets of a run. Its keys: `docs/data.md`."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .cleaning import clean_text
from .datasets import SpeechDataset
from .filters import DropReport, FilterSettings, filter_utterances, sentence_key
from .mixing import Mixture
from .normalisers import Normaliser, normaliser
from .sources import LabelledRows, Source, load_source, source_from
from .splits import SHARES, SPLITS, prove_disjoint, split
from .streams import ListRows, SpeechStream, StreamSource
from .utterances import Utterance

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitSettings:
    """How sources are divided into train, validation and test, and which of the last two evaluate a run."""

    by: str = "text"
    shares: tuple[float, ...] = SHARES
    evaluate: tuple[str, ...] = ("validation",)


@dataclass(frozen=True)
class DataSettings:
    """A data configuration, checked."""

    train: tuple[Source, ...] = ()
    eval: Mapping[str, Source] = field(default_factory=dict)
    split: SplitSettings | None = None
    filters: FilterSettings = field(default_factory=FilterSettings)
    normaliser: Normaliser = field(default_factory=lambda: normaliser("basic"))
    # No sentence of an evaluation set is trained on, whoever says it.
    exclude_eval_sentences: bool = True
    # Clips of an epoch when sources are weighted; as many as there are where none is given.
    epoch_clips: int | None = None
    seed: int = 42
    # A folder of `speechllm cache-features`, which takes the place of the training clips' sound.
    features: str | None = None


@dataclass
class BuiltData:
    """The datasets of a run; also reads as the mapping `{"train": ..., "eval": {...}}`."""

    train: SpeechDataset | SpeechStream | None
    eval: dict[str, SpeechDataset]
    normaliser: Normaliser
    reports: list[DropReport]

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


def build_datasets(data: Mapping[str, Any], rank: int = 0, world_size: int = 1) -> BuiltData:
    """Read, filter, split and mix what `data` names; everything that is wrong with it is said here.

    `rank` and `world_size` matter to streams alone, which deal their rows out to processes themselves.
    """
    settings = data_settings(data)
    _refuse_impossible(settings)
    groups = [] if _streamed(settings) else [load_source(source) for source in settings.train]
    held_out: dict[str, list[Utterance]] = {}
    if settings.split is not None:
        groups, held_out = _divided(groups, settings)
    reports: list[DropReport] = []
    wanted = settings.split.evaluate if settings.split is not None else ()
    evals = {name: _evaluation(name, items, (), settings, reports) for name, items in held_out.items()}
    kept_apart = [item for dataset in evals.values() for item in dataset.utterances]
    evals = {name: dataset for name, dataset in evals.items() if name in wanted}
    for name, source in settings.eval.items():
        evals[name] = _evaluation(name, load_source(source), source.rules or (), settings, reports)
        kept_apart += evals[name].utterances
    barred = {sentence_key(item.text) for item in kept_apart if item.text}
    barred = barred if settings.exclude_eval_sentences else set()
    if _streamed(settings):
        train: Any = _stream(settings, barred, rank, world_size)
        reports += train.reports()
    else:
        train = _mapped(settings, groups, barred, reports) if settings.train else None
    if settings.exclude_eval_sentences and isinstance(train, SpeechDataset):
        prove_disjoint({"train": train.utterances, "evaluation": kept_apart})
    return BuiltData(train, evals, settings.normaliser, reports)


def data_settings(data: Mapping[str, Any]) -> DataSettings:
    """`data` as settings; a key that does not exist is refused with those that do."""
    fields: dict[str, Any] = {key: value for key, value in data.items() if value is not None}
    _known(fields, DataSettings, "data")
    if "train" in fields:
        entries = fields["train"]
        entries = [entries] if isinstance(entries, (str, Mapping)) else entries
        fields["train"] = tuple(source_from(entry, "train") for entry in entries)
    if "eval" in fields:
        evals = fields["eval"].items()
        fields["eval"] = {name: source_from(entry, "validation") for name, entry in evals}
    for name, kind in (("split", SplitSettings), ("filters", FilterSettings)):
        if name in fields:
            _known(fields[name], kind, name)
            # Lists of YAML would not do as fields of a frozen class.
            values: dict[str, Any] = {
                key: tuple(value) if isinstance(value, (list, tuple)) else value
                for key, value in fields[name].items()
            }
            fields[name] = kind(**values)
    if "normaliser" in fields:
        fields["normaliser"] = normaliser(fields["normaliser"])
    return DataSettings(**fields)


def _known(fields: Mapping[str, Any], kind: type, where: str) -> None:
    known = sorted(item.name for item in dataclasses.fields(kind))
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise ValueError(f"unknown keys {unknown} in {where}; there are {known}")


def _streamed(settings: DataSettings) -> bool:
    return any(source.streaming for source in settings.train)


def _refuse_impossible(settings: DataSettings) -> None:
    weights = [source.weight for source in settings.train]
    if len({weight is None for weight in weights}) > 1:
        raise ValueError(f"either every train source has a weight or none; the weights are {weights}")
    if _streamed(settings) and settings.split is not None:
        raise ValueError("a stream cannot be split: name a split of each source under train and eval instead")
    if _streamed(settings) and len(weights) > 1 and weights[0] is None:
        raise ValueError("streams are endless: mixing several needs a weight for each")
    if settings.split is not None and not set(settings.split.evaluate) <= {*SPLITS[1:]}:
        raise ValueError(f"split.evaluate {list(settings.split.evaluate)} is not among {list(SPLITS[1:])}")
    clashes = set(settings.eval) & set(settings.split.evaluate if settings.split else ())
    if clashes:
        raise ValueError(f"eval names {sorted(clashes)}, which the split makes too; give it another name")


def _divided(
    groups: Sequence[list[Utterance]], settings: DataSettings
) -> tuple[list[list[Utterance]], dict[str, list[Utterance]]]:
    """The train part of each source, and the held-out parts of all."""
    cleaned = [
        # What is the same sentence is told after clean-up.
        [replace(item, text=clean_text(item.text, source.rules or ())[0]) for item in group]
        for source, group in zip(settings.train, groups, strict=True)
    ]
    places = {id(item): place for place, group in enumerate(cleaned) for item in group}
    rules = settings.split or SplitSettings()
    spoken = [item for group in cleaned for item in group]
    parts = split([item for item in spoken if not item.extra.get("synthetic")], rules.by, rules.shares)
    prove_disjoint(parts, rules.by)
    trained: list[list[Utterance]] = [[] for _ in cleaned]
    for item in [*parts["train"], *(item for item in spoken if item.extra.get("synthetic"))]:
        trained[places[id(item)]].append(item)
    return trained, {name: parts[name] for name in SPLITS[1:] if parts[name]}


def _evaluation(
    name: str,
    utterances: list[Utterance],
    rules: Sequence[str],
    settings: DataSettings,
    reports: list[DropReport],
) -> SpeechDataset:
    """A set to evaluate on: all of it but what cannot be evaluated, for a hard clip is no wrong clip.

    Every clip is decoded now: one that failed later would be replaced by another, and change the rates.
    """
    synthetic = sum(bool(item.extra.get("synthetic")) for item in utterances)
    if synthetic:
        raise ValueError(f"eval {name}: {synthetic} of {len(utterances)} clips are synthetic; train on those")
    lenient = replace(
        settings.filters,
        min_seconds=None,
        min_characters_per_second=None,
        max_characters_per_second=None,
        check_audio=True,
    )
    reports.append(DropReport(f"eval {name}"))
    return SpeechDataset(filter_utterances(utterances, lenient, rules, reports[-1]), f"eval {name}")


def _mapped(
    settings: DataSettings, groups: Sequence[list[Utterance]], barred: set[str], reports: list[DropReport]
) -> SpeechDataset:
    kept = []
    for source, group in zip(settings.train, groups, strict=True):
        reports.append(DropReport(f"train {source.title}"))
        kept.append(filter_utterances(group, settings.filters, source.rules or (), reports[-1], barred))
    mixture = None
    if settings.train[0].weight is not None:
        weights = [source.weight or 0.0 for source in settings.train]
        mixture = Mixture([len(group) for group in kept], weights, settings.seed, settings.epoch_clips)
    return SpeechDataset([*itertools.chain(*kept)], "train", mixture)


def _stream(settings: DataSettings, barred: set[str], rank: int, world_size: int) -> SpeechStream:
    sources = [
        StreamSource(
            LabelledRows(source) if source.streaming else ListRows(load_source(source)),
            f"train {source.title}",
            1.0 if source.weight is None else source.weight,
            settings=settings.filters,
            rules=source.rules or (),
            barred=barred,
        )
        for source in settings.train
    ]
    return SpeechStream(sources, settings.seed, rank, world_size)
