"""Show the card of a checkpoint or a corpus, as Markdown or as a page, or write it beside them.

Everything in it comes from what a run left behind: its config, its results, and what `speechllm evaluate`
found. What nobody measured is not told. A card that somebody wrote or changed is never overwritten.

example:
  speechllm card runs/first
  speechllm card runs/first --results evaluation --html card.html
  speechllm card runs/first --repo-id me/my-asr --write
  speechllm card corpus/debian --write
"""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, help="a run, a checkpoint, or the folder of a corpus")
    add_evaluation(parser)
    add("--repo-id", metavar="ID", help="what it will be called on the Hub")
    add("--html", type=Path, metavar="FILE", help="write it as a page that needs no network")
    add("--write", action="store_true", help="write README.md and its pictures into the checkpoint's folder")


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    """Where an evaluation lies, and who in it the checkpoint is."""
    parser.add_argument(
        "--results",
        type=Path,
        metavar="PATH",
        help="what `speechllm evaluate` wrote; default: FOLDER/evaluation",
    )
    parser.add_argument("--system", metavar="NAME", help="what the evaluation calls this checkpoint")


def run(args: argparse.Namespace) -> int:
    """The card on stdout, unless it is written somewhere."""
    from ..hub_cards.cards import card_of, write_card

    card, folder = card_of(args.folder, args.repo_id, args.results, args.system)
    if args.html:
        from ..hub_cards.preview import preview_page

        args.html.write_text(preview_page(card), encoding="utf-8")
        print(f"the page is {args.html}", file=sys.stderr)
    if args.write:
        for path in write_card(card, folder):
            print(path)
    if not (args.html or args.write):
        print(card.text, end="")
    return 0
