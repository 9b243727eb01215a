"""Clips with their texts -> a batch that any of the models takes."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .augmentation.augmentation import Mixed


class SpeechCollator:
    """`collator(items)` -> inputs and labels; items hold `audio` (a waveform), `text` and what else is known.

    `augmentation(waveform, sampling_rate, index, epoch)` gets an index that is the clip's own, so that what
    comes out does not depend on its neighbours, on workers or on where a run was interrupted. `tells_noise`:
    the batch says what was mixed into its clips, for an adapter that has to know.
    """

    def __init__(
        self,
        processor,
        augmentation: Any = None,
        bank: dict[str, str] | None = None,
        tells_noise: bool = False,
    ):
        self.processor = processor
        self.augmentation = augmentation
        self.bank = bank or {}
        if tells_noise and augmentation is None:
            raise ValueError(
                "noise_loss_weight needs to know the noise: name an augmentation that mixes some in"
            )
        self.tells_noise = tells_noise
        self.epoch = 0

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        request = {
            name: [item.get(name) for item in items]
            for name in ("language", "task", "prompt")
            if any(item.get(name) for item in items)
        }
        if "task" in request:
            request["task"] = [task or "transcribe" for task in request["task"]]
        mixed = [self.heard(item) for item in items]
        audio = [one.waveform for one in mixed]
        texts = [item["text"] for item in items]
        batch = dict(self.processor.apply_training_request(audio=audio, target=texts, **request))
        if self.tells_noise:
            batch |= self.noise_in(mixed)
        if self.bank:
            batch["routing_weights"] = torch.stack([self.routed(item) for item in items])
        if getattr(self.augmentation, "spec_augment", None) is not None:
            numbers = [clip_number(item) for item in items]
            lengths = batch["input_features_mask"].sum(-1)
            batch["input_features"] = self.augmentation.features(
                batch["input_features"], lengths, numbers, self.epoch
            )
        return batch

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's augmentation the clips get from now on."""
        self.epoch = epoch

    def routed(self, item: dict[str, Any]) -> torch.Tensor:
        """Weights `[N]` over the adapters of a LoRA bank: all on the one of the clip's language."""
        languages = list(self.bank.values())
        language = item.get("language") or (languages[0] if len(languages) == 1 else None)
        if language not in languages:
            raise ValueError(
                f"clip {item.get('id')} has language {language!r}, for which the bank has no adapter; "
                f"it has {', '.join(f'{name} ({spoken})' for name, spoken in self.bank.items())}"
            )
        return torch.tensor([float(spoken == language) for spoken in languages])

    def heard(self, item: dict[str, Any]) -> Mixed:
        """The clip's waveform, augmented where there is augmentation, and the noise that is in it."""
        waveform = np.asarray(item["audio"], dtype=np.float32)
        if self.augmentation is None:
            return Mixed(waveform, np.zeros_like(waveform), math.inf)
        return self.augmentation.mix(waveform, self.processor.sampling_rate, clip_number(item), self.epoch)

    def noise_in(self, mixed: list[Mixed]) -> dict[str, torch.Tensor]:
        """`noise_features` `[B, mel, T]`, those of the noises alone, and `snr_db` `[B]`."""
        features, _ = self.processor.speech([one.noise for one in mixed])
        ratios = torch.tensor([one.snr_db for one in mixed], dtype=torch.float32)
        return {"noise_features": features["input_features"], "snr_db": ratios}


def clip_number(item: dict[str, Any]) -> int:
    """A number for a clip that is its own whatever the order of the data."""
    if item.get("index") is not None:
        return int(item["index"])
    return zlib.crc32(f"{item.get('id')} {item['text']} {len(item['audio'])}".encode())


def bank_languages(config) -> dict[str, str]:
    """Adapter -> its language, of a model's LoRA bank; one that names none is called as its language."""
    bank = getattr(config, "lora_bank", None) or {}
    return {name: adapter.language or name for name, adapter in bank.items()}
