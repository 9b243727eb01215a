"""The original dual-attention project's model, written down from its description: weights and formula."""

from __future__ import annotations

import torch
from torch import nn
from transformers import WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperAttention


def published_model(folder, seed: int = 3, trained: bool = True) -> WhisperForConditionalGeneration:
    """A stock Whisper whose decoder layers hold what the original adds, under the original's names."""
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    torch.manual_seed(seed)
    width, heads = model.config.d_model, model.config.decoder_attention_heads
    for index, layer in enumerate(model.model.decoder.layers):
        layer.encoder_attn_secondary = WhisperAttention(
            width, heads, is_decoder=True, layer_idx=index, config=model.config
        )
        layer.encoder_attn_secondary_layer_norm = nn.LayerNorm(width)
        layer.cross_attn_gate = nn.Module()
        layer.cross_attn_gate.gate = nn.Sequential(
            nn.Linear(3 * width, width), nn.Tanh(), nn.Linear(width, 1), nn.Sigmoid()
        )
    # Loud enough to be heard in the logits.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "secondary" in name or "gate" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape))
            elif trained and "decoder.layers" in name and "encoder_attn" in name:
                parameter.add_(0.05 * torch.randn(parameter.shape))
    return model.eval()


@torch.no_grad()
def published_logits(model, features: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Features `[B, mel, 3000]`, ids `[B, L]` -> logits `[B, L, V]`, by the original's formula."""
    decoder, length = model.model.decoder, ids.shape[1]
    speech = model.model.encoder(features).last_hidden_state
    states = decoder.embed_tokens(ids) + decoder.embed_positions.weight[:length]
    future = torch.full((length, length), float("-inf")).triu(1)[None, None]
    for layer in decoder.layers:
        states = states + layer.self_attn(layer.self_attn_layer_norm(states), attention_mask=future)[0]
        primary = layer.encoder_attn(layer.encoder_attn_layer_norm(states), key_value_states=speech)[0]
        normed = layer.encoder_attn_secondary_layer_norm(states)
        secondary = layer.encoder_attn_secondary(normed, key_value_states=speech)[0]
        alpha = layer.cross_attn_gate.gate(torch.cat([states, primary, secondary], dim=-1))
        states = states + alpha * primary + (1 - alpha) * secondary
        states = states + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(states))))
    return model.proj_out(decoder.layer_norm(states))
