"""Runs the frozen encoder once over utterances, and keeps what it computes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from speechllm.configuration.encoder_specs import encoder_spec
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..augmentation.augmentation import Augmentation
from ..data.filters import NAMED_PER_REASON
from ..data.sounds import sound_seconds
from ..data.utterances import Utterance
from .clip_reading import Clip, ClipBatches, Dropped, Heard, as_it_is, drop_key, dropped, length_batches
from .identity import (
    MANIFEST,
    check_identity,
    encoder_identity,
    keeps_silence,
    read_cache_manifest,
    refuse_uncacheable,
    write_cache_manifest,
)
from .sound_keys import source_key
from .storage import (
    PARTIAL,
    STORAGES,
    Row,
    known_rows,
    open_part,
    packed,
    part_paths,
    remove_partial,
    write_part,
)

logger = logging.getLogger(__name__)

# What an interruption may cost: ten minutes of speech of Whisper base in float16.
PART_BYTES = 32 * 1024**2


@dataclass(frozen=True)
class CachingSettings:
    """How a cache is made. `copies`: augmented ones of each clip, beside the clip as it is."""

    storage: str = "float16"
    batch_seconds: float = 120.0
    workers: int = 0
    copies: int = 0
    part_bytes: int = PART_BYTES
    show_progress: bool = True

    def __post_init__(self):
        if self.storage not in STORAGES:
            raise ValueError(f"unknown storage {self.storage!r}; there are {', '.join(STORAGES)}")
        if self.batch_seconds <= 0 or self.workers < 0 or self.copies < 0:
            raise ValueError("batch_seconds must be above 0, workers and copies must not be below 0")


def cache_features(
    model,
    processor,
    utterances: Sequence[Utterance],
    folder: Path,
    settings: CachingSettings | None = None,
    augmentation: Augmentation | None = None,
) -> dict[str, Any]:
    """Fill the cache in `folder` with what it does not hold of `utterances`; its manifest.

    `model` is a `SpeechLLMForConditionalGeneration`, of which the encoder runs where it is, in its precision.
    Of several processes each does its share; interrupted, the same call goes on with what is missing.
    """
    settings, state = settings or CachingSettings(), PartialState(cpu=not torch.accelerator.is_available())
    refuse_uncacheable(model)
    if bool(settings.copies) != bool(augmentation):
        raise ValueError(
            f"{settings.copies} augmented copies and {'an' if augmentation else 'no'} "
            "augmentation: name both or none"
        )
    wanted = {
        "encoder": encoder_identity(model, processor),
        "storage": settings.storage,
        "copies": settings.copies,
        "augmentation": augmentation_facts(augmentation),
    }
    manifest = opened(folder, wanted, state)
    worker = CachingRun(model, processor, folder, settings, augmentation)
    worker.run([*utterances][state.process_index :: state.num_processes], state)
    reports = gather_object([(worker.encoded, [asdict(item) for item in worker.dropped.values()])])
    state.wait_for_everyone()
    lost = [item for _, items in reports for item in items]
    looked_at = {drop_key(utterance) for utterance in utterances}
    lost += [item for item in manifest.get("dropped", []) if Dropped(**item).key not in looked_at]
    manifest = {**manifest, **contents(folder), "dropped": lost}
    if state.is_main_process:
        write_cache_manifest(folder, manifest)
    state.wait_for_everyone()
    return {**manifest, "encoded": sum(count for count, _ in reports)}


def opened(folder: Path, wanted: dict[str, Any], state: PartialState) -> dict[str, Any]:
    """The manifest of a new or a fitting cache; every process refuses another one by itself."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a feature cache needs a folder")
    held: dict[str, Any] = {}
    if (folder / MANIFEST).exists():
        held = read_cache_manifest(folder)
        check_identity(folder, held["encoder"], wanted["encoder"])
        # Copies may be added, of another augmentation they may not.
        again = {"storage": wanted["storage"]}
        if wanted["augmentation"] and held["augmentation"]:
            again["augmentation"] = wanted["augmentation"]
        check_identity(folder, {name: held[name] for name in again}, again)
        if wanted["copies"] < held["copies"]:
            raise ValueError(
                f"the feature cache in {folder} has {held['copies']} augmented copies of each clip, but "
                f"{wanted['copies']} are asked for: ask for as many, or cache into another folder"
            )
    elif any(not path.name.startswith(PARTIAL) for path in folder.glob("*")):
        raise ValueError(f"{folder} is not empty and no feature cache: name another folder")
    state.wait_for_everyone()
    if state.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        remove_partial(folder)
        write_cache_manifest(folder, {**held, **wanted})
    state.wait_for_everyone()
    return {**held, **wanted}


def augmentation_facts(augmentation: Augmentation | None) -> dict[str, Any] | None:
    """What augmented copies depend on besides the sound."""
    if augmentation is None:
        return None
    return {
        "seed": augmentation.seed,
        "effects": {name: str(effect) for name, effect in augmentation.effects.items()},
        "spec_augment": None if augmentation.spec_augment is None else str(augmentation.spec_augment),
        "corpus_clips": None if augmentation.corpus is None else len(augmentation.corpus),
    }


def contents(folder: Path) -> dict[str, Any]:
    """What the parts hold, all of them."""
    tables = [open_part(path) for path in part_paths(folder)]
    held = [fields for _, _, fields in known_rows(tables) if fields["held"]]
    sounds = {fields["audio_hash"] for fields in held}
    return {
        "sounds": len(sounds),
        "rows": len({(fields["audio_hash"], fields["copy"]) for fields in held}),
        "frames": sum(fields["frames"] for fields in held),
        "parts": len(tables),
        "bytes": sum(path.stat().st_size for path in part_paths(folder)),
    }


class CachingRun:
    """The share of one process."""

    def __init__(self, model, processor, folder: Path, settings: CachingSettings, augmentation):
        self.model, self.processor, self.folder = model, processor, folder
        self.settings, self.augmentation = settings, augmentation
        self.keys: set[tuple[str, int]] = set()
        self.sources: set[tuple[str, int]] = set()
        self.dropped: dict[tuple, Dropped] = {}
        self.encoded = 0
        self._rows: list[Row] = []
        self._bytes = 0
        for _, _, fields in known_rows(open_part(path) for path in part_paths(folder)):
            self.sources.add((fields["source"], fields["copy"]))
            if fields["held"]:
                self.keys.add((fields["audio_hash"], fields["copy"]))

    def run(self, utterances: Sequence[Utterance], state: PartialState) -> None:
        """Read, encode and write what is missing."""
        config = self.model.config
        clips = self.missing(utterances)
        padded = config.encoder_padding == "max_length"
        most = config.max_inputs
        whole = most / encoder_spec(config.audio_config).inputs_per_second if padded else None
        batches = length_batches(clips, self.settings.batch_seconds, whole)
        reader = ClipBatches(batches, self.processor, self.augmentation, most)
        loader = DataLoader(reader, batch_size=None, num_workers=self.settings.workers, collate_fn=as_it_is)
        self.model.eval()
        show = self.settings.show_progress and state.is_local_main_process
        with tqdm(total=len(clips), desc="caching features", unit="clip", disable=not show) as bar:
            for number, heard in enumerate(loader):
                self.keep(heard)
                bar.update(len(batches[number]))
        self.flush()
        self.tell_dropped()

    def missing(self, utterances: Sequence[Utterance]) -> list[Clip]:
        """What is to be done; a clip whose length cannot be read is dropped."""
        clips = []
        for utterance in utterances:
            source = source_key(utterance)
            copies = [copy for copy in range(self.settings.copies + 1) if (source, copy) not in self.sources]
            if not copies:
                continue
            try:
                seconds = utterance.seconds if utterance.seconds is not None else sound_seconds(utterance)
            except (ValueError, OSError) as error:
                self.drop(dropped(utterance, "unreadable", str(error)))
                continue
            clips += [Clip(utterance, copy, source, seconds) for copy in copies]
        return clips

    def keep(self, heard: Heard) -> None:
        """Encode what is new of a batch; the rest is noted as another source of a known sound."""
        for item in heard.dropped:
            self.drop(item)
        new = []
        for row, (clip, key) in enumerate(zip(heard.clips, heard.hashes, strict=True)):
            if (key, clip.copy) in self.keys:
                # Without a name for its source, nothing could be noted.
                if clip.source:
                    self._rows.append(Row(key, clip.copy, clip.source, int(heard.lengths[row])))
                continue
            self.keys.add((key, clip.copy))
            new.append(row)
        if new:
            self.add(heard, new, self.encode(heard.features[new], heard.lengths[new]))
        if self._bytes >= self.settings.part_bytes:
            self.flush()

    @torch.inference_mode()
    def encode(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Encoder states `[B, T, D]`, as a training step would compute them, under no adapter of a bank."""
        body, config = self.model.speech_model, self.model.config
        body.bank.use(None)
        device = body.audio_tower.device
        return body.run_encoder(
            features.to(device),
            lengths.to(device),
            pad_to_maximum=config.encoder_padding == "max_length",
            cut=not keeps_silence(config),
        )

    def add(self, heard: Heard, rows: list[int], states: torch.Tensor) -> None:
        """Rows of the part that is being made."""
        frames = self.model.config.encoder_frames(heard.lengths[rows]).tolist()
        for row, one, count in zip(rows, states.cpu(), frames, strict=True):
            clip = heard.clips[row]
            kept = one if keeps_silence(self.model.config) else one[:count]
            made = Row(heard.hashes[row], clip.copy, clip.source or "", int(heard.lengths[row]))
            made = replace(made, **packed(kept, self.settings.storage))
            self._rows.append(made)
            self._bytes += len(made.states or b"")
            self.encoded += 1

    def flush(self) -> None:
        """Write what is gathered."""
        if self._rows:
            write_part(self.folder, self._rows)
        self._rows, self._bytes = [], 0

    def drop(self, item: Dropped) -> None:
        self.dropped.setdefault(item.key, item)

    def tell_dropped(self) -> None:
        """What was left out, by reason, and the first few of each by name."""
        told: Counter[str] = Counter()
        for item in self.dropped.values():
            told[item.reason] += 1
            if told[item.reason] <= NAMED_PER_REASON:
                logger.warning("%s is not cached: %s: %s", item.clip, item.reason, item.detail)
        if told:
            logger.warning("not cached: %s", ", ".join(f"{count} {reason}" for reason, count in told.items()))
