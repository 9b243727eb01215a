"""The mean of several checkpoints of one shape, which often errs less than any of them.

So it is with runs that began from the same weights, and with the weights they began from (Wortsman et al.,
"Model soups", 2022); not with runs that began from different ones.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from speechllm import SpeechLLMConfig
from speechllm.modeling.trained_tensors import WEIGHTS, read_tensors

from .new_folder import check_new, new_folder

Report = Callable[[str], None]
# What parts of a config say of how they were written, not of what they are.
UNESSENTIAL = {"dtype", "_name_or_path"}


def average_checkpoints(
    checkpoints: Sequence[str], target: str | os.PathLike, report: Report = print
) -> Path:
    """Write the mean of folders that hold checkpoints; the new folder.

    Whatever is no weight, and the dtype of the weights, comes from the first of them.
    """
    check_new(Path(target))
    folders = [Path(checkpoint).expanduser() for checkpoint in checkpoints]
    if len(folders) < 2:
        raise ValueError("a mean takes two checkpoints or more")
    first, *others = folders
    config = _essentials(first)
    for other in others:
        _check_alike(first, config, other, _essentials(other))
    tensors = read_tensors(str(first), {})
    sums = {key: tensor.to(torch.float64) for key, tensor in tensors.items()}
    for other in others:
        _add(sums, other, first)
    means = {key: (total / len(folders)).to(tensors[key].dtype) for key, total in sums.items()}
    with new_folder(target) as folder:
        for path in first.iterdir():
            if (
                path.is_file()
                and not path.name.startswith("model.safetensors")
                and path.name != "results.json"
            ):
                shutil.copy(path, folder)
        save_file(means, folder / WEIGHTS, metadata={"format": "pt"})
    report(f"{len(means)} tensors are the mean of {len(folders)} checkpoints")
    return Path(target)


def _essentials(folder: Path) -> dict:
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no folder with a checkpoint")
    config = json.loads(path.read_text(encoding="utf-8"))
    return _without_unessential({field: config.get(field) for field in SpeechLLMConfig.own_fields()})


def _without_unessential(config: dict) -> dict:
    return {
        key: _without_unessential(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in UNESSENTIAL
    }


def _check_alike(first: Path, config: dict, other: Path, others: dict) -> None:
    for key in sorted(config):
        if config[key] != others[key]:
            raise ValueError(f"{first} and {other} are not of one shape: they differ in {key!r}")


def _add(sums: dict[str, torch.Tensor], other: Path, first: Path) -> None:
    tensors = read_tensors(str(other), {})
    if odd := sorted(set(sums) ^ set(tensors)):
        raise ValueError(f"only one of {first} and {other} has the tensor {odd[0]!r}")
    for key, tensor in tensors.items():
        if tensor.shape != sums[key].shape:
            raise ValueError(f"the tensor {key!r} has another shape in {other} than in {first}")
        sums[key] += tensor
