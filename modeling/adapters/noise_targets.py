"""What a branch for noise can be asked to know of the noise in a clip, by name."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

# Ratios are learned between these: under the one there is no speech left, over the other no noise.
LOWEST_SNR_DB, HIGHEST_SNR_DB = -10.0, 40.0


@dataclass(frozen=True)
class NoiseTarget:
    """`size(text_config)` numbers a clip, made of what the batch has under `key`."""

    key: str
    size: Callable
    of: Callable[[Tensor, dict], Tensor]

    def wanted(self, batch: dict) -> Tensor | None:
        """`[B, size]`; None where the batch does not say."""
        given = batch.get(self.key)
        return None if given is None else self.of(given, batch)


def mean_spectrum(features: Tensor, batch: dict) -> Tensor:
    """`[B, mel, T]`, the noise's features, to their mean over the clip `[B, mel]`."""
    mask = batch.get("input_features_mask")
    if mask is None:
        return features.mean(dim=-1)
    real = mask[:, None, : features.shape[-1]].to(features)  # B, 1, T
    return (features[..., : real.shape[-1]] * real).sum(dim=-1) / real.sum(dim=-1).clamp(min=1)


def scaled_snr(snr_db: Tensor, batch: dict) -> Tensor:
    """`[B]` in dB, infinite for clean speech, to `[B, 1]` from -1 to 1."""
    middle, half = (HIGHEST_SNR_DB + LOWEST_SNR_DB) / 2, (HIGHEST_SNR_DB - LOWEST_SNR_DB) / 2
    return ((snr_db.clamp(LOWEST_SNR_DB, HIGHEST_SNR_DB) - middle) / half)[:, None]


NOISE_TARGETS: dict[str, NoiseTarget] = {
    "spectrum": NoiseTarget("noise_features", lambda text_config: text_config.num_mel_bins, mean_spectrum),
    "snr": NoiseTarget("snr_db", lambda text_config: 1, scaled_snr),
}
