"""The card of whatever lies in a folder, and its place on disk."""

from __future__ import annotations

from pathlib import Path

from speechllm.configuration.writing import replacing_files

from .contents import CARD
from .dataset_card import dataset_card, is_corpus
from .model_card import Card, model_card
from .rendering import is_stock, may_be_replaced
from .run_facts import read_run


def card_of(
    folder: Path, repo_id: str | None = None, results: Path | None = None, system: str | None = None
) -> tuple[Card, Path]:
    """The card of a run, a checkpoint or a corpus, and the folder that it belongs into."""
    if is_corpus(folder):
        return dataset_card(folder, repo_id), folder
    run = read_run(folder, results, system)
    return model_card(run, repo_id), run.checkpoint


def replace_stock_card(folder: Path, repo_id: str) -> None:
    """What `model.push_to_hub` is about to upload, with our card for the stock one.

    A card of ours that the repository has stays, even unchanged: it may tell of results that are not here.
    """
    if is_stock((folder / CARD).read_text(encoding="utf-8")):
        write_card(card_of(folder, repo_id)[0], folder)


def write_card(card: Card, folder: Path) -> list[Path]:
    """Write a card with its pictures; a card there that somebody wrote is refused."""
    place = folder / CARD
    if place.exists() and not may_be_replaced(place.read_text(encoding="utf-8")):
        raise ValueError(f"{place} was written or changed by somebody: move it away to have one made")
    written = {CARD: card.text.encode(), **card.files}
    for path, content in written.items():
        with replacing_files((folder / path).parent) as partial:
            (Path(partial) / Path(path).name).write_bytes(content)
    return [folder / path for path in written]
