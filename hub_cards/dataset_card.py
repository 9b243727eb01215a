"""The card of a corpus that `speechllm prepare` made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData
from speechllm.training.data.utterances import Utterance, read_manifest

from .data_facts import LANGUAGE_CODE, unique
from .licences import data_consequence, hub_name
from .model_card import Card
from .rendering import cell, markdown_table, render, signed

REPORT = "report.json"
SPLITS = ("train", "validation", "test")
# The Hub's size categories: above how many clips each begins.
SIZES = (
    (10**9, "n>1T"),
    (10**6, "1M<n<10M"),
    (10**5, "100K<n<1M"),
    (10**4, "10K<n<100K"),
    (10**3, "1K<n<10K"),
    (0, "n<1K"),
)
EXAMPLES = 5


def is_corpus(folder: Path) -> bool:
    """Whether manifests lie there, and no checkpoint."""
    return bool(manifests(folder)) and not any((folder / one).exists() for one in ("config.json", "model"))


def manifests(folder: Path) -> dict[str, Path]:
    """Split -> manifest, the usual splits first."""
    found = {path.stem: path for path in sorted(folder.glob("*.jsonl"))} if folder.is_dir() else {}
    return {
        name: found[name]
        for name in [*(s for s in SPLITS if s in found), *(s for s in found if s not in SPLITS)]
    }


def dataset_card(folder: Path, repo_id: str | None = None) -> Card:
    """Splits with hours and speakers, sets with what was dropped, licences, examples, how to read it."""
    clips = {name: read_manifest(path) for name, path in manifests(folder).items()}
    everything = [clip for items in clips.values() for clip in items]
    if not everything:
        raise ValueError(f"{folder}: its manifests hold no clips")
    repo_id = repo_id or f"your-name/{folder.resolve().name}"
    licences = unique(
        sorted({str(clip.extra["licence"]) for clip in everything if clip.extra.get("licence")})
    )
    values = {
        "front_matter": metadata(repo_id, everything, licences, list(clips)).to_yaml(),
        "title": repo_id.rpartition("/")[2],
        "repo_id": repo_id,
        "languages": languages(everything),
        "split_table": split_table(clips),
        "set_table": set_table(folder),
        "judged_on": next((name for name in ("validation", "test") if name in clips), None),
        "licences": licences,
        "licence_note": data_consequence(licences),
        "examples": examples(everything),
    }
    return Card(signed(render("dataset_card.md.jinja", values)))


def metadata(
    repo_id: str, clips: Sequence[Utterance], licences: list[str], splits: list[str]
) -> DatasetCardData:
    """What the Hub reads."""
    known = unique(map(hub_name, licences))
    return DatasetCardData(
        language=[one for one in languages(clips) if LANGUAGE_CODE.fullmatch(one)] or None,
        license=known or None,
        task_categories=["automatic-speech-recognition"],
        size_categories=next(name for above, name in SIZES if len(clips) >= above),
        pretty_name=repo_id.rpartition("/")[2],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"{name}.jsonl"} for name in splits],
            }
        ],
    )


def languages(clips: Sequence[Utterance]) -> list[str]:
    return sorted({clip.language for clip in clips if clip.language})


def split_table(clips: dict[str, list[Utterance]]) -> str:
    rows = [
        [
            name,
            f"{len(items):,}",
            f"{sum(item.seconds or 0 for item in items) / 3600:.2f}",
            len({item.speaker for item in items if item.speaker}) or "unknown",
            ", ".join(languages(items)) or "not recorded",
        ]
        for name, items in clips.items()
    ]
    return markdown_table(["split", "clips", "hours", "speakers", "languages"], rows, "lrrrl")


def set_table(folder: Path) -> str:
    """What `speechllm prepare` kept and dropped of each corpus; empty without its report."""
    path = folder / REPORT
    if not path.exists():
        return ""
    try:
        told: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        rows = [
            [
                cell(one["name"]),
                f"{sum(one['clips'].values()):,}",
                f"{sum(one['hours'].values()):.2f}",
                one.get("licence") or "",
                ", ".join(f"{count} {reason}" for reason, count in one["dropped"].items()) or "none",
            ]
            for one in told
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not what `speechllm prepare` writes: {error!r}") from error
    return markdown_table(["corpus", "clips", "hours", "licence", "dropped"], rows, "lrrll")


def examples(clips: Sequence[Utterance]) -> list[Utterance]:
    """The first clip of each language, as far as there is room."""
    first: dict[str | None, Utterance] = {}
    for clip in clips:
        if clip.text:
            first.setdefault(clip.language, clip)
    return list(first.values())[:EXAMPLES]
