"""Train a speech recognizer: an adapter, LoRA, or more, on any mixture of data.

The same as `accelerate launch training/train.py`, which runs it on several processes. What is trained, on
what and how is composed of files (`+experiment=NAME`, `adapter=NAME`, `phase=NAME`) and changed with
`key=value`. An interrupted run goes on where it was when the same command is given again.

example:
  speechllm train +experiment=smoke
  speechllm train adapter=conv data.train=train.jsonl data.eval='{test: test.jsonl}' trainer.steps=2000
  speechllm train +experiment=tiny_audio --cfg job
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="+experiment=NAME, GROUP=FILE, KEY=VALUE"
    )
    parser.add_argument("--cfg", choices=["job", "all"], help="show the composed configuration and stop")
    parser.add_argument("--multirun", action="store_true", help="one run for each of the values key=a,b,c")


def run(args: argparse.Namespace) -> int:
    from ..training.entry import run_command  # not at the top: it needs the extra "train"

    options = [*(["--cfg", args.cfg] if args.cfg else []), *(["--multirun"] if args.multirun else [])]
    run_command([*options, *args.overrides])
    return 0
