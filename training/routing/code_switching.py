"""Synthetic speech that changes its language, from manifests of speech that does not."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from speechllm.configuration.writing import replacing_files
from speechllm.training.data.sounds import SAMPLING_RATE, read_sound, sound_seconds
from speechllm.training.data.utterances import Utterance, read_manifest, write_manifest

from .switch_sounds import PEAK, Piece, joined_with_fades, leveled, quietest, split_piece

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class Switching:
    """How clips are made.

    `turns`: fewest and most pieces of a clip of "inter", and half of those of "rapid". `phrase_seconds`: the
    same of a "rapid" phrase's length. `pause_seconds`: of the silence between sentences of "inter".
    """

    kind: str = "inter"
    count: int = 100
    turns: tuple[int, int] = (2, 3)
    pause_seconds: tuple[float, float] = (0.1, 0.4)
    phrase_seconds: tuple[float, float] = (0.6, 1.5)
    fade_seconds: float = 0.02
    longest_seconds: float = 28.0
    seed: int = 42

    def __post_init__(self):
        if self.kind not in SWITCH_KINDS:
            raise ValueError(f"no kind of switching {self.kind!r}; there are {', '.join(SWITCH_KINDS)}")
        for name in ("turns", "pause_seconds", "phrase_seconds"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"{name}={getattr(self, name)} must go from a lower to a higher number")
        if self.turns[0] < 2:
            raise ValueError(f"turns={self.turns} must be at least 2: with one piece nothing switches")
        for name in ("count", "longest_seconds", "fade_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")


class Corpus:
    """The utterances of every language, read and drawn."""

    def __init__(self, manifests: Mapping[str, str | os.PathLike | list[Utterance]]):
        if len(manifests) < 2:
            raise ValueError(f"speech switches between at least 2 languages, not {sorted(manifests)}")
        self.utterances = {
            language: checked_utterances(language, source) for language, source in manifests.items()
        }

    def turns(self, count: int, generator: np.random.Generator) -> list[str]:
        """`count` languages, neighbours different."""
        languages = list(self.utterances)
        order = [languages[generator.integers(len(languages))]]
        while len(order) < count:
            others = [language for language in languages if language != order[-1]]
            order.append(others[generator.integers(len(others))])
        return order

    def draw(self, language: str, longest: float, generator: np.random.Generator) -> Utterance:
        """A random utterance of at most so many seconds."""
        short = [item for item in self.utterances[language] if (item.seconds or 0) <= longest]
        if not short:
            least = min(item.seconds or 0 for item in self.utterances[language])
            raise ValueError(
                f"no utterance of {language} is as short as {longest:.1f} s, which is the room for one; the "
                f"shortest has {least:.1f} s"
            )
        return short[generator.integers(len(short))]


def checked_utterances(language: str, source: str | os.PathLike | list[Utterance]) -> list[Utterance]:
    """A manifest's utterances with their seconds; none, or one without audio or text, is an error."""
    utterances = source if isinstance(source, list) else read_manifest(source)
    name = f"the manifest of {language}" + ("" if isinstance(source, list) else f", {Path(source).name},")
    if not utterances:
        raise ValueError(f"{name} holds no utterances")
    silent = [item.name for item in utterances if not item.text.strip()]
    if silent:
        raise ValueError(f"{name} has {len(silent)} utterances without text, {silent[0]} first")
    missing = [item.name for item in utterances if not item.audio or not _there(item.audio)]
    if missing:
        raise ValueError(f"{name} has {len(missing)} utterances without audio, {missing[0]} first")
    return [
        item if item.seconds is not None else replace(item, seconds=sound_seconds(item))
        for item in utterances
    ]


def _there(audio: str) -> bool:
    return "://" in audio or os.path.exists(audio)


def whole(utterance: Utterance, language: str) -> Piece:
    """An utterance at the common level."""
    return Piece(leveled(read_sound(utterance)), language, utterance.text, utterance.name)


def inter_sentential(corpus: Corpus, settings: Switching, generator: np.random.Generator):
    """Whole utterances, with a short pause between them: every text is exact."""
    languages = corpus.turns(_between(settings.turns, generator), generator)
    room = settings.longest_seconds / len(languages) - settings.pause_seconds[1]
    pieces = [whole(corpus.draw(language, room, generator), language) for language in languages]
    return pieces, [generator.uniform(*settings.pause_seconds) for _ in pieces[1:]]


def intra_sentential(corpus: Corpus, settings: Switching, generator: np.random.Generator):
    """An utterance, and in its middle half, at a quiet point, an utterance of another language."""
    host_language, guest_language = corpus.turns(2, generator)
    host = corpus.draw(host_language, settings.longest_seconds / 2, generator)
    guest = corpus.draw(guest_language, settings.longest_seconds / 2, generator)
    sound = whole(host, host_language)
    cut = quietest(sound.samples, 0.25 * sound.seconds, 0.75 * sound.seconds)
    before, after = split_piece(sound, cut, host.extra.get("words"))
    return [before, whole(guest, guest_language), after], [0.0, 0.0]


def rapid(corpus: Corpus, settings: Switching, generator: np.random.Generator):
    """Short phrases, cut from utterances at quiet points, in languages that alternate."""
    count = _between((2 * settings.turns[0], 2 * settings.turns[1]), generator)
    languages = corpus.turns(count, generator)
    pieces = []
    for language in languages:
        utterance = corpus.draw(language, settings.longest_seconds, generator)
        pieces.append(phrase(whole(utterance, language), utterance.extra.get("words"), settings, generator))
    return pieces, [0.0] * (len(pieces) - 1)


def phrase(piece: Piece, words: list | None, settings: Switching, generator: np.random.Generator) -> Piece:
    """The beginning of a piece up to a quiet point; all of it where it is no longer than a phrase.

    Always the beginning: one cut makes one border whose words are estimated, two would make two.
    """
    shortest, longest = settings.phrase_seconds
    if piece.seconds <= longest:
        return piece
    target = generator.uniform(shortest, longest)
    cut = quietest(piece.samples, max(shortest, target - 0.3), min(longest, target + 0.3))
    return split_piece(piece, cut, words)[0]


SWITCH_KINDS: dict[str, Callable[[Corpus, Switching, np.random.Generator], tuple[list, list]]] = {
    "inter": inter_sentential,
    "intra": intra_sentential,
    "rapid": rapid,
}


def _between(bounds: tuple[int, int], generator: np.random.Generator) -> int:
    return int(generator.integers(bounds[0], bounds[1] + 1))


def write_switched(
    manifests: Mapping[str, str | os.PathLike | list[Utterance]],
    folder: str | os.PathLike,
    settings: Switching | None = None,
) -> list[Utterance]:
    """Write `settings.count` clips and their manifest into `folder`; what the manifest says.

    `manifests`: language -> its manifest. `extra` of every clip holds `kind`, `boundaries` (seconds at which
    a language begins) and `segments`: start, end, language, text, source, and whether the text is estimated.
    Clip `i` depends on the seed and on `i` alone.
    """
    settings, folder = settings or Switching(), Path(folder)
    corpus = Corpus(manifests)
    written = []
    with replacing_files(folder) as partial:
        for index in range(settings.count):
            generator = np.random.default_rng([settings.seed, index])
            pieces, pauses = SWITCH_KINDS[settings.kind](corpus, settings, generator)
            samples, spans = joined_with_fades(pieces, pauses, settings.fade_seconds)
            name = f"{settings.kind}_{index:05d}"
            soundfile.write(
                Path(partial) / f"{name}.wav", below_full_scale(samples), SAMPLING_RATE, subtype="PCM_16"
            )
            written.append(
                Utterance(
                    audio=str(folder / f"{name}.wav"),
                    text=" ".join(piece.text for piece in pieces if piece.text),
                    seconds=len(samples) / SAMPLING_RATE,
                    id=name,
                    extra=described(settings.kind, pieces, spans),
                )
            )
    write_manifest(folder / MANIFEST, written)
    return written


def described(kind: str, pieces: list[Piece], spans: list[tuple[float, float]]) -> dict[str, Any]:
    """What the manifest says of a clip beyond its text."""
    segments = []
    for piece, (start, end) in zip(pieces, spans, strict=True):
        said = {"text": piece.text, "text_is_estimated": piece.text_is_estimated, "source": piece.source}
        times = {"start": round(start, 4), "end": round(end, 4)}
        segments.append({**times, "language": piece.language, **said})
    return {"kind": kind, "boundaries": [item["start"] for item in segments[1:]], "segments": segments}


def below_full_scale(samples: np.ndarray) -> np.ndarray:
    """Turned down as a whole where a peak would clip."""
    peak = float(np.abs(samples).max(initial=0.0))
    return samples * np.float32(PEAK / peak) if peak > PEAK else samples
