"""Turn weights of another format into a checkpoint or a base, a checkpoint into a plain stock Whisper, or
several checkpoints into their mean.

The folder that --to names must be new or empty; it is there when all went well, and not at all otherwise.
Pickles are read as tensors only: one that holds code is refused.

example:
  speechllm convert dual-whisper published/checkpoint-5000 --base openai/whisper-small --to my-dual
  speechllm convert base someone/whisper-small-az --revision 4f9c1e2
  speechllm convert stock-whisper my-bank --adapter it --to whisper-italian
  speechllm convert stock-whisper my-dual --clips test.jsonl --to whisper-plain
  speechllm convert average outputs/seed-1/model outputs/seed-2/model --to my-asr
"""

import argparse
from typing import Any

from .tasks import Task, add_tasks, run_task

BASES: dict[str, Any] = {
    "metavar": "FOLDER",
    "help": "folder of frozen bases, asked first",
}
TO: dict[str, Any] = {"required": True, "metavar": "FOLDER", "dest": "target", "help": "a new folder"}

# Kind -> who converts it.
CONVERSIONS = {
    "dual-whisper": Task(
        "weights of the original dual-attention project, as a checkpoint",
        "speechllm.training.conversion.dual_whisper:convert_dual_whisper",
        {
            "source": {"metavar": "SOURCE", "help": "its folder, or a .pt, .bin or .safetensors file"},
            "--base": {
                "required": True,
                "metavar": "ID",
                "help": "what it is made of: openai/whisper-small",
            },
            "--to": TO,
            "--bases": BASES,
            "--include-bases": {"action": "store_true", "help": "make the checkpoint self-contained"},
        },
    ),
    "base": Task(
        "a stock Whisper that is only there as a pickle, as a base with safetensors",
        "speechllm.training.conversion.whisper_base:convert_whisper_base",
        {
            "source": {"metavar": "SOURCE", "help": "a folder, or an id on the Hub"},
            "--id": {
                "dest": "base_id",
                "metavar": "ID",
                "help": "what a folder's base is called: me/my-whisper",
            },
            "--revision": {"metavar": "COMMIT", "help": "commit on the Hub"},
            "--to": {
                "dest": "target",
                "metavar": "FOLDER",
                "help": "folder of bases; default: $SPEECHLLM_BASES, else the cache",
            },
        },
    ),
    "stock-whisper": Task(
        "a checkpoint inside Whisper, as a plain Whisper that needs nothing of this package",
        "speechllm.training.conversion.stock_whisper:export_stock_whisper",
        {
            "checkpoint": {"metavar": "CHECKPOINT", "help": "a folder or an id on the Hub"},
            "--to": TO,
            "--adapter": {"metavar": "NAME", "help": "which adapter of its LoRA bank becomes part of it"},
            "--clips": {
                "metavar": "MANIFEST",
                "help": "on which to measure what a gate says",
            },
            "--tolerance": {
                "type": float,
                "default": 1e-3,
                "metavar": "SHARE",
                "help": "largest weight that the branch may have; default: %(default)s",
            },
            "--ignore-gate": {"action": "store_true", "help": "leave out the branch, whatever it does"},
            "--bases": BASES,
        },
    ),
    "average": Task(
        "the mean of checkpoints that were trained from the same weights",
        "speechllm.training.conversion.averaging:average_checkpoints",
        {
            "checkpoints": {"nargs": "+", "metavar": "CHECKPOINT", "help": "folders, two or more"},
            "--to": TO,
        },
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One subparser a kind."""
    add_tasks(parser, CONVERSIONS, "KIND")


def run(args: argparse.Namespace) -> int:
    """The new folder on stdout."""
    print(run_task(CONVERSIONS, args))
    return 0
