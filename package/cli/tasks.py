"""Subcommands that are a table of tasks: each a function, and the arguments it is called with."""

import argparse
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """`entry` is "module:function", called with `arguments` by name and `report`, which tells a line.

    `arguments`: name of an argument or an option -> what `add_argument` is told of it.
    """

    summary: str
    entry: str
    arguments: Mapping[str, dict[str, Any]]


def add_tasks(parser: argparse.ArgumentParser, tasks: Mapping[str, Task], metavar: str) -> None:
    """A subparser for every task."""
    choices = parser.add_subparsers(dest="task", required=True, metavar=metavar)
    for name, task in tasks.items():
        choice = choices.add_parser(name, help=task.summary, description=task.summary)
        for argument, keywords in task.arguments.items():
            choice.add_argument(argument, **keywords)
        # Not given here, it must not undo the one given before the task.
        choice.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run_task(tasks: Mapping[str, Task], args: argparse.Namespace) -> Any:
    """What the function of the chosen task returns."""
    # Not at the top: `--help` and wrong usage need not wait seconds for torch.
    module, function = tasks[args.task].entry.split(":")
    named = {name: value for name, value in vars(args).items() if name not in ("task", "debug")}
    return getattr(importlib.import_module(module), function)(**named, report=report)


def report(message: str) -> None:
    """A line on stderr, where what is asked for is on stdout."""
    print(message, file=sys.stderr, flush=True)
