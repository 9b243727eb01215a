"""Brings speech to the loudness of the decoder's own embeddings."""

import torch
from torch import nn


class EmbeddingScale(nn.Module):
    """RMS norm whose learned weight starts at the RMS of the decoder's embeddings.

    Adapters end at an RMS around 1 where embeddings have .02 (Qwen3) to 15 (Jais after its scaling): louder
    speech drowns the prompt, quieter speech starves the adapter of gradient.
    """

    def __init__(self, width: int, rms: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), rms))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`[..., D]` -> `[..., D]`; the mean square is taken in float32."""
        values = states.float()
        normed = values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * normed.to(states.dtype)


@torch.no_grad()
def embedding_rms(embedding: nn.Module, vocabulary: int, samples: int = 4096) -> float:
    """RMS of what a decoder's input embedding gives, over evenly spaced ids.

    Through the module, not its weight: some decoders (Gemma) scale inside it.
    """
    device = next(embedding.parameters()).device
    ids = torch.linspace(0, vocabulary - 1, min(samples, vocabulary), device=device).long()
    return float(embedding(ids).float().pow(2).mean().sqrt())
