"""A corpus on disk for evaluations: real sounds, a manifest, and systems made of tiny random models."""

from pathlib import Path

import soundfile
from speechllm.training.data.utterances import Utterance, write_manifest
from speechllm.training.evaluation.evaluation import Evaluation, evaluate_systems
from speechllm.training.evaluation.evaluation_sets import read_set
from speechllm.training.evaluation.evaluation_settings import EvaluationSettings
from speechllm.training.evaluation.systems import System

TEXTS = ("one two three", "four five", "six", "", "seven eight nine ten", "eleven twelve")
LANGUAGES = ("en", "it", "en", "it", "en", "fr")


def write_corpus(folder: Path, clips, name: str = "test") -> Path:
    """`folder/name.jsonl` of the six clips of the fixture; the fourth says nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    utterances = []
    for number, (clip, text, language) in enumerate(zip(clips, TEXTS, LANGUAGES, strict=True)):
        path = folder / f"{name}-{number}.wav"
        soundfile.write(path, clip, 16000)
        utterances.append(Utterance(str(path), text, language, len(clip) / 16000, id=f"{name}-{number}"))
    write_manifest(folder / f"{name}.jsonl", utterances)
    return folder / f"{name}.jsonl"


def save_checkpoint(folder: Path, compose_whisper) -> Path:
    """A tiny checkpoint of ours that needs no bases."""
    model, processor = compose_whisper()
    model.save_pretrained(folder, include_bases=True)
    processor.save_pretrained(folder)
    return folder


def ours(checkpoint: Path, name: str = "ours", **options: str) -> System:
    """The checkpoint as a system that writes little."""
    return System(name, "speechllm", str(checkpoint), {"max_new_tokens": "4", **options})


def evaluated(
    systems: list[System], corpus: Path | str, folder: Path | None = None, **settings
) -> Evaluation:
    """An evaluation of systems on one set."""
    asked = EvaluationSettings(resamples=50, folder=folder, **settings)
    return evaluate_systems(systems, [read_set(str(corpus))], asked)
