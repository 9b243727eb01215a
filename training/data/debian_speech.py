"""Human speech with transcripts that installs from Debian packages, in eleven languages.

`prompts`: telephone prompts of Asterisk, one professional speaker a language. `stamps`: volunteers who
describe the pictures of Tux Paint. `librivox`: five sentences of an audiobook that come with PocketSphinx;
they are a test set and nothing else.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from .filters import DropReport, FilterSettings, filter_utterances
from .preparation import summary
from .splits import SPLITS, Splits, prove_disjoint, split_by_text
from .utterances import Utterance, write_manifest

PROMPT_LICENCES = dict.fromkeys(("en", "es", "fr"), "CC-BY-SA-3.0") | dict.fromkeys(("it", "ru"), "CC-BY-3.0")
# Fewer than 100 clips of Lithuanian, Dutch and Malayalam are there too: too few to divide.
STAMP_LANGUAGES = ("fr", "ro", "ru", "ca", "bg", "es", "be", "el", "da")
# "dot [.]": a letter's name, then the letter. Any other bracket is a remark, or a tone.
SPELLED_SIGN = re.compile(r"\s*\[\W\]")
RULES = ("refuse_brackets",)
LIBRIVOX_LINE = re.compile(r"<s>\s*(.*?)\s*</s>\s*\((.+)\)")
# Measured: people say 8 to 17 characters a second here, and 99 of 100 clips stay below 25; beyond that come
# stamps, Catalan ones above all, of which only the first word was spoken or kept.
LIMITS = FilterSettings(max_characters_per_second=28.0, check_audio=True)
FFMPEG = "ffmpeg"


@dataclass(frozen=True)
class Part:
    """One set in one language: what must be installed for it, and how it is read."""

    set: str
    language: str
    packages: tuple[str, ...]
    licence: str
    read: Callable[[Path], list[Utterance]]
    only: str | None = None

    @property
    def name(self) -> str:
        return f"{self.set}-{self.language}"


def parts(sets: Sequence[str] | None = None, languages: Sequence[str] | None = None) -> list[Part]:
    """The sets and languages there are, or those of them that are named."""
    chosen = [
        part
        for part in _all_parts()
        if part.set in (sets or (part.set,)) and part.language in (languages or (part.language,))
    ]
    for name, known in (("set", {part.set for part in _all_parts()}), ("language", _languages())):
        unknown = sorted({*((sets if name == "set" else languages) or ())} - known)
        if unknown:
            raise ValueError(f"unknown {name} {unknown} of debian-speech; there are {sorted(known)}")
    if not chosen:
        raise ValueError(f"debian-speech has no {list(sets or ())} in {list(languages or ())}")
    return chosen


def read_parts(chosen: Sequence[Part], root: Path) -> dict[str, list[Utterance]]:
    """Name of a part -> its utterances, unfiltered; one line says which packages are missing."""
    found = {part.name: part.read(root) for part in chosen}
    missing = [package for part in chosen if not found[part.name] for package in part.packages]
    if missing:
        names = " ".join(dict.fromkeys(missing))
        raise ValueError(f"not found under {root}: apt-get install {names} (or choose --sets, --languages)")
    return {part.name: [_labelled(part, utterance) for utterance in found[part.name]] for part in chosen}


def prepare_debian_speech(
    folder: Path,
    root: Path = Path("/usr/share"),
    sets: Sequence[str] | None = None,
    languages: Sequence[str] | None = None,
    wideband: bool = False,
) -> list[dict[str, Any]]:
    """Write `folder/{part}/{split}.jsonl` and, of all parts, `folder/{split}.jsonl`; a report of each part.

    `wideband`: prompts at 16 kHz, decoded by ffmpeg from the -g722 packages, instead of 8 kHz.
    """
    chosen = parts(sets, languages)
    unfiltered = read_parts(chosen, root)
    divided: dict[str, Splits] = {}
    reports = []
    for part in chosen:
        utterances = unfiltered[part.name]
        if wideband and part.set == "prompts":
            utterances = [_widened(utterance, folder / "audio") for utterance in utterances]
        report = DropReport(part.name)
        kept = filter_utterances(utterances, LIMITS, RULES, report)
        divided[part.name] = {part.only: kept} if part.only else split_by_text(kept)
        reports.append(_summary(part, divided[part.name], report))
    together: Splits = {name: [] for name in SPLITS}
    for splits in divided.values():
        for name, items in splits.items():
            together[name] += items
    prove_disjoint(together, "text")
    for name, splits in {".": together, **divided}.items():
        for split, utterances in splits.items():
            write_manifest(folder / name / f"{split}.jsonl", utterances)
    return reports


def _summary(part: Part, splits: Splits, report: DropReport) -> dict[str, Any]:
    about = {"set": part.set, "language": part.language, "licence": part.licence}
    return {**summary(part.name, splits, report), **about, "packages": list(part.packages)}


def _labelled(part: Part, utterance: Utterance) -> Utterance:
    extra = {"set": part.set, "origin": part.packages[0], "licence": part.licence}
    return replace(utterance, language=part.language, extra=extra)


def _all_parts() -> list[Part]:
    prompts = [
        Part(
            "prompts",
            language,
            (f"asterisk-core-sounds-{language}-wav", f"asterisk-core-sounds-{language}"),
            licence,
            partial(_prompts, language),
        )
        for language, licence in PROMPT_LICENCES.items()
    ]
    stamps = [
        Part(
            "stamps",
            language,
            ("tuxpaint-stamps-default",),
            "GPL-2",
            partial(_stamps, language),
        )
        for language in STAMP_LANGUAGES
    ]
    librivox = Part("librivox", "en", ("pocketsphinx-testdata",), "BSD-2", _librivox, only="test")
    return [*prompts, *stamps, librivox]


def _languages() -> set[str]:
    return {part.language for part in _all_parts()}


def _prompts(language: str, root: Path) -> list[Utterance]:
    """`name: text` lines, and a sound of that name in the folder of the language's one speaker."""
    listing = root / "doc" / f"asterisk-core-sounds-{language}" / f"core-sounds-{language}.txt.gz"
    folder = next(iter(sorted((root / "asterisk" / "sounds").glob(f"{language}_*_[fm]_*"))), None)
    if folder is None or not listing.is_file() or not any(folder.rglob("*.wav")):
        return []
    return [
        Utterance(
            audio=str(folder / f"{name}.wav"),
            text=SPELLED_SIGN.sub("", text),
            speaker=f"prompts-{folder.name.rsplit('_', 1)[1].lower()}",
            id=f"prompts-{language}/{name}",
        )
        for name, text in _prompt_lines(listing)
        # Some lines are of sounds that the package leaves out.
        if (folder / f"{name}.wav").is_file()
    ]


def _prompt_lines(listing: Path) -> Iterator[tuple[str, str]]:
    for line in gzip.decompress(listing.read_bytes()).decode("utf-8-sig", errors="replace").splitlines():
        name, separator, text = line.partition(":")
        if separator and not line.startswith(";"):
            yield name.strip(), text.strip()


def _stamps(language: str, root: Path) -> list[Utterance]:
    """`NAME_desc_XX.ogg`, and its text in the line `XX.utf8=` of `NAME.txt`."""
    suffix, prefix = f"_desc_{language}.ogg", f"{language}.utf8="
    folder = root / "tuxpaint" / "stamps"
    found = []
    for sound in sorted(folder.rglob(f"*{suffix}")):
        listing = sound.with_name(sound.name.removesuffix(suffix) + ".txt")
        lines = listing.read_text("utf-8", errors="replace").splitlines() if listing.is_file() else []
        text = next((line.removeprefix(prefix) for line in lines if line.startswith(prefix)), "")
        name = str(sound.relative_to(folder)).removesuffix(suffix)
        # Nobody wrote down who spoke; that it is another voice than the prompts' is known.
        found.append(
            Utterance(str(sound), text.strip(), speaker=f"stamps-{language}", id=f"stamps-{language}/{name}")
        )
    return found


def _librivox(root: Path) -> list[Utterance]:
    folder = root / "pocketsphinx" / "test" / "data" / "librivox"
    listing = folder / "transcription"
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    found = [match.groups() for line in lines if (match := LIBRIVOX_LINE.match(line.strip()))]
    return [
        Utterance(str(folder / f"{name}.wav"), text, speaker="librivox-austen", id=f"librivox-en/{name}")
        for text, name in found
    ]


def _widened(utterance: Utterance, folder: Path) -> Utterance:
    """The prompt at 16 kHz, as FLAC in `folder`."""
    source = Path(utterance.audio).with_suffix(".g722")
    if not source.is_file():
        raise ValueError(f"{source} is missing: --wideband needs the packages asterisk-core-sounds-XX-g722")
    if shutil.which(FFMPEG) is None:
        raise ValueError("--wideband needs ffmpeg, which is not installed")
    target = folder / f"{utterance.id}.flac"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [FFMPEG, "-v", "error", "-y", "-f", "g722", "-i", str(source), "-ar", "16000", "-ac", "1"]
        # Whole or not at all: a second run takes what it finds for finished.
        unfinished = target.with_suffix(".partial.flac")
        subprocess.run([*command, str(unfinished)], check=True)
        unfinished.replace(target)
    return replace(utterance, audio=str(target))
