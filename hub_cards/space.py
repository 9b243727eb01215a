"""The folder of a Space: the demo of one checkpoint, with all that it needs to run as it stands."""

from __future__ import annotations

import json
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import speechllm
from huggingface_hub import SpaceCardData
from speechllm.configuration.configuration_speechllm import SpeechLLMConfig
from speechllm.default_checkpoint import default_checkpoint

from .contents import CARD, PACKAGE, Contents, folder_contents, requirements
from .licences import UNKNOWN, base_licence, combined
from .rendering import render, signed
from .run_facts import RESULTS, checkpoint_in

MODEL = "model"
ROOMS = ("configuration", "modeling", "processing", "demo")
# Rooms that a page that transcribes has no use for.
NOT_NEEDED = ("training", "hub_cards")
PYTHON = "3.12"
SDK = "gradio"


def space_contents(model: str, space_id: str) -> Contents:
    """Card, app, requirements, the package's code; and the checkpoint itself, where it is a folder."""
    local = Path(model).expanduser().is_dir()
    checkpoint = checkpoint_in(model) if local else None
    contents: Contents = {
        CARD: space_card(model, space_id, checkpoint).encode(),
        "app.py": render("app.py.jinja", {"model": json.dumps(MODEL if checkpoint else model)}).encode(),
        "requirements.txt": "\n".join([*requirements("demo"), ""]).encode(),
    }
    if checkpoint:
        kept = folder_contents(checkpoint)
        contents |= {f"{MODEL}/{path}": kept[path] for path in kept if path not in (CARD, RESULTS)}
    return dict(sorted((contents | package_contents()).items()))


def space_card(model: str, space_id: str, checkpoint: Path | None) -> str:
    """The Space's README: what the Hub needs to run it, and a few words."""
    title = space_id.rpartition("/")[2]
    data = SpaceCardData(
        title=title,
        sdk=SDK,
        sdk_version=version(SDK),
        python_version=PYTHON,
        app_file="app.py",
        license=licence_of(checkpoint),
        models=None if checkpoint else [model],
        tags=["speechllm", "automatic-speech-recognition"],
        # What the Hub shows of a Space.
        emoji="🎙️",
        colorFrom="blue",
        colorTo="yellow",
        pinned=False,
        short_description="Speak, and read what is heard",
    )
    link = "the checkpoint in `model`" if checkpoint else f"[{model}](https://huggingface.co/{model})"
    values = {"front_matter": data.to_yaml(), "title": title, "model_link": link}
    return signed(render("space_card.md.jinja", values))


def licence_of(checkpoint: Path | None) -> str | None:
    """That of the model, which is that of its bases; a model on the Hub tells of its own."""
    if checkpoint is None:
        return None
    config = SpeechLLMConfig.from_pretrained(str(checkpoint))
    bases = dict.fromkeys(filter(None, (config.encoder_id, config.decoder_id)))
    found = combined(base_licence(base_id) for base_id in bases)
    return None if found.kind == UNKNOWN else found.id


def package_contents() -> Contents:
    """The installed package's files under one name, as far as the page has a use for them."""
    root = Path(speechllm.__path__[0])
    found: Contents = {
        f"{PACKAGE}/{path}": file
        for path, file in _code(root).items()
        # Where the package is a folder of rooms, as in a wheel: those come below.
        if path.partition("/")[0] not in (*ROOMS, *NOT_NEEDED)
    }
    for room in ROOMS:
        place = Path(import_module(f"{PACKAGE}.{room}").__path__[0])
        found |= {f"{PACKAGE}/{room}/{path}": file for path, file in _code(place).items()}
    return found


def _code(folder: Path) -> Contents:
    """Files below a folder but what Python compiled, and the checkpoints that travel with the page."""
    shipped = default_checkpoint().parent.name
    return {
        path: file
        for path, file in folder_contents(folder).items()
        if not path.endswith(".pyc") and not path.startswith(f"{shipped}/")
    }
