"""Corpora on disk as utterances: a folder with transcripts, AISHELL-1, Kaldi, mTEDx, a manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from .utterances import READERS, Utterance, read_manifest

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".mp4", ".webm", ".aac", ".g722", ".sph")
# What they are called where a folder holds the sounds and one file all the texts.
TRANSCRIPT_NAMES = ("transcripts", "transcript", "metadata", "manifest", "text", "trans")
AISHELL_SPLITS = {"train": "train", "validation": "dev", "test": "test"}
MTEDX_SPLITS = {"train": "train", "validation": "valid", "test": "test"}


def read_corpus(
    kind: str, path: str | os.PathLike, split: str | None = None, columns: Mapping[str, str] | None = None
) -> list[Utterance]:
    """The utterances of a corpus of one of `KINDS`; `split` where its layout has splits."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind of corpus {kind!r}; there are {sorted(KINDS)}")
    path = Path(path).expanduser()
    if not path.exists():
        raise ValueError(f"{path}: no such {'manifest' if kind == 'manifest' else 'folder'}")
    utterances = KINDS[kind](path, split, columns)
    if not utterances:
        raise ValueError(f"{path}: no clip with a transcript found, reading it as {kind}")
    return utterances


def _manifest(path: Path, split: str | None, columns: Mapping[str, str] | None) -> list[Utterance]:
    if path.is_dir():
        wanted = path / f"{split or 'train'}.jsonl"
        there = sorted(file.name for file in path.iterdir() if file.suffix.lower() in READERS)
        path = next((path / name for name in there if Path(name).stem == wanted.stem), wanted)
        if not path.exists():
            raise ValueError(f"{path.parent}: no split {wanted.stem!r}; its manifests are {there}")
    return read_manifest(path, columns)


def _folder(path: Path, split: str | None, columns: Mapping[str, str] | None) -> list[Utterance]:
    """Sounds with a text file of the same name beside them, or one file of all transcripts."""
    path = _split_folder(path, split, {}) if split else path
    sounds = sorted(file for file in path.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES)
    listing = _transcript_file(path)
    if listing is not None:
        return _listed(listing, sounds, path, columns)
    return [
        Utterance(audio=str(sound), text=_text_beside(sound), id=str(sound.relative_to(path).with_suffix("")))
        for sound in sounds
        if sound.with_suffix(".txt").exists()
    ]


def _text_beside(sound: Path) -> str:
    # One damaged text must not stop the reading of the others: it is dropped, and counted, as damaged.
    return " ".join(sound.with_suffix(".txt").read_text(encoding="utf-8", errors="replace").split())


def _transcript_file(path: Path) -> Path | None:
    found = [
        file
        for name in TRANSCRIPT_NAMES
        for file in sorted(path.glob(f"{name}.*"))
        if file.suffix.lower() in {*READERS, ".txt"}
    ]
    return found[0] if found else None


def _listed(
    listing: Path, sounds: list[Path], folder: Path, columns: Mapping[str, str] | None
) -> list[Utterance]:
    """The entries of a transcript file, each found by its path, its name, or its name without suffix."""
    if listing.suffix == ".txt":
        entries = [Utterance(audio=key, text=text, id=key) for key, text in _lines(listing)]
    else:
        entries = read_manifest(listing, columns)
    known: dict[str, Path] = {}
    for sound in sounds:
        for key in (sound.stem, sound.name, str(sound.relative_to(folder)), os.path.normpath(sound)):
            known[key] = sound
    found = []
    for entry in entries:
        named = Path(entry.audio)
        names = (entry.audio, os.path.relpath(entry.audio, folder), named.name, named.stem)
        audio = next((str(known[name]) for name in names if name in known), entry.audio)
        # One without its sound is kept: reading will say so, by name.
        fields = {**entry.__dict__, "audio": audio}
        fields["id"] = entry.id or Path(entry.audio).stem
        found.append(Utterance(**fields))
    return found


def _aishell(path: Path, split: str | None, columns: Mapping[str, str] | None) -> list[Utterance]:
    """AISHELL-1: `wav/{train,dev,test}/S0002/BAC009S0002W0122.wav` and one transcript for all.

    Words stand apart in it; they are joined here, as Chinese is written. Sounds without a line are skipped.
    """
    root = path / "data_aishell" if (path / "data_aishell").is_dir() else path
    listing = next(iter(sorted((root / "transcript").glob("aishell_transcript*.txt"))), None)
    if listing is None:
        raise ValueError(f"{root}: no transcript/aishell_transcript_v0.8.txt; is this AISHELL-1?")
    texts = {key: "".join(text.split()) for key, text in _lines(listing)}
    folder = _split_folder(root / "wav", split or "train", AISHELL_SPLITS)
    sounds = sorted(folder.glob("*/*.wav"))
    if not sounds and sorted((root / "wav").glob("*.tar.gz")):
        raise ValueError(f"{root / 'wav'}: the speakers' .tar.gz files are not extracted yet")
    return [
        Utterance(
            audio=str(sound), text=texts[sound.stem], language="zh", speaker=sound.parent.name, id=sound.stem
        )
        for sound in sounds
        if sound.stem in texts
    ]


def _kaldi(path: Path, split: str | None, columns: Mapping[str, str] | None) -> list[Utterance]:
    """`wav.scp` and `text`; `utt2spk`, `utt2lang` and `segments` where they are. No commands are run."""
    path = _split_folder(path, split, {}) if split else path
    for name in ("wav.scp", "text"):
        if not (path / name).is_file():
            raise ValueError(f"{path}: no {name}; a Kaldi folder has wav.scp and text")
    sounds, texts = dict(_lines(path / "wav.scp")), dict(_lines(path / "text"))
    piped = next((key for key, sound in sounds.items() if sound.endswith("|")), None)
    if piped is not None:
        raise ValueError(
            f"{path / 'wav.scp'}: {piped} is a command; write its output to a file and name that"
        )
    speakers, languages = _optional(path / "utt2spk"), _optional(path / "utt2lang")
    pieces = {key: value.split() for key, value in _optional(path / "segments").items()}
    found = []
    for key, text in texts.items():
        recording, start, end = pieces.get(key, (key, None, None))
        extra = {} if start is None else {"offset": float(start)}
        found.append(
            Utterance(
                audio=os.path.normpath(path / sounds[recording]) if recording in sounds else "",
                text=text,
                language=languages.get(key),
                seconds=None if start is None or end is None else float(end) - float(start),
                speaker=speakers.get(key),
                id=key,
                extra=extra,
            )
        )
    return found


def _mtedx(path: Path, split: str | None, columns: Mapping[str, str] | None) -> list[Utterance]:
    """mTEDx, as unpacked (`es-es/data/train/...`): segments of talks, and their texts line by line."""
    folder = _split_folder(
        path / "data" if (path / "data").is_dir() else path, split or "train", MTEDX_SPLITS
    )
    language = path.resolve().name.split("-")[0]
    listing, texts = folder / "txt" / "segments", folder / "txt" / f"{folder.name}.{language}"
    if not listing.is_file() or not texts.is_file():
        raise ValueError(f"{folder}: no txt/segments and txt/{texts.name}; give the folder es-es, fr-fr, ...")
    pieces = list(_lines(listing))
    lines = texts.read_text(encoding="utf-8", errors="replace").splitlines()
    if len(pieces) != len(lines):
        raise ValueError(f"{folder}: {len(pieces)} segments but {len(lines)} lines of text")
    sounds = {sound.stem: sound for sound in (folder / "wav").glob("*") if sound.suffix in AUDIO_SUFFIXES}
    found = []
    for (key, piece), text in zip(pieces, lines, strict=True):
        talk, start, end = piece.split()[:3]
        found.append(
            Utterance(
                audio=str(sounds.get(talk, "")),
                text=text.strip(),
                language=language,
                seconds=float(end) - float(start),
                speaker=talk,
                id=key,
                extra={"offset": float(start)},
            )
        )
    return found


KINDS: dict[str, Callable[[Path, str | None, Mapping[str, str] | None], list[Utterance]]] = {
    "manifest": _manifest,
    "folder": _folder,
    "aishell": _aishell,
    "kaldi": _kaldi,
    "mtedx": _mtedx,
}


def _split_folder(path: Path, split: str, names: Mapping[str, str]) -> Path:
    folder = path / names.get(split, split)
    if not folder.is_dir():
        there = sorted(item.name for item in path.iterdir() if item.is_dir()) if path.is_dir() else []
        raise ValueError(f"{path}: no split {folder.name!r}; its folders are {there}")
    return folder


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """`key rest of the line`."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.strip():
            key, _, rest = line.strip().replace("\t", " ").partition(" ")
            yield key, rest.strip()


def _optional(path: Path) -> dict[str, str]:
    return dict(_lines(path)) if path.is_file() else {}
