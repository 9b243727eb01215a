"""Templates, tables and the mark by which a card of ours is known."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"
# Last line of a card: by its digest, an edited card is told from one that may be written anew.
MARK = re.compile(r"\n<!-- speechllm card ([0-9a-f]{16}) -->\n\Z")
# Cards that libraries write by themselves: nobody's work is lost with them.
STOCK_CARDS = (
    "This is the model card of a 🤗 transformers model that has been pushed on the Hub.",
    "This model card has been generated automatically according to the information the Trainer had access to",
    "generated_from_trainer",
)


def render(template: str, values: Mapping[str, Any]) -> str:
    """A filled template; no more than one empty line in a row."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = cell
    text = environment.get_template(template).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def cell(text: Any) -> str:
    """A text as it may stand in a cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[Any]], sides: str) -> str:
    """`sides`: a letter a column, "l" or "r"."""
    lines = [titles, ["---:" if side == "r" else "---" for side in sides], *rows]
    return "\n".join("| " + " | ".join(str(one) for one in line) + " |" for line in lines)


def signed(text: str) -> str:
    """A card with its mark."""
    return f"{text}\n<!-- speechllm card {_digest(text)} -->\n"


def may_be_replaced(text: str) -> bool:
    """Whether a card is one that a program wrote and nobody has changed since."""
    mark = MARK.search(text)
    return _digest(text[: mark.start()]) == mark[1] if mark else is_stock(text)


def is_stock(text: str) -> bool:
    """Whether a library wrote it by itself."""
    return not MARK.search(text) and any(line in text for line in STOCK_CARDS)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
