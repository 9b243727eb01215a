"""Which papers a model rests on: by its bases, its adapter and what it was trained with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import version

from .rendering import TEMPLATES
from .run_facts import RunFacts

BIBLIOGRAPHY = TEMPLATES / "papers.bib"
ENTRY = re.compile(r"^@\w+\{([^,]+),\n.*?^\}$", re.DOTALL | re.MULTILINE)
# This package's own entry, and where in it the version stands.
SYSTEM, VERSION = "speechllm", "VERSION"

# Pattern of a base's id, in lower case -> key of an entry in the bibliography.
OF_BASES = {
    "*whisper*": "radford2022whisper",
    "*hubert*": "hsu2021hubert",
    "*wavlm*": "chen2021wavlm",
    "*wav2vec2*": "baevski2020wav2vec",
    "*artst*": "toyin2023artst",
    "*speecht5*": "ao2021speecht5",
    "*smollm2*": "allal2025smollm2",
    "*qwen3*": "qwen2025qwen3",
    "*jais*": "sengupta2023jais",
    "*llama-3*": "llama3",
}
OF_ADAPTERS = {"mlp": "ma2024slamasr", "prefix": "li2021prefix", "qformer": "li2023blip2"}
OF_LOSSES = {"ctc": "graves2006ctc", "contrastive": "oord2018cpc"}
LORA = "hu2021lora"


def citation(run: RunFacts) -> str:
    """BibTeX of this package and of the papers that the model rests on, each once."""
    entries = bibliography()
    keys = dict.fromkeys([SYSTEM, *_keys(run)])
    return "\n\n".join(entries[key] for key in keys).replace(f"{{{VERSION}}}", f"{{{version(SYSTEM)}}}")


def bibliography() -> dict[str, str]:
    """Key -> entry of `papers.bib`."""
    return {found[1]: found[0] for found in ENTRY.finditer(BIBLIOGRAPHY.read_text(encoding="utf-8"))}


def _keys(run: RunFacts) -> Iterator[str]:
    config = run.config
    for _, base_id, _ in run.bases:
        yield from (key for pattern, key in OF_BASES.items() if fnmatch(base_id.lower(), pattern))
    yield from (key for kind, key in OF_ADAPTERS.items() if kind == config.adapter_config.model_type)
    if config.lora_config or config.lora_bank:
        yield LORA
    for phase in run.results.get("phases") or []:
        loss = phase["loss"] if isinstance(phase["loss"], str) else phase["loss"].get("kind")
        yield from (key for name, key in OF_LOSSES.items() if name == loss)
