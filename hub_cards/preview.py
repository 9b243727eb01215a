"""A card as a page of its own: pictures inside, nothing fetched."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping
from pathlib import PurePath

try:
    from markdown_it import MarkdownIt
except ImportError as error:
    raise ImportError("a card's page needs markdown-it-py: pip install markdown-it-py") from error
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from .model_card import Card
from .rendering import TEMPLATES

KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".svg": "image/svg+xml"}
IMAGE = re.compile(r'<img src="([^"]+)"')


def preview_page(card: Card) -> str:
    """HTML of a card: its metadata folded away, then its text, much as the Hub shows it."""
    block = REGEX_YAML_BLOCK.search(card.text)
    metadata, text = (block.group(2), card.text[block.end() :]) if block else ("", card.text)
    # html off: what stands in a card as a tag is shown, not run.
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(_without_comments(text))
    title = next((line[2:] for line in text.splitlines() if line.startswith("# ")), "card")
    page = (TEMPLATES / "page.html").read_text(encoding="utf-8")
    parts = {
        "TITLE": html.escape(title),
        "METADATA": html.escape(metadata),
        "BODY": with_pictures(body, card.files),
    }
    return re.sub(r"<!--(TITLE|METADATA|BODY)-->", lambda found: parts[found[1]], page)


def with_pictures(body: str, files: Mapping[str, bytes]) -> str:
    """Every picture of the card's own files as data; others are left out, with a note in their place."""

    def embedded(found: re.Match[str]) -> str:
        picture, kind = files.get(found[1]), KINDS.get(PurePath(found[1]).suffix)
        if picture is None or kind is None:
            return f'<img data-missing="{found[1]}"'
        return f'<img src="data:{kind};base64,{base64.b64encode(picture).decode()}"'

    return IMAGE.sub(embedded, body)


def _without_comments(text: str) -> str:
    return re.sub(r"<!--.*?-->", "", text, flags=re.S)
