"""A second cross-attention beside the base's own in every decoder layer, and a gate between the two."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...configuration.configuration_adapters import DualAttentionAdapterConfig
from ..token_steps import is_watched
from .adapter_cross_attention import DecoderAdapter
from .dual_gates import GATES
from .dual_low_rank import LowRankSecondaryAttention
from .dual_notes import DualNotes, attention_map, speech_keys
from .dual_secondary import SecondaryAttention, copy_parameters
from .noise_targets import NOISE_TARGETS


class DualAttentionLayer(nn.Module):
    """What is added to one decoder layer: norm, secondary attention, gate."""

    attention: Any

    def __init__(self, config: DualAttentionAdapterConfig, text_config, index: int):
        super().__init__()
        self.norm = nn.LayerNorm(text_config.d_model)
        self.attention = (
            SecondaryAttention(text_config, index)
            if config.rank is None
            else LowRankSecondaryAttention(text_config, index, config.rank)
        )
        self.gate = GATES[config.gate](config, text_config)

    def start_from(self, layer) -> None:
        """Begin as what `layer` already has."""
        copy_parameters(layer.encoder_attn_layer_norm, self.norm)
        self.attention.copy(layer.encoder_attn)

    def read(
        self, layer, primary, states: Tensor, encoder_states, encoder_mask, cache, **kwargs
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """What primary and secondary read, then the secondary's heads and the primary's, `[B, L, H]` each.

        `primary` lets the first branch read; its heads may be missing where the gate does not want them.
        """
        self.attention.borrow(layer.encoder_attn)
        if self.attention.joins(layer.encoder_attn, states, cache):
            return self._read_joined(layer, primary, states, encoder_mask, cache)
        read, primary_heads = self.gate.read_primary(layer.encoder_attn, primary)
        wanted = self.attention.input_dtype(states)
        if encoder_mask is not None and encoder_mask.is_floating_point():
            encoder_mask = encoder_mask.to(wanted)
        heads = self.attention.heads(self.normed(states), encoder_states, encoder_mask, cache, **kwargs)
        secondary = F.dropout(self.attention.read_proj(heads), p=layer.dropout, training=layer.training)
        return read, secondary, heads, primary_heads

    def _read_joined(self, layer, primary, states: Tensor, encoder_mask, cache):
        """As `read`, of a single token, for which both branches go over the speech together."""
        normed = torch.cat([layer.encoder_attn_layer_norm(states), self.normed(states)], dim=1)
        heads, read = self.attention.read_both(normed, encoder_mask, cache)
        if is_watched(layer.encoder_attn):
            primary_read, primary_heads = self.gate.read_primary(layer.encoder_attn, primary)
            return primary_read, read[:, 1:], heads[:, 1:], primary_heads
        return read[:, :1], read[:, 1:], heads[:, 1:], heads[:, :1]

    def normed(self, states: Tensor) -> Tensor:
        """The residual stream as the second branch wants its queries."""
        return self.norm(states.to(self.norm.weight.dtype)).to(self.attention.input_dtype(states))


class DualAttentionAdapter(DecoderAdapter):
    """Primary and secondary cross-attention over the same frames, fused by a gate for every token."""

    config: DualAttentionAdapterConfig

    def __init__(self, config: DualAttentionAdapterConfig, text_config, decoder_layers: nn.ModuleList):
        super().__init__(config, text_config, decoder_layers)
        # The base's own object: how it attends is set there, also later.
        base: list[Any] = list(decoder_layers)
        added = [DualAttentionLayer(config, base[0].encoder_attn.config, index) for index in range(len(base))]
        for own, layer in zip(added, base, strict=True):
            own.start_from(layer)
        self.layers = nn.ModuleList(added)
        if config.noise_loss_weight:
            target = NOISE_TARGETS[config.noise_target]
            self.noise_heads = nn.ModuleList(
                [nn.Linear(text_config.d_model, target.size(text_config)) for _ in self.layers]
            )
        for module in self.modules():
            # A composite's constructor initializes what does not carry this mark, by rules for other layers.
            setattr(module, "_is_hf_initialized", True)  # noqa: B010  as no module declares it
        # All that are being taken: a training step may take its own within a caller's.
        self._notes: list[DualNotes] = []

    def attend(
        self, index: int, layer, states: Tensor, encoder_states, encoder_mask, cache, **kwargs
    ) -> Tensor:
        own: Any = self.layers[index]
        speech = (states, encoder_states, encoder_mask, cache)
        primary, secondary, heads, primary_heads = own.read(
            layer, lambda: self.primary(layer, *speech, **kwargs), *speech, **kwargs
        )
        gate = own.gate(states, primary, secondary)
        added = own.gate.fused(gate, primary, secondary, primary_heads, heads, layer, own.attention)
        for notes in self._notes:
            notes.add(index, heads=heads, gate=gate.primary.detach())
            if notes.with_maps:
                notes.add(index, **self._maps(index, layer, *speech))
        return states + added.to(states.dtype)

    @torch.no_grad()
    def _maps(self, index: int, layer, states: Tensor, encoder_states, mask, cache) -> dict[str, Tensor]:
        """Where both branches looked."""
        own: Any = self.layers[index]
        own.attention.borrow(layer.encoder_attn)
        first, asked = layer.encoder_attn, layer.encoder_attn_layer_norm(states)
        maps = {"primary": attention_map(first, asked, speech_keys(first, encoder_states, cache), mask)}
        second, asked = own.attention, own.normed(states)
        keys = second.keys(encoder_states.to(asked.dtype), cache)
        return {**maps, "secondary": attention_map(second, asked, keys, mask)}

    @property
    def supervised(self) -> bool:
        return bool(self.config.noise_loss_weight)

    @contextlib.contextmanager
    def noting(self, maps: bool = False) -> Iterator[DualNotes]:
        """Within the block, keep what the branches read and how the gate stood; `maps`: where they looked."""
        notes = DualNotes(len(self.layers), maps)
        self._notes.append(notes)
        try:
            yield notes
        finally:
            self._notes.remove(notes)

    def auxiliary_loss(self, notes: DualNotes, batch: dict) -> Tensor | None:
        """The loss under which the secondary has to know the noise, weighted; None where it is off.

        `notes` are of one forward pass over `batch`, which holds `labels` `[B, N]` and what the target needs:
        `noise_features` `[B, mel, T]`, or `snr_db` `[B]`.
        """
        if not self.config.noise_loss_weight:
            return None
        target = NOISE_TARGETS[self.config.noise_target]
        wanted = target.wanted(batch)
        if wanted is None:
            if self.training:
                raise ValueError(
                    f"noise_loss_weight is {self.config.noise_loss_weight}, but the batch has no "
                    f"{target.key!r}: train with augmentation that mixes noise, or set the weight to 0"
                )
            return None
        heads: list[Any] = list(self.noise_heads)
        pooled = zip(heads, notes.pooled(batch.get("labels")), strict=True)
        said = torch.stack([head(read.to(head.weight.dtype)) for head, read in pooled]).mean(dim=0)
        return self.config.noise_loss_weight * F.mse_loss(said, wanted.to(said))
