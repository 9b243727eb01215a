"""Makes the folder in which a finished run travels along: small, and with nothing of the machine it ran on.

    python -m speechllm.hub_cards.shipping outputs/debian_bank demo/checkpoints/eleven-languages \\
        --model outputs/debian_bank_scarce/mean --further outputs/debian_bank_scarce \\
        --evaluation evaluation --system soft

What was trained is rounded to float16. Beside it lie the run's config, log, curves and results, those of
further runs that went into it, the evaluation without its transcripts, and the card. The model's code stays
out, for the package that the folder travels in has it; `speechllm push` adds it.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml
from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMProcessor
from speechllm.remote_code import REGISTRATIONS
from speechllm.training.conversion.new_folder import new_folder

from .cards import card_of, write_card
from .run_facts import MODEL, RESULTS, SETTINGS, public_path, without_private_paths

LOG, EVALUATION, PLOTS, RUNS = "train.log", "evaluation", "plots", "runs"
# Two names or more, and not within an address of the web or a relative path.
ABSOLUTE_PATH = re.compile(r"(?<![\w./])(?:/[\w.-]+){2,}")


def ship(
    run: Path,
    target: Path,
    evaluation: Path | None = None,
    system: str | None = None,
    model: Path | None = None,
    further: Sequence[Path] = (),
) -> None:
    """Write `target`, a new folder, from a run's folder and what `speechllm evaluate` found of it.

    `model` is a checkpoint that the run led to, where that is not its own: a mean, or what was trained from
    it. The records of the `further` runs that it took come along, each in a folder of its name.
    """
    with new_folder(target) as folder:
        _save_model(model or run / MODEL, folder)
        _copy_records(run, folder)
        for other in further:
            (folder / RUNS / other.name).mkdir(parents=True)
            _copy_records(other, folder / RUNS / other.name)
        if evaluation:
            _copy_evaluation(evaluation, folder / EVALUATION)
        write_card(card_of(folder, system=system)[0], folder)


def _save_model(checkpoint: Path, folder: Path) -> None:
    """Config, processor and rounded weights, without the code and without the keys that point to it."""
    model = SpeechLLMForConditionalGeneration.from_pretrained(str(checkpoint))
    model.save_pretrained(folder, trained_dtype="float16")
    SpeechLLMProcessor.from_pretrained(str(checkpoint)).save_pretrained(folder)
    for path in folder.glob("*.py"):
        path.unlink()
    for name, keys in REGISTRATIONS.items():
        values = json.loads((folder / name).read_text(encoding="utf-8"))
        _write_json(folder / name, {key: value for key, value in values.items() if key not in keys})


def _copy_records(run: Path, folder: Path) -> None:
    """What the run says of itself, and the pictures of each of its phases."""
    settings = yaml.safe_load((run / SETTINGS).read_text(encoding="utf-8"))
    public = yaml.safe_dump(without_private_paths(settings), sort_keys=False, allow_unicode=True)
    (folder / SETTINGS).write_text(public, encoding="utf-8")
    results = json.loads((run / RESULTS).read_text(encoding="utf-8"))
    _write_json(folder / RESULTS, without_private_paths(results))
    _copy_text(run / LOG, folder)
    for plots in sorted(run.glob(f"phase-*/{PLOTS}")):
        shutil.copytree(plots, folder / PLOTS / plots.parent.name.removeprefix("phase-"))


def _copy_evaluation(source: Path, folder: Path) -> None:
    folder.mkdir()
    for path in sorted(source.iterdir()):
        if path.suffix == ".json":
            # The command has paths within its words.
            values = json.loads(_public(path.read_text(encoding="utf-8")))
            _write_json(folder / path.name, without_private_paths(values))
        elif path.suffix == ".md":
            _copy_text(path, folder)
        elif path.is_file():
            shutil.copy(path, folder)


def _copy_text(source: Path, folder: Path) -> None:
    (folder / source.name).write_text(_public(source.read_text(encoding="utf-8")), encoding="utf-8")


def _public(text: str) -> str:
    """Every path of this machine in it cut to its last two parts."""
    return ABSOLUTE_PATH.sub(lambda found: public_path(found[0]), text)


def _write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("target", type=Path, help="a new folder")
    parser.add_argument("--evaluation", type=Path, help="what `speechllm evaluate` wrote")
    parser.add_argument("--system", help="what the evaluation calls this checkpoint")
    parser.add_argument("--model", type=Path, help="a checkpoint that it led to; default: its own")
    parser.add_argument("--further", nargs="*", type=Path, default=[], help="runs that went into it as well")
    ship(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
