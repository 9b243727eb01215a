"""Serve a page on which one speaks or drops a file, and sees the transcript, its language, times and doubts.

It offers the checkpoints that come with the package, and those named with --model, first. Sound is computed
where the page is served; the page itself needs no network. Only --share opens it to the world, through a
tunnel of Gradio's.

example:
  speechllm demo
  speechllm demo --model my-checkpoint --model me/my-asr --port 8080
  speechllm demo --host 0.0.0.0 --auth guest:a-password --max-minutes 10
"""

import argparse
import contextlib
import signal
import sys
import threading

from .transcribe import positive_float, positive_int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--model",
        action="append",
        default=[],
        metavar="CHECKPOINT",
        help="a folder or an id on the Hub; may be given several times",
    )
    add(
        "--bases",
        metavar="FOLDER",
        help="folder of frozen bases, asked before the installed ones and the Hub",
    )
    add("--host", default="127.0.0.1", help="0.0.0.0 serves other machines, too; default: %(default)s")
    add("--port", type=positive_int, help="default: the first free one from 7860 on")
    add("--auth", metavar="NAME:PASSWORD", action="append", help="ask visitors for it")
    add("--share", action="store_true", help="a public address for three days, through Gradio's servers")
    add("--max-megabytes", type=positive_int, default=50, metavar="N", help="of a file; default: %(default)s")
    add("--max-minutes", type=positive_float, default=30.0, metavar="N", help="of sound; default: 30")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto (default): an accelerator, if any")
    add("--dtype", default="auto", help="float32, bfloat16, float16; auto (default): what is fastest here")


def run(args: argparse.Namespace) -> int:
    # Not at the top: `--help` and wrong usage need not wait seconds for torch.
    from .. import SpeechLLMConfig
    from ..default_checkpoint import fetch_missing_bases
    from ..demo.app import serving
    from ..demo.checkpoints import find_checkpoints
    from ..demo.page import Page
    from ..demo.recognizers import Recognizers, load_recognizer
    from ..device_choice import choose_device, choose_dtype

    device = choose_device(args.device)

    def load(source: str):
        fetch_missing_bases(SpeechLLMConfig.from_pretrained(source), args.bases, told)
        return load_recognizer(
            source, args.bases, device, lambda config: choose_dtype(args.dtype, device, config)[0]
        )

    page = Page(
        find_checkpoints(args.model),
        Recognizers(load),
        most_megabytes=args.max_megabytes,
        most_minutes=args.max_minutes,
    )
    with serving(page, args.host, args.port, args.share, visitors(args.auth)) as address:
        print(f"speechllm demo: {address} (Ctrl-C ends it)", flush=True)
        wait_for_the_end()
    return 0


def told(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def visitors(pairs: list[str] | None) -> list[tuple[str, str]] | None:
    """["guest:a-password"] -> [("guest", "a-password")]."""
    divided = [pair.partition(":") for pair in pairs or []]
    for name, _, password in divided:
        if not (name and password):
            raise ValueError("--auth is NAME:PASSWORD, both of them not empty")
    return [(name, password) for name, _, password in divided] or None


def wait_for_the_end() -> None:
    """Until Ctrl-C, or until the process is told to end: visitors' files are removed in either case."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
