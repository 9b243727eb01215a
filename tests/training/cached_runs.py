"""What the tests of the feature cache share: clips on disk, a cache of them, a model's loss and gradients."""

from pathlib import Path

import numpy as np
import soundfile
import torch
from speechllm.training.collator import SpeechCollator
from speechllm.training.data.datasets import SpeechDataset
from speechllm.training.data.utterances import Utterance
from speechllm.training.feature_cache.cached_collator import CachedCollator
from speechllm.training.feature_cache.cached_dataset import CachedFeatures
from speechllm.training.feature_cache.caching import CachingSettings, cache_features
from speechllm.training.feature_cache.identity import encoder_identity

TEXTS = ["ab", "c d", "de", "fgh", "a", "bc"]


def write_clips(folder: Path, clips, texts=TEXTS) -> list[Utterance]:
    """Clips as 16-bit files, with their texts."""
    folder.mkdir(parents=True, exist_ok=True)
    utterances = []
    for number, (clip, text) in enumerate(zip(clips, texts, strict=False)):
        path = folder / f"{number}.wav"
        soundfile.write(path, np.clip(clip, -1, 1), 16000)
        seconds = len(clip) / 16000
        utterances.append(Utterance(str(path), text, language="en", seconds=seconds, id=f"clip{number}"))
    return utterances


def caching(**fields) -> CachingSettings:
    return CachingSettings(**{"storage": "float32", "batch_seconds": 6.0, "show_progress": False, **fields})


def cached(model, processor, utterances, folder, augmentation=None, **fields) -> CachedFeatures:
    """A cache of the utterances, made and read."""
    model.freeze_bases()
    cache_features(model, processor, utterances, folder, caching(**fields), augmentation)
    return CachedFeatures(folder, utterances, encoder_identity(model, processor))


def heard_batch(processor, utterances, rows) -> dict:
    """A batch with the encoder in the loop."""
    return SpeechCollator(processor)([SpeechDataset(utterances)[row] for row in rows])


def cached_batch(processor, dataset, rows) -> dict:
    """The same batch from a cache."""
    return CachedCollator(processor)([dataset[row] for row in rows])


def loss_and_gradients(model, batch) -> tuple[float, dict[str, torch.Tensor]]:
    """Of one training step without dropout."""
    torch.manual_seed(3)
    model.train().zero_grad()
    loss = model(**batch).loss
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return float(loss.detach()), gradients
