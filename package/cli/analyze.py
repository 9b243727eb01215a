"""Look inside a checkpoint, or at what experiments would train: pictures and numbers.

example:
  speechllm analyze attention talk.wav --model my-dual --language it --to attention.png
  speechllm analyze budget dual_debian --control dual_debian_control
"""

import argparse

from .tasks import Task, add_tasks, run_task

# Analysis -> who makes it.
ANALYSES = {
    "attention": Task(
        "where both attentions of a dual-attention checkpoint look, and what their gate says, as a picture",
        "speechllm.training.pictures.attention_picture:picture_of_checkpoint",
        {
            "clip": {"metavar": "CLIP", "help": "an audio file of up to 30 s"},
            "--model": {"required": True, "metavar": "CHECKPOINT", "help": "a folder or an id on the Hub"},
            "--to": {"required": True, "dest": "path", "metavar": "PNG", "help": "the picture"},
            "--language": {"help": "what is spoken, a code or a name"},
            "--layers": {
                "type": int,
                "nargs": "+",
                "metavar": "N",
                "help": "decoder layers; default: three",
            },
            "--bases": {
                "metavar": "FOLDER",
                "help": "folder of frozen bases, asked first",
            },
        },
    ),
    "budget": Task(
        "how many parameters an experiment trains, and the LoRA rank at which a control trains as many",
        "speechllm.training.parameter_budget:compare_budgets",
        {
            "experiment": {"metavar": "EXPERIMENT", "help": "a name of training/conf/experiment"},
            "--control": {"required": True, "metavar": "EXPERIMENT", "help": "one that trains LoRA"},
            "--bases": {"metavar": "FOLDER", "help": "folder of bases, asked before the installed ones"},
        },
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One subparser an analysis."""
    add_tasks(parser, ANALYSES, "ANALYSIS")


def run(args: argparse.Namespace) -> int:
    """What was found, or the picture's path, on stdout."""
    print(run_task(ANALYSES, args))
    return 0
