"""Error rates of speech recognizers, with confidence intervals, side by side on the same clips.

systems:
  [NAME=]KIND:MODEL[,KEY=VALUE...]; a bare path or id is a checkpoint of ours. Kinds: speechllm, transformers
  (any recognizer of Hugging Face), faster-whisper, openai (any server of that form), assemblyai, deepgram.
  language=given tells each clip's language as the manifest has it, language=it one for all; by default none
  is told. Keys come from the environment: OPENAI_API_KEY, ASSEMBLYAI_API_KEY, DEEPGRAM_API_KEY.
  The first system is what the others are compared with.

data:
  [NAME=]MANIFEST, or NAME=KEY=VALUE,... of any corpus: preset, id, kind, path, split, language ...

Transcripts are kept in the folder, and what is there is not computed again: the same command goes on where
it was interrupted. The exit code is 1 where clips failed.

example:
  speechllm evaluate --system stock=transformers:openai/whisper-base,language=given \\
    --system ours=runs/x/model,routing=soft --data test.jsonl --to evaluation
  speechllm evaluate --system me/my-asr --data test.jsonl --snr clean,10,0,-5 --noise white,babble --to noisy
  speechllm evaluate --system runs/x/model --system deepgram:nova-3,language=given \\
    --data fleurs=preset=fleurs,language=hi --limit 200 --to hindi
"""

import argparse
import shlex
import sys
from pathlib import Path

from .transcribe import positive_int

NOISES = "white,babble"
SNRS = "clean,20,10,5,0,-5"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--system", action="append", required=True, metavar="SYSTEM", help="may be repeated")
    add("--data", action="append", required=True, metavar="SET", help="may be repeated")
    add("--to", type=Path, required=True, metavar="FOLDER", help="where report, numbers and transcripts go")
    add("--against", metavar="NAME", help="compare with this system instead of the first")
    add("--limit", type=positive_int, metavar="CLIPS", help="the first so many of each set")
    add("--language", metavar="CODE,...", help="only clips in these languages")
    add(
        "--normaliser",
        action="append",
        default=[],
        metavar="NAME",
        help="what texts are compared as; LANGUAGE=NAME for one language; default: basic",
    )
    add("--columns", nargs="+", default=[], metavar="FIELD=COLUMN", help="of the data, e.g. text=sentence")
    add("--resamples", type=positive_int, default=2000, metavar="N", help="of the bootstrap; default: 2000")
    add("--seed", type=int, default=0, help="of bootstrap and noise; default: 0")
    add("--latency", type=positive_int, default=0, metavar="CLIPS", help="time so many clips, each alone")
    add("--snr", metavar="DB,...", help=f"ratios of speech to noise; default with --noise: {SNRS}")
    add("--noise", metavar="KIND,...", help=f"also pink, files, ...; default with --snr: {NOISES}")
    add("--noise-folder", metavar="FOLDER", help="recordings of the noise files")
    add("--noise-clips", type=positive_int, metavar="CLIPS", help="noise for the first so many of each set")
    add("--babble", metavar="MANIFEST", help="clips that babble is made of; default: the others of the set")
    add("--worst", type=positive_int, default=20, metavar="CLIPS", help="how many to show; default: 20")
    add("--fresh", action="store_true", help="compute what is there again")


def run(args: argparse.Namespace) -> int:
    """Rates on stdout, everything in the folder; 1 where clips failed."""
    from ..training.evaluation.evaluation import evaluate_systems
    from ..training.evaluation.evaluation_settings import EvaluationSettings
    from ..training.evaluation.report import write_report
    from ..training.evaluation.scoring import Normalisers
    from ..training.evaluation.systems import system_from
    from ..training.evaluation.tables import overall_table

    systems = [system_from(text) for text in args.system]
    settings = EvaluationSettings(
        normalisers=Normalisers.named(args.normaliser),
        resamples=args.resamples,
        seed=args.seed,
        against=args.against,
        latency_clips=args.latency,
        sweep=sweep_from(args),
        folder=args.to,
        fresh=args.fresh,
    )
    quiet_progress()
    evaluation = evaluate_systems(systems, sets_from(args), settings)
    write_report(evaluation, args.to, shlex.join(["speechllm", *sys.argv[1:]]), args.worst)
    for name in evaluation.set_names:
        results = [one for one in evaluation.results if one.chosen == name]
        print(f"{name}, {settings.normalisers}, 95 % intervals\n{overall_table(results)}")
    print(f"report: {args.to / 'report.md'}")
    for chosen in evaluation.sets:
        silent = chosen.facts()["clips_without_words"]
        if silent:
            clips = f"{chosen.name}: {silent} of {len(chosen.utterances)} clips"
            report(f"{clips} have no text; whatever is heard in them counts as inserted")
    failed = sum(one.score.failed for one in evaluation.results if one.run is not None)
    if failed:
        report(f"{failed} clips failed; {args.to / 'results.json'} names them")
    return int(failed > 0)


def sets_from(args: argparse.Namespace) -> list:
    """The sets that are named."""
    from ..training.evaluation.evaluation_sets import read_set

    columns = dict(pair_from("--columns", word) for word in args.columns)
    languages = args.language.split(",") if args.language else None
    return [read_set(text, args.limit, languages, columns) for text in args.data]


def sweep_from(args: argparse.Namespace):
    """The noise sweep that is asked for, if one is."""
    from ..training.evaluation.evaluation_sets import NoiseSweep, read_set

    if args.snr is None and args.noise is None:
        for option in ("noise_folder", "noise_clips", "babble"):
            if getattr(args, option) is not None:
                raise ValueError(f"--{option.replace('_', '-')} needs --noise or --snr")
        return None
    return NoiseSweep(
        kinds=tuple((args.noise or NOISES).split(",")),
        snrs=tuple(dict.fromkeys(ratio(word) for word in (args.snr or SNRS).split(","))),
        clips=args.noise_clips,
        folder=args.noise_folder,
        babble=read_set(args.babble).neighbours if args.babble else None,
    )


def ratio(word: str) -> float:
    """dB, or infinity for "clean"."""
    if word.strip() == "clean":
        return float("inf")
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"--snr {word!r} is neither a number of dB nor clean") from None


def pair_from(option: str, word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise ValueError(f"{option} {word}: give FIELD=COLUMN")
    return name, value


def report(message: str) -> None:
    print(f"speechllm evaluate: {message}", file=sys.stderr)


def quiet_progress() -> None:
    """No bars of loading in a log."""
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
