"""Write down what is said in audio files of any length and format, with a checkpoint of a speech LLM.

INPUT is a file, a folder (searched for audio files, in its sub-folders too), a pattern such as "talks/*.mp3",
an http(s) address, or - for an audio file on standard input. All are transcribed together, in batches.

output:
  Without --output to standard output, a line per file: the text alone where one file is named, else its path,
  a tab and the text. --format json gives an object per line, with times, confidence, and what was left out
  as silence or repetition. A subtitle is a chunk: --chunk-seconds 6 gives short ones, and with --words each
  word is one, where the checkpoint lives inside Whisper.
  --output is a folder where it is one, ends in a slash or has no suffix. Files are whole or not there.
  A file that cannot be read is reported, the others go on, and the exit code is 1.

The installed package loads the checkpoint; code that lies in it is not run.

example:
  speechllm transcribe talk.mp3
  speechllm transcribe --model my-checkpoint talk.mp3
  speechllm transcribe --model me/my-asr --language it --format srt --output subtitles/ talks/ interview.m4a
  ffmpeg -i film.mkv -f wav - | speechllm transcribe --model my-checkpoint -
  speechllm transcribe --language ca --word-list /usr/share/dict/catalan talk.ogg
  SPEECHLLM_MODEL=my-checkpoint speechllm transcribe --format json "talks/*.flac" > talks.jsonl
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from .audio_inputs import AudioInput, find_inputs, is_url, names_one, printable
from .transcript_formats import FORMATS, Transcript, format_of_path, text_columns
from .transcript_output import is_folder, open_output

MODEL_VARIABLE = "SPEECHLLM_MODEL"
DEFAULT = "one that comes with the package"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="file, folder, pattern, address, or -")
    add(
        "--model",
        metavar="CHECKPOINT",
        help=f"a folder or an id on the Hub; default: ${MODEL_VARIABLE}, else {DEFAULT}",
    )
    add(
        "--bases",
        metavar="FOLDER",
        help="folder of frozen bases, asked before the installed ones and the Hub",
    )
    add("--language", help="what is spoken, a code or a name: it, Italian")
    add("--routing", help="how a bank's adapters are chosen: hard, soft, threshold, segments, base ...")
    add("--task", help="transcribe (default), or translate: into English")
    add("--prompt", metavar="WORDS", help="names and terms that may occur")
    add("--word-list", metavar="FILE", help="words of the language, one a line: spelling it should keep to")
    add("--format", choices=FORMATS, help="default: by the suffix of --output, else text")
    add("--output", metavar="PATH", help="folder: a file per input; file: what would be printed")
    add("--confidence", action="store_true", help="a column before the text: how sure the model is, 0 to 1")
    add("--words", action="store_true", help="times of words instead of segments, in json, srt and vtt")
    add(
        "--chunk-seconds",
        type=positive_float,
        metavar="S",
        help="cut longer audio, at pauses; default: as the checkpoint has it, else 30",
    )
    add("--batch-size", type=positive_int, metavar="N", help="chunks computed at once; default: 8")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto (default): an accelerator, if any")
    add("--dtype", default="auto", help="float32, bfloat16, float16; auto (default): what is fastest here")


def positive_int(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number above 0")
    return int(word)


def positive_float(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{word!r} is not a number above 0")
    return number


def run(args: argparse.Namespace) -> int:
    args.model = args.model or os.environ.get(MODEL_VARIABLE)
    form = chosen_format(args)
    inputs, problems = find_inputs(args.inputs)
    for word, reason in problems:
        report(f"{printable(word)}: {reason}")
    if not inputs:
        return 1
    with open_output(args.output, inputs, FORMATS[form].suffix) as output:
        failures = len(problems)
        for index, (one, result) in enumerate(transcribe(inputs, args)):
            if "error" in result:
                report(failure(one, result["error"]))
                failures += 1
            else:
                transcript = Transcript.from_result(one.name, result, args.words)
                output.write(index, render(form, one, transcript, args))
    return int(failures > 0)


def chosen_format(args: argparse.Namespace) -> str:
    """The format by name or by the output's suffix; refused where it cannot hold what is asked for."""
    form = args.format or format_of_path(args.output or "") or "text"
    if args.confidence and form != "text":
        raise ValueError("--confidence is a column of the format text; json holds it without being asked")
    if args.confidence and args.word_list:
        raise ValueError("--confidence: a text that --word-list chose among beams has none")
    if args.words and form == "text":
        raise ValueError("--words gives times, which text does not hold: choose --format json, srt or vtt")
    alone = names_one(args.inputs) or (args.output is not None and is_folder(args.output))
    if not alone and not FORMATS[form].joinable:
        raise ValueError(f"{form} is one file per input: name a folder with --output")
    return form


def render(form: str, one: AudioInput, transcript: Transcript, args: argparse.Namespace) -> str:
    """What is written for one input: as its format has it, text with the columns that tell inputs apart."""
    if form != "text":
        return FORMATS[form].render(transcript)
    shared = not names_one(args.inputs) and (args.output is None or not is_folder(args.output))
    return text_columns(transcript, label=one.label if shared else None, confidence=args.confidence)


def transcribe(inputs: list[AudioInput], args: argparse.Namespace) -> Iterator[tuple[AudioInput, dict]]:
    """Each input with its result, in order and as soon as it is there, below a progress bar."""
    pipeline = load_pipeline(args)
    results = pipeline(
        (one.source for one in inputs),
        language=args.language,
        routing=args.routing,
        task=args.task,
        prompt=args.prompt,
        word_list=args.word_list,
        batch_size=args.batch_size,
        chunk_length_s=args.chunk_seconds,
        return_timestamps="word" if args.words else True,
        return_language=True,
        return_confidence=True,
        on_error="return",
    )
    with tqdm(total=len(inputs), unit="file", disable=None) as progress:
        for pair in zip(inputs, results, strict=True):
            yield pair
            progress.update()


def load_pipeline(args: argparse.Namespace):
    """The checkpoint on its device; what may be wrong with the request is found before weights are read."""
    # Not at the top: `--help` and wrong usage need not wait seconds for torch.
    from transformers.utils import logging

    from .. import (
        SpeechLLMConfig,
        SpeechLLMForConditionalGeneration,
        SpeechLLMPipeline,
        SpeechLLMProcessor,
    )
    from ..configuration.configuration_prompt import prompt_config
    from ..default_checkpoint import default_checkpoint, fetch_missing_bases
    from ..device_choice import choose_device, choose_dtype
    from ..processing.clip_requests import REQUESTS

    if args.bases and not Path(args.bases).is_dir():
        raise ValueError(f"--bases {args.bases}: no such folder")
    if args.word_list and not Path(args.word_list).is_file():
        raise ValueError(f"--word-list {args.word_list}: no such file")
    if not args.model:
        args.model = str(default_checkpoint())
        report(
            f"transcribing with {Path(args.model).name}, which comes with the package; --model names another"
        )
    check_checkpoint(args.model, SpeechLLMConfig)
    device = choose_device(args.device)
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    config = SpeechLLMConfig.from_pretrained(args.model)
    processor = SpeechLLMProcessor.from_pretrained(args.model)
    if args.words and not REQUESTS[processor.family].TIMES_WORDS:
        raise ValueError(
            f"--words: {args.model} has no source of word alignment; without it, segments have times"
        )
    prompt_config(processor.prompt).user_text(
        task=args.task or "transcribe", language=args.language, context=args.prompt
    )
    dtype, reason = choose_dtype(args.dtype, device, config)
    if reason:
        report(f"computing in {str(dtype).removeprefix('torch.')}: {reason}")
    fetch_missing_bases(config, args.bases, report)
    model = SpeechLLMForConditionalGeneration.from_pretrained(args.model, bases=args.bases, dtype=dtype)
    return SpeechLLMPipeline(model, processor, device=device)


def check_checkpoint(name: str, config_class) -> None:
    """Raise if `name` is no folder and can be no id on the Hub, or is a checkpoint of something else."""
    if os.path.exists(name) and not os.path.isdir(name):
        raise ValueError(f"--model {name}: no such folder")
    try:
        config_class.get_config_dict(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"--model {error}") from error


def failure(one: AudioInput, error: str) -> str:
    """`error` with the whole path in place of the file's name; an address stays as short as it is there."""
    from ..processing.audio_reading import describe

    if not isinstance(one.source, str) or is_url(one.source):
        return error
    return f"{one.label}: {error.removeprefix(f'{describe(one.source)}: ')}"


def report(message: str) -> None:
    """A line on stderr; a progress bar makes room for it."""
    with tqdm.external_write_mode(file=sys.stderr):
        print(f"speechllm transcribe: {message}", file=sys.stderr, flush=True)
