"""Turn a corpus into manifests: one line of JSON a clip, divided, filtered, and counted.

Kinds: folder (sounds with .txt files or a transcript file), manifest (JSON, JSONL, CSV, TSV), aishell, kaldi,
mtedx, hub (a dataset of the Hugging Face Hub, or on disk), preset (a corpus known by name), debian-speech
(human speech from Debian packages), synthetic (voices reading fortunes, or words of a dictionary). Each has
its own --help.

example:
  speechllm prepare folder recordings --to corpus --language az --divide text
  speechllm prepare preset fleurs --language hi --split test --to corpus/fleurs-hi
  speechllm prepare debian-speech --to corpus/debian
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from ..training.data.cleaning import RULES
from ..training.data.corpora import KINDS
from ..training.data.debian_speech import STAMP_LANGUAGES, prepare_debian_speech
from ..training.data.filters import FilterSettings
from ..training.data.preparation import prepare_corpus, write_report
from ..training.data.presets import preset_names
from ..training.data.sources import source_from
from ..training.data.splits import SHARES, SPLITTERS
from ..training.data.synthetic_speech import TEXTS, prepare_synthetic
from ..training.data.voices import VOICES

SHARE = Path("/usr/share")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One subparser a kind."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="KIND")
    for kind in sorted(KINDS):
        action = actions.add_parser(kind, help=f"a corpus laid out as {kind}")
        action.add_argument("path", metavar="PATH")
        _corpus_arguments(action)
    hub = actions.add_parser("hub", help="a dataset of the Hub, or a folder in its form")
    hub.add_argument("id", help="e.g. google/fleurs, or a folder")
    hub.add_argument("--config", help="the dataset's configuration, e.g. hi_in")
    hub.add_argument("--revision", help="a commit of the dataset")
    named = actions.add_parser("preset", help="a corpus known by name")
    named.add_argument("preset", choices=preset_names(), metavar="NAME", help=", ".join(preset_names()))
    named.add_argument("--path", help="where it lies, for corpora that are not on the Hub")
    for action in (hub, named):
        action.add_argument("--streaming", action="store_true", help="fetch no more than --limit clips")
        _corpus_arguments(action)
    _debian_arguments(actions.add_parser("debian-speech", help="human speech from Debian packages"))
    _synthetic_arguments(actions.add_parser("synthetic", help="synthetic voices; for training"))
    for action in actions.choices.values():
        action.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where the manifests go")
        # Not given here, it must not undo the one given before the kind.
        action.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """A line a set on stdout; manifests and `report.json` in the folder."""
    # Clips are resampled one by one, and are too short to be shared out: threads would wait for each other.
    torch.set_num_threads(1)
    reports = RECIPES.get(args.action, _prepare_corpus)(args)
    write_report(args.to, reports)
    for report in reports:
        print(report_line(report))
    return 0


def report_line(report: dict[str, Any]) -> str:
    """Clips and minutes of each split, and what was dropped and why."""
    hours = report["hours"]
    splits = [f"{name} {clips} clips {60 * hours[name]:.1f} min" for name, clips in report["clips"].items()]
    dropped = ", ".join(f"{count} {reason}" for reason, count in report["dropped"].items()) or "none"
    return f"{report['name']}: {', '.join(splits)}; dropped: {dropped}"


def _corpus_arguments(parser: argparse.ArgumentParser) -> None:
    option, defaults = parser.add_argument, FilterSettings()
    option("--split", help="which split of the corpus, where it has splits")
    option("--language", help="code of the language, given to all clips")
    option("--columns", nargs="+", default=[], metavar="FIELD=COLUMN", help="e.g. text=sentence")
    option("--rules", nargs="+", metavar="RULE", help=f"text clean-up, of {', '.join(RULES)}")
    option("--divide", choices=sorted(SPLITTERS), help="make train, validation and test that share no ...")
    option("--shares", nargs=3, type=float, default=SHARES, metavar="SHARE", help="default: .8 .1 .1")
    option("--limit", type=int, metavar="CLIPS", help="the first so many")
    option("--min-seconds", type=float, default=defaults.min_seconds, help="default: %(default)s")
    option("--max-seconds", type=float, default=defaults.max_seconds, help="default: %(default)s")
    option("--keep-silence", action="store_true", help="keep clips whose transcript is empty")
    option("--check-audio", action="store_true", help="decode every clip, not only its header")


def _debian_arguments(parser: argparse.ArgumentParser) -> None:
    option, languages = parser.add_argument, f"prompts: en es fr it ru; stamps: {' '.join(STAMP_LANGUAGES)}"
    option("--root", type=Path, default=SHARE, help="where packages put their files")
    option("--sets", nargs="+", metavar="SET", help="of prompts, stamps, librivox; default: all")
    option("--languages", nargs="+", metavar="CODE", help=languages)
    option("--wideband", action="store_true", help="prompts at 16 kHz, of the -g722 packages, through ffmpeg")


def _synthetic_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--root", type=Path, default=SHARE, help="where packages put their files")
    option("--language", choices=TEXTS, default="en", help="default: %(default)s")
    readings = "; ".join(f"{language}: {', '.join(texts)}" for language, texts in TEXTS.items())
    option("--texts", metavar="TEXTS", help=f"{readings}; default: the first")
    option("--clips", type=int, default=1000, help="how many sentences are spoken")
    option("--voices", nargs="+", metavar="VOICE", help=f"of {', '.join(VOICES)}; default: all there")
    option("--seed", type=int, default=0, help="of the choice of sentences and voices")
    option("--apart", nargs="*", type=Path, default=[], metavar="MANIFEST", help="sentences to leave out")


def _prepare_corpus(args: argparse.Namespace) -> list[dict[str, Any]]:
    names = ("path", "id", "config", "revision", "preset", "streaming", "split", "language", "rules", "limit")
    fields = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    if args.action != "preset":
        fields["kind"] = args.action
    for pair in args.columns:
        name, separator, column = pair.partition("=")
        if not separator:
            raise ValueError(f"--columns {pair!r} is not FIELD=COLUMN")
        fields.setdefault("columns", {})[name] = column
    settings = FilterSettings(
        min_seconds=args.min_seconds,
        max_seconds=args.max_seconds,
        keep_silence=args.keep_silence,
        check_audio=args.check_audio,
    )
    if args.to.exists() and not args.to.is_dir():
        raise ValueError(f"{args.to} is a file; --to needs a folder")
    source = source_from(fields, None if args.action in KINDS else "train")
    return prepare_corpus(source, args.to, settings, args.divide, args.shares)


def _prepare_debian(args: argparse.Namespace) -> list[dict[str, Any]]:
    print("decoding every clip, about half a minute ...", file=sys.stderr)
    return prepare_debian_speech(args.to, args.root, args.sets, args.languages, args.wideband)


def _prepare_synthetic(args: argparse.Namespace) -> list[dict[str, Any]]:
    return prepare_synthetic(
        args.to, args.root, args.clips, args.voices, args.seed, args.apart, args.language, args.texts
    )


RECIPES = {"debian-speech": _prepare_debian, "synthetic": _prepare_synthetic}
