"""The command that composes a run's configuration again: the experiment nearest to it, and what differs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

try:
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf
except ImportError as error:
    raise ImportError("cards need hydra: install speechllm[train]") from error
from speechllm.training.entry import CONFIGURATION

from .run_facts import without_private_paths

# What says where a run lies and how it is repeated, but not what comes of it.
NOT_TOLD = ("output_dir", "overwrite")
# What `material` fills in by itself.
MADE = ("model.encoder", "model.decoder", "data.train", "data.eval")
BARE_WORD = re.compile(r"(?!(?i:null|true|false|inf|nan)$)[A-Za-z_][\w./-]*")


def training_command(settings: Mapping[str, Any]) -> str:
    """`speechllm train ...` in one line; composed, it gives `settings` again, but for paths of a machine."""
    wanted = without_private_paths(dict(settings))
    experiments = sorted(path.stem for path in (CONFIGURATION / "experiment").glob("*.yaml"))
    # An experiment gives a run its name, and composing them all takes a second.
    likely = [name for name in experiments if name == settings.get("name")] or experiments
    starts = [[], *([f"+experiment={name}"] for name in likely)]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONFIGURATION), version_base="1.3"):
        commands = [overrides(start, wanted) for start in starts]
    words = min(commands, key=lambda words: sum(map(len, words)))
    return " ".join(["speechllm", "train", *map(shlex.quote, words)])


def overrides(start: list[str], wanted: Mapping[str, Any]) -> list[str]:
    """`start`, and what is left to be said once Hydra has composed it."""
    composed: Any = OmegaConf.to_container(hydra.compose("config", overrides=start), resolve=True)
    kind = (wanted.get("adapter") or {}).get("kind")
    if composed["adapter"]["kind"] != kind and not any(word.startswith("adapter=") for word in start):
        return overrides([*start, f"adapter={kind}"], wanted)
    left_out = NOT_TOLD + (MADE if wanted.get("material") else ())
    return [*start, *differences(without_private_paths(composed), wanted, left_out)]


def differences(there: Any, wanted: Any, left_out: tuple[str, ...] = (), path: str = "") -> Iterator[str]:
    """What to override in `there` to have `wanted`."""
    if path in left_out or there == wanted:
        return
    if not (isinstance(there, dict) and isinstance(wanted, dict)):
        yield f"{path}={hydra_text(wanted)}"
        return
    for key in dict.fromkeys([*wanted, *there]):
        below = f"{path}.{key}" if path else str(key)
        # null is a key's default: it may be newer than the run.
        if below in left_out or (key not in wanted and there[key] is None):
            continue
        if key not in wanted:
            yield f"~{below}"
        elif key not in there:
            yield f"+{below}={hydra_text(wanted[key])}"
        else:
            yield from differences(there[key], wanted[key], left_out, below)


def hydra_text(value: Any) -> str:
    """A value as Hydra reads it in an override."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(hydra_text, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{hydra_text(one)}" for key, one in value.items()) + "}"
    if isinstance(value, str) and not BARE_WORD.fullmatch(value):
        return "'" + value.replace("'", r"\'") + "'"
    return str(value)
