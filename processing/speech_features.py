"""Waveforms to model inputs on the clips' real lengths, the same alone as in a batch."""

import numpy as np
import torch
from transformers.feature_extraction_utils import FeatureExtractionMixin


def extract_features(
    extractor: FeatureExtractionMixin, waveforms: list[np.ndarray]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mono waveforms -> inputs (`[B, mel, T]`, `[B, T, D]` or `[B, samples]`) and their mask `[B, T]`."""
    kind = type(extractor).__name__
    if kind not in FEATURES:
        raise ValueError(f"no way to use a {kind}; there are {', '.join(sorted(FEATURES))}")
    return FEATURES[kind](extractor, waveforms)


def _log_mel(extractor, waveforms):
    """Whisper's features, cut to each clip; the values are those of the stock 30 s where the clip is.

    Every clip is followed by a window of silence, as in the stock 30 s: else the mirrored edge of the last
    frames would depend on what else is in the batch.
    """
    lengths = np.array([len(waveform) for waveform in waveforms])
    padded = np.zeros((len(waveforms), lengths.max() + extractor.n_fft), dtype=np.float32)
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = waveform
    outputs = extractor(
        list(padded),
        sampling_rate=extractor.sampling_rate,
        padding="longest",
        truncation=False,
        return_tensors="pt",
    )
    frames = torch.from_numpy(lengths // extractor.hop_length)
    # The last window still sounds in a few frames past the clip; the stock 30 s hold them, so they stay.
    features = outputs["input_features"][:, :, : int(frames.max()) + extractor.n_fft // extractor.hop_length]
    return features, (torch.arange(features.shape[2]) < frames[:, None]).long()


def _padded(extractor, waveforms):
    """Inputs of an extractor that keeps clips apart by itself, once it is asked for the mask."""
    # Asked for even where a checkpoint says it needs none: normalization goes by it.
    outputs = extractor(
        waveforms,
        sampling_rate=extractor.sampling_rate,
        padding=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    return outputs[extractor.model_input_names[0]], outputs["attention_mask"].long()


FEATURES = {
    "WhisperFeatureExtractor": _log_mel,
    "Wav2Vec2FeatureExtractor": _padded,
    "SpeechT5FeatureExtractor": _padded,
    "SeamlessM4TFeatureExtractor": _padded,
}
