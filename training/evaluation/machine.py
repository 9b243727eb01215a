"""What a result was measured on: machine, versions, memory."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from speechllm.processing.memory_release import release_freed_memory

# Those that decide what is heard; the others decide how it is scored.
RECOGNIZING = ("speechllm", "torch", "transformers", "faster-whisper", "ctranslate2")
PACKAGES = (*RECOGNIZING, "jiwer", "numpy", "soundfile")
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def hardware() -> dict[str, Any]:
    """Processor and accelerator."""
    accelerators = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerators": accelerators or (["mps"] if torch.backends.mps.is_available() else []),
    }


def processor_name() -> str:
    """As the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Python and the packages that decide results, of those that are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


class PeakMemory:
    """Most memory that the process held between making this and asking: its resident set's high-water mark.

    Linux can begin to count anew; elsewhere the mark is that of the process since it began, and says so.
    """

    def __init__(self):
        gc.collect()
        release_freed_memory()
        try:
            RESET.write_text("5")
            self.since = "loading the system"
        except OSError:
            self.since = "the process began"
        self.before = _resident_peak()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def facts(self) -> dict[str, Any]:
        """Bytes, and what they are; of an accelerator what torch reserved there at most."""
        facts = {"peak_bytes": _resident_peak(), "before_bytes": self.before, "since": self.since}
        if torch.cuda.is_available():
            facts["accelerator_peak_bytes"] = torch.cuda.max_memory_reserved()
        return facts


def _resident_peak() -> int | None:
    if STATUS.exists():
        line = next((one for one in STATUS.read_text().splitlines() if one.startswith("VmHWM")), None)
        return int(line.split()[1]) * 1024 if line else None
    try:
        import resource  # not at the top: Windows has none
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
