"""Show versions, devices, tools and base models, and whether what this package needs is there.

The exit code is 1 where a requirement is not met; what is optional never changes it.

example:
  speechllm doctor
  speechllm doctor --json > report.json
"""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Sequence

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ..bases.install import bases_folder, hub_is_reachable, installed_bases
from ..bases.sources import BASES

PACKAGE = "speechllm"
# Extras for those who work on the package itself, and the sum of the others.
EXTRAS_NOT_SHOWN = {"dev", "all"}
# Used where present, required by no extra but "dev": quantized bases.
USED_IF_PRESENT = ("bitsandbytes", "torchao")
MATMUL_SECONDS = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the same as one JSON object")


def run(args: argparse.Namespace) -> int:
    report = examine()
    print(json.dumps(report, indent=2) if args.json else render(report))
    return 0 if report["ok"] else 1


def examine() -> dict:
    """Everything the command shows, as plain values."""
    metadata = importlib.metadata.metadata(PACKAGE)
    requirements = check_requirements(importlib.metadata.requires(PACKAGE) or [])
    python_bound = metadata["Requires-Python"] or ""
    python_met = platform.python_version() in SpecifierSet(python_bound, prereleases=True)
    return {
        "ok": python_met and all(entry["met"] for entry in requirements if entry["hard"]),
        "platform": platform.platform(),
        "python": {"installed": platform.python_version(), "required": python_bound, "met": python_met},
        PACKAGE: metadata["Version"],
        "requirements": requirements,
        "devices": examine_devices(),
        "ffmpeg": shutil.which("ffmpeg"),
        "hub": examine_hub(),
        "bases": examine_bases(),
    }


def check_requirements(lines: list[str]) -> list[dict]:
    """One entry per package: `name`, `required`, `installed`, `hard`, `extras`, `met`.

    What everybody needs of a package decides; an extra's bound counts where only extras name the package.
    """
    requirements = [requirement for requirement in map(Requirement, lines) if requirement.name != PACKAGE]
    all_extras = _extras_of(lines) - EXTRAS_NOT_SHOWN
    entries: dict[str, dict] = {}
    for requirement in requirements:
        if _applies(requirement, ""):
            entries[requirement.name] = _entry(requirement.name, str(requirement.specifier), hard=True)
    for requirement in requirements:
        extras = {extra for extra in all_extras if _applies(requirement, extra)}
        if not extras or entries.get(requirement.name, {}).get("hard"):
            continue
        before = entries.get(requirement.name, {"required": "", "extras": []})
        bounds = {*before["required"].split(","), *str(requirement.specifier).split(",")} - {""}
        extras |= set(before["extras"])
        entries[requirement.name] = _entry(requirement.name, ",".join(sorted(bounds)), extras=sorted(extras))
    for name in USED_IF_PRESENT:
        entries.setdefault(name, _entry(name, ""))
    return list(entries.values())


def _entry(name: str, required: str, hard: bool = False, extras: Sequence[str] = ()) -> dict:
    installed = installed_version(name)
    met = installed is not None and SpecifierSet(required, prereleases=True).contains(installed)
    return {
        "name": name,
        "required": required,
        "installed": installed,
        "hard": hard,
        "extras": list(extras),
        "met": met,
    }


def _extras_of(lines: list[str]) -> set[str]:
    """Names of the extras that the requirement lines mention."""
    quoted = (line.partition("extra ==")[2].strip().strip("\"' )") for line in lines)
    return {extra for extra in quoted if extra}


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def examine_devices() -> dict:
    """CPU cores, accelerators, and how many times faster than float32 a bfloat16 product is on this CPU."""
    devices: dict = {"cpu_cores": os.cpu_count(), "cuda": [], "mps": False, "cpu_bfloat16_speedup": None}
    try:
        import torch  # not at the top: the doctor must also tell where torch is missing or broken
    except (ImportError, OSError) as error:
        return devices | {"torch_error": " ".join(str(error).split())}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices["cuda"].append(
            {"name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
        )
    devices["mps"] = torch.backends.mps.is_available()
    from ..device_choice import bfloat16_speedup

    devices["cpu_bfloat16_speedup"] = round(bfloat16_speedup(seconds=MATMUL_SECONDS), 2)
    return devices


def examine_hub() -> dict:
    """`state` is "reachable", "not reachable" or "offline mode"."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        state = "offline mode"
    else:
        state = "reachable" if hub_is_reachable() else "not reachable"
    return {"endpoint": constants.ENDPOINT, "state": state}


def examine_bases() -> dict:
    """The folder of bases, and for each base whether the folder or the Hub's cache has it."""
    from huggingface_hub import try_to_load_from_cache

    folder = bases_folder()
    problem = None
    try:
        installed = {manifest["id"]: manifest for manifest in installed_bases(folder)}
    except ValueError as error:
        installed, problem = {}, str(error)
    models = []
    for base_id in sorted({*BASES, *installed}):
        revision = BASES[base_id].hub_revision if base_id in BASES else installed[base_id]["revision"]
        cached = try_to_load_from_cache(base_id, "model.safetensors", revision=revision)
        models.append(
            {"id": base_id, "installed": base_id in installed, "in_hub_cache": isinstance(cached, str)}
        )
    return {"folder": str(folder), "problem": problem, "models": models}


def render(report: dict) -> str:
    """The report as lines for a person."""
    python, hub, devices = report["python"], report["hub"], report["devices"]
    lines = [
        f"speechllm {report[PACKAGE]} on {report['platform']}",
        _version_line("python", python["installed"], python["required"], _verdict(python["met"], True)),
    ]
    for entry in report["requirements"]:
        verdict = _verdict(entry["met"], entry["hard"]) + (
            f" [{', '.join(entry['extras'])}]" if entry["extras"] else ""
        )
        lines.append(_version_line(entry["name"], entry["installed"] or "-", entry["required"], verdict))
    lines += ["", *_device_lines(devices)]
    lines += [f"ffmpeg: {report['ffmpeg'] or 'not found (m4a, webm and mp4 cannot be read)'}"]
    lines += [f"hub: {hub['endpoint']} {hub['state']}", f"bases: {report['bases']['folder']}"]
    if report["bases"]["problem"]:
        lines.append(f"  {report['bases']['problem']}")
    for model in report["bases"]["models"]:
        places = [
            place for place, key in (("folder", "installed"), ("Hub cache", "in_hub_cache")) if model[key]
        ]
        lines.append(f"  {model['id']}: {' and '.join(places) or 'not on this machine'}")
    unmet = [entry["name"] for entry in report["requirements"] if entry["hard"] and not entry["met"]]
    unmet += [] if python["met"] else ["python"]
    lines += ["", "all requirements are met" if report["ok"] else f"requirements not met: {', '.join(unmet)}"]
    return "\n".join(lines)


def _version_line(name: str, installed: str, required: str, verdict: str) -> str:
    return f"  {name:<18} {installed:<16} {required:<10} {verdict}".rstrip()


def _verdict(met: bool, hard: bool) -> str:
    if met:
        return "ok"
    return "REQUIRED" if hard else "optional, not met"


def _device_lines(devices: dict) -> list[str]:
    if "torch_error" in devices:
        return [
            f"devices: {devices['cpu_cores']} CPU cores; torch cannot be imported ({devices['torch_error']})"
        ]
    speedup = devices["cpu_bfloat16_speedup"]
    lines = [f"cpu: {devices['cpu_cores']} cores, bfloat16 products {speedup} times as fast as float32"]
    lines += [f"cuda: {gpu['name']}, {gpu['memory_gib']} GiB" for gpu in devices["cuda"]] or ["cuda: none"]
    return lines + [f"mps: {'available' if devices['mps'] else 'none'}"]
