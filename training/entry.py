"""The command: Hydra composes the configuration, every fault becomes one line."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
except ImportError as error:
    raise ImportError("training needs hydra: install speechllm[train]") from error

from speechllm.configuration.configuration_strict import suggest

CONFIGURATION = Path(__file__).resolve().parent / "conf"
DEBUG = "--debug"


def main(argv: list[str] | None = None) -> int:
    """Run the command with its exit code; 0 where the run ended well."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = DEBUG in arguments
    try:
        run_command([word for word in arguments if word != DEBUG])
    except KeyboardInterrupt:
        return _failed("interrupted; the same command goes on", debug, 130)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        return _failed(str(error) or type(error).__name__, debug, 1)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def run_command(arguments: list[str]) -> None:
    """Compose and train, or what else Hydra is asked for (`--cfg job`, `--multirun`, `--help`)."""
    failures: list[Exception] = []

    @hydra.main(version_base="1.3", config_path=str(CONFIGURATION), config_name="config")
    def job(config: DictConfig) -> None:
        try:
            train(config)
        except (ValueError, OSError, RuntimeError, ImportError) as error:
            # Hydra would write lines of its own; and of several runs the others should go on.
            failures.append(error)

    with _hydra_arguments(arguments):
        try:
            job()
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(in_one_line(error, arguments)) from error
    if failures:
        raise failures[0]


def train(config: DictConfig) -> None:
    """One run, in the folder that Hydra has for it."""
    # Not at the top: `--help` and `--cfg` should not wait for torch.
    from .run import run_training

    values: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    run_training(values, Path(HydraConfig.get().runtime.output_dir))


@contextlib.contextmanager
def _hydra_arguments(arguments: list[str]) -> Iterator[None]:
    """Hydra reads `sys.argv`, and tells its errors itself unless the environment says otherwise."""
    before, sys.argv = sys.argv, ["train", *arguments]
    told = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = before
        if told is None:
            del os.environ["HYDRA_FULL_ERROR"]


def in_one_line(error: Exception, arguments: list[str]) -> str:
    """What Hydra says in many lines, with what was probably meant."""
    text = str(error)
    key = re.search(r"Could not override '([^']+)'", text)
    if key:
        return f"there is no key {key[1]!r}; {_suggested_key(key[1], arguments)}"
    choice = re.search(r"Could not find '([^']+)/([^/']+)'", text)
    if choice:
        there = sorted(path.stem for path in (CONFIGURATION / choice[1]).glob("*.yaml"))
        return f"there is no {choice[1]} {choice[2]!r}; {suggest(choice[2], there)}"
    return " ".join(text.split())


def _suggested_key(key: str, arguments: list[str]) -> str:
    """The nearest key of the configuration that the other arguments compose."""
    name = key.split("=")[0]
    rest = [
        word for word in arguments if not word.startswith("-") and word.lstrip("+~").split("=")[0] != name
    ]
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONFIGURATION), version_base="1.3"):
            composed = hydra.compose("config", overrides=rest)
    except (HydraException, OmegaConfBaseException):
        return "`--cfg job` shows the configuration"
    return suggest(name, all_keys(OmegaConf.to_container(composed)))


def all_keys(values: Any, prefix: str = "") -> list[str]:
    """ "a.b" for every key below `values`, lists by number."""
    pairs = (
        enumerate(values) if isinstance(values, list) else values.items() if isinstance(values, dict) else ()
    )
    keys = []
    for key, value in pairs:
        keys += [f"{prefix}{key}", *all_keys(value, f"{prefix}{key}.")]
    return keys


def _failed(message: str, debug: bool, code: int) -> int:
    if debug:
        traceback.print_exc()
    print(f"speechllm train: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201  the command's answer
    return code
