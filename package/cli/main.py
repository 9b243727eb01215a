"""Entry point of the command line: finds the subcommand, runs it, and turns errors into one line."""

import argparse
import difflib
import importlib
import sys
import traceback

# Name -> (module, one line of help). A module has `add_arguments(parser)`, `run(args) -> int`, and a
# docstring: its first paragraph describes the command, the rest is the example below `--help`.
COMMANDS = {
    "transcribe": ("speechllm.cli.transcribe", "write down what is said in audio files"),
    "train": ("speechllm.cli.train", "train a speech recognizer"),
    "evaluate": ("speechllm.cli.evaluate", "measure error rates of recognizers, side by side"),
    "prepare": ("speechllm.cli.prepare", "turn a corpus into manifests to train and test on"),
    "cache-features": (
        "speechllm.cli.cache_features",
        "run the frozen encoder once, and keep what it computes",
    ),
    "convert": (
        "speechllm.cli.convert",
        "turn foreign weights into checkpoints, or these into stock Whisper",
    ),
    "analyze": ("speechllm.cli.analyze", "look inside a checkpoint: pictures and numbers"),
    "demo": ("speechllm.cli.demo", "serve a page to speak to a checkpoint, and see what it hears"),
    "card": ("speechllm.cli.card", "show or write the card of a checkpoint or a corpus"),
    "push": ("speechllm.cli.push", "bring a checkpoint, a corpus or a demo to the Hub"),
    "bases": ("speechllm.cli.bases", "list, install and verify base models"),
    "doctor": ("speechllm.cli.doctor", "show versions, devices and what a model can be loaded from"),
}
USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count it


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; 0 on success, 1 on failure, 2 on wrong usage, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # No option before the subcommand takes a value, so the first plain word is its name.
    position = next(
        (index for index, word in enumerate(arguments) if not word.startswith("-")), len(arguments)
    )
    parser = top_parser()
    try:
        top = parser.parse_args(arguments[:position])
        if top.version:
            import speechllm

            print(f"speechllm {speechllm.__version__}")
            return 0
        if position == len(arguments):
            parser.print_help(sys.stderr)
            return USAGE_ERROR
        name = arguments[position]
        if name not in COMMANDS:
            parser.error(unknown_command(name))
    except SystemExit as stop:
        return exit_code(stop)
    return run_command(name, arguments[position + 1 :], top.debug)


def run_command(name: str, arguments: list[str], debug: bool = False) -> int:
    """Import, parse and run subcommand `name`."""
    debug = debug or "--debug" in arguments
    try:
        module = importlib.import_module(COMMANDS[name][0])
        return module.run(command_parser(name, module).parse_args(arguments))
    except SystemExit as stop:
        return exit_code(stop)
    except KeyboardInterrupt:
        return failed(name, "interrupted", debug, INTERRUPTED)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        return failed(name, str(error) or type(error).__name__, debug, 1)


def failed(name: str, message: str, debug: bool, code: int) -> int:
    """Say why on stderr: one line, or the traceback of the error being handled."""
    if debug:
        traceback.print_exc()
    print(f"speechllm {name}: {' '.join(message.split())}", file=sys.stderr)
    return code


def exit_code(stop: SystemExit) -> int:
    """What argparse wanted to leave with."""
    return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def unknown_command(name: str) -> str:
    """The message for a subcommand that does not exist, with the closest one that does."""
    close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    return f"unknown command {name!r}; " + (
        f"did you mean {close[0]!r}?" if close else f"there are {sorted(COMMANDS)}"
    )


def top_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {help_line}" for name, (_, help_line) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="speechllm",
        usage="speechllm [--help] [--version] [--debug] COMMAND ...",
        description="Speech recognizers from frozen speech encoders and language models.",
        epilog=f"commands:\n{commands}\n\n`speechllm COMMAND --help` shows its options and an example.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    _add_debug(parser)
    return parser


def command_parser(name: str, module) -> argparse.ArgumentParser:
    """Parser of one subcommand; its help text is the module's docstring."""
    description, _, example = module.__doc__.strip().partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=f"speechllm {name}",
        description=description,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    _add_debug(parser)
    return parser


def _add_debug(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


if __name__ == "__main__":
    sys.exit(main())
