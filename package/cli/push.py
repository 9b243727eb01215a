"""Bring a checkpoint with its card to the Hub, or a corpus, or a Space with the demo of a checkpoint.

What is made is private until you say --public. Pickles, secrets and paths of this machine are refused. After
a push the repository is loaded by its name in a fresh process and compared with the folder. A card that
somebody wrote stays as it is, in the folder and on the Hub.

example:
  speechllm push runs/first me/my-asr --dry-run
  speechllm push runs/first me/my-asr --results evaluation --tag v1
  speechllm push me/my-asr me/my-asr-demo --space
  speechllm push corpus/debian me/my-corpus --revision cleaned
"""

import argparse
import sys
from pathlib import Path

from .card import add_evaluation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="FOLDER", help="a run, a checkpoint or a corpus; for --space also a model's id")
    add("repo_id", metavar="REPOSITORY", help="OWNER/NAME on the Hub")
    add("--dry-run", action="store_true", help="list every file and its size, and what would be refused")
    add("--space", action="store_true", help="push a Space that runs the demo of this checkpoint")
    add("--public", action="store_true", help="let everybody see it; default: private")
    add("--revision", metavar="BRANCH", help="push to this branch, made if it is not there")
    add("--tag", metavar="NAME", help="tag what was pushed")
    add("--message", metavar="TEXT", help="of the commit")
    add_evaluation(parser)
    add("--no-check", action="store_true", help="do not load what was pushed and compare")


def run(args: argparse.Namespace) -> int:
    """The address on stdout; for a dry run the files, and 1 where some would be refused."""
    from ..hub_cards.contents import corpus_contents, listing, model_contents
    from ..hub_cards.dataset_card import is_corpus
    from ..hub_cards.refusals import problems
    from ..hub_cards.run_facts import read_run
    from ..hub_cards.space import SDK, space_contents

    folder, checkpoint, options = Path(args.source).expanduser(), None, {}
    if args.space:
        kind, contents, options = "space", space_contents(args.source, args.repo_id), {"space_sdk": SDK}
    elif is_corpus(folder):
        kind, contents = "dataset", corpus_contents(folder, args.repo_id)
    else:
        found = read_run(folder, args.results, args.system)
        kind, contents, checkpoint = "model", model_contents(found, args.repo_id), found.checkpoint
    if args.dry_run:
        refused = problems(contents)
        print("\n".join(listing(contents)))
        for problem in refused:
            print(f"refused: {problem}", file=sys.stderr)
        return int(bool(refused))
    return _push(args, kind, contents, options, checkpoint)


def _push(args: argparse.Namespace, kind: str, contents, options: dict, checkpoint: Path | None) -> int:
    from huggingface_hub import HfApi

    from ..hub_cards.push import Destination, push
    from ..hub_cards.pushed_check import check_pushed

    api = HfApi()
    to = Destination(args.repo_id, kind, args.public, args.revision, args.tag, args.message, options)
    commit = push(contents, to, api, report=_told)
    prefix = "" if kind == "model" else f"{kind}s/"
    print(f"{api.endpoint}/{prefix}{args.repo_id}/tree/{commit}")
    if checkpoint and not args.no_check:
        _told("loading it by its name in a fresh process ...")
        check_pushed(checkpoint, args.repo_id, commit)
        _told("it loads, and is what was pushed")
    return 0


def _told(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
