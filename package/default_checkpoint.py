"""The checkpoint that is used where none is named. It travels with the package; its base is fetched once."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from speechllm.bases.install import bases_folder, install_base
from speechllm.bases.sources import BASES
from speechllm.configuration.base_resolution import local_base

# Eleven languages on Whisper base: the one of those that travel along that knows most languages.
NAME = "eleven-languages"


def default_checkpoint() -> Path:
    """Its folder in the installed package."""
    return Path(str(files("speechllm.demo"))) / "checkpoints" / NAME


def fetch_missing_bases(config, bases, report: Callable[[str], None]) -> None:
    """Install the bases of `config` that lie nowhere on this machine, where they are known to be had.

    What is fetched is announced by `report`, at the revision the config is pinned to, checksums verified.
    """
    for base_id, revision in (
        (config.encoder_id, config.encoder_revision),
        (config.decoder_id, config.decoder_revision),
    ):
        here = base_id is None or local_base(base_id, bases) is not None
        if here or base_id not in BASES or try_to_load_from_cache(base_id, "config.json", revision=revision):
            continue
        install_base(base_id, bases_folder(), "auto", revision, report=report)
