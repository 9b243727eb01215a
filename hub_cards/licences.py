"""Licences of bases, what they mean for a model built on them, and licences of data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from speechllm.configuration.base_resolution import is_path, local_base

PERMISSIVE, ATTRIBUTION, OWN_TERMS, UNKNOWN, NON_COMMERCIAL = range(5)


@dataclass(frozen=True)
class Licence:
    """A licence by the Hub's identifier; `kind` is one of the five above, from free to strict."""

    id: str
    kind: int
    note: str = ""


UNKNOWN_LICENCE = Licence("unknown", UNKNOWN, "look at its page")

# Id of the base on the Hub, as a pattern -> licence; the first that fits counts.
BASE_LICENCES: dict[str, Licence] = {
    "openai/whisper-*": Licence("apache-2.0", PERMISSIVE, "OpenAI's own release is MIT"),
    "MBZUAI/artst*": Licence("cc-by-nc-4.0", NON_COMMERCIAL),
    "inceptionai/jais-*": Licence("apache-2.0", PERMISSIVE),
    "core42/jais-*": Licence("apache-2.0", PERMISSIVE),
    "facebook/hubert-*": Licence("apache-2.0", PERMISSIVE),
    "facebook/wav2vec2-*": Licence("apache-2.0", PERMISSIVE),
    "facebook/w2v-bert-2.0": Licence("mit", PERMISSIVE),
    "facebook/mms-*": Licence("cc-by-nc-4.0", NON_COMMERCIAL),
    "microsoft/speecht5_*": Licence("mit", PERMISSIVE),
    "HuggingFaceTB/SmolLM*": Licence("apache-2.0", PERMISSIVE),
    "Qwen/Qwen3-*": Licence("apache-2.0", PERMISSIVE),
    "Qwen/Qwen2.5-3B*": Licence("other", NON_COMMERCIAL, "the Qwen Research License: no commercial use"),
    "Qwen/Qwen2.5-72B*": Licence("other", OWN_TERMS, "the Qwen License Agreement"),
    "Qwen/Qwen2.5-*": Licence("apache-2.0", PERMISSIVE),
    "meta-llama/Llama-3.2-*": Licence("llama3.2", OWN_TERMS, "its name must begin with “Llama”"),
    "meta-llama/Llama-3.1-*": Licence("llama3.1", OWN_TERMS, "its name must begin with “Llama”"),
    "meta-llama/Meta-Llama-3-*": Licence("llama3", OWN_TERMS, "its name must begin with “Llama 3”"),
    "google/gemma-*": Licence("gemma", OWN_TERMS, "Google's list of prohibited uses is passed on"),
    "ibm-granite/*": Licence("apache-2.0", PERMISSIVE),
    "openai-community/gpt2*": Licence("mit", PERMISSIVE),
    "TinyLlama/*": Licence("apache-2.0", PERMISSIVE),
    "FunAudioLLM/SenseVoice*": Licence("other", OWN_TERMS, "the FunASR model licence"),
    "espnet/owsm_*": Licence("cc-by-4.0", ATTRIBUTION),
    "nvidia/parakeet-*": Licence("cc-by-4.0", ATTRIBUTION),
}
# Licences by name, where a base's own card states one that the table has not.
PERMISSIVE_IDS = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "unlicense")


def base_licence(base_id: str) -> Licence:
    """What the card in the base's folder says, else the table; unknown where neither knows."""
    folder = local_base(base_id)
    stated = _stated(folder / "README.md") if folder else None
    known = next((licence for pattern, licence in BASE_LICENCES.items() if fnmatch(base_id, pattern)), None)
    if stated is None or (known and known.id == stated):
        return known or UNKNOWN_LICENCE
    return Licence(stated, kind_of(stated))


# How corpora write a licence -> how the Hub does.
HUB_NAMES = {"gpl-2": "gpl-2.0", "gpl-3": "gpl-3.0", "bsd-2": "bsd-2-clause", "bsd-3": "bsd-3-clause"}


def hub_name(licence: str) -> str:
    """ "GPL-2" -> "gpl-2.0"."""
    return HUB_NAMES.get(licence.lower(), licence.lower())


def kind_of(licence_id: str) -> int:
    """How strict a licence is, from its identifier."""
    plain = licence_id.lower()
    if "-nc" in plain or "noncommercial" in plain or "non-commercial" in plain:
        return NON_COMMERCIAL
    if plain in PERMISSIVE_IDS:
        return PERMISSIVE
    if plain.startswith("cc-by"):
        return ATTRIBUTION
    return UNKNOWN if plain in ("", "unknown", "other") else OWN_TERMS


def combined(licences: Iterable[Licence]) -> Licence:
    """The licence of what is built on all of these: the strictest of them."""
    strictest = max(licences, key=lambda one: (one.kind, one.id == "apache-2.0"), default=UNKNOWN_LICENCE)
    if strictest.kind == NON_COMMERCIAL and strictest.id == "other":
        return Licence("cc-by-nc-4.0", NON_COMMERCIAL)
    return strictest


def consequences(bases: Iterable[tuple[str, Licence]]) -> list[str]:
    """Sentences on what the bases' licences mean for this model."""
    bases = list(bases)
    said = []
    for kind, sentence in CONSEQUENCES.items():
        names = [
            base_id if kind == UNKNOWN else f"{base_id} ({licence.id})"
            for base_id, licence in bases
            if licence.kind == kind
        ]
        if names:
            said.append(sentence.format(" and ".join(names)))
    if all(licence.kind == PERMISSIVE for _, licence in bases) and bases:
        said.append("The bases may be used commercially; their notices go with every copy.")
    return said


CONSEQUENCES = {
    NON_COMMERCIAL: "**Not for commercial use**: {} is non-commercial, and so is what is built on it.",
    UNKNOWN: "The licence of {} is not known here: find out before you use this model.",
    OWN_TERMS: "{} has terms of its own, which are passed on to what is built on it.",
    ATTRIBUTION: "{} asks that its authors be named.",
}


def data_consequence(licence_ids: Iterable[str]) -> str | None:
    """What data under a non-commercial licence means, if there is any."""
    strict = sorted({one for one in licence_ids if kind_of(one) == NON_COMMERCIAL})
    if not strict:
        return None
    return (
        f"Some of the training data is non-commercial ({', '.join(strict)}): whether weights inherit that is "
        "disputed, and differs between countries."
    )


def _stated(card) -> str | None:
    """The licence in a card's front matter."""
    if not card.is_file():
        return None
    block = REGEX_YAML_BLOCK.search(card.read_text(encoding="utf-8", errors="replace"))
    try:
        stated = (yaml.safe_load(block.group(2)) or {}).get("license") if block else None
    except (yaml.YAMLError, AttributeError):
        return None
    return stated if isinstance(stated, str) else None


def on_the_hub(base_id: str) -> bool:
    """Whether this is an id, and no folder of this machine."""
    return not is_path(base_id)
