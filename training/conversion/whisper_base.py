"""A stock Whisper that is only there as a pickle, as an installed base with safetensors."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from safetensors.torch import save_file
from speechllm.bases.install import HUB_FILES, base_path, bases_folder, write_manifest
from speechllm.bases.whisper_folder import check_state
from transformers import AutoConfig

from .new_folder import check_new, new_folder
from .weight_files import read_weights, without_tied_head

# What lies beside the weights and belongs to a base.
KEPT = (".json", ".txt", ".jinja")


def convert_whisper_base(
    source: str, target: str | os.PathLike | None = None, base_id=None, revision=None, report=print
) -> Path:
    """Install the Whisper of a folder, or of an id on the Hub, below the folder of bases `target`."""
    local = Path(source).expanduser().is_dir()
    if local and base_id is None:
        raise ValueError(
            f"{source} is a folder: say with --id what its base is called, such as me/my-whisper"
        )
    name = base_id or source
    place = base_path(name, target or bases_folder())
    check_new(place)
    with tempfile.TemporaryDirectory() as fetched:
        if local:
            folder = Path(source).expanduser()
        else:
            report(f"{source}: fetching from the Hugging Face Hub")
            folder, revision = fetch(source, revision, Path(fetched))
        write_base(folder, place, name, revision)
    report(f"{name}: installed in {place}")
    return place


def fetch(source: str, revision: str | None, folder: Path) -> tuple[Path, str]:
    """A repository's pickle and what belongs to it, in `folder`; with the commit it is of."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        commit = HfApi().model_info(source, revision=revision).sha or revision
        files = [*(kind for kind in HUB_FILES if "safetensors" not in kind), "pytorch_model*.bin*"]
        snapshot_download(
            source, revision=commit, local_dir=folder, allow_patterns=files, ignore_patterns="*/*"
        )
    except (OSError, HfHubHTTPError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RuntimeError(f"{source} cannot be fetched from the Hub: {reason}") from None
    return folder, str(commit)


def write_base(folder: Path, place: Path, name: str, revision: str | None) -> None:
    """The base in `place`: the same weights, in their own dtype, and what lies beside them."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json: it is no folder of a stock Whisper")
    config = AutoConfig.from_pretrained(folder)
    if config.model_type != "whisper":
        raise ValueError(f"{name} is a {config.model_type}, not a whisper")
    state = without_tied_head(read_weights(folder), folder)
    check_state(config, state)
    with new_folder(place) as built:
        save_file(
            {key: tensor.contiguous() for key, tensor in state.items()},
            built / "model.safetensors",
            metadata={"format": "pt"},
        )
        for path in sorted(folder.iterdir()):
            if path.suffix in KEPT and not path.name.endswith(".index.json"):
                shutil.copyfile(path, built / path.name)
        write_manifest(name, built, "pickle", revision)
