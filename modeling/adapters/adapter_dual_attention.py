"""A second cross-attention beside the base's own in every decoder layer, and a gate between the two."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.whisper.modeling_whisper import WhisperAttention

from ...configuration.configuration_adapters import DualAttentionAdapterConfig
from .adapter_cross_attention import DecoderAdapter
from .dual_gates import GATES
from .dual_notes import DualNotes, attention_map
from .noise_targets import NOISE_TARGETS

# Of the low-rank differences' way down; the way up starts at zero.
DOWN_STD = 0.02


class SecondaryAttention(WhisperAttention):
    """Whisper's cross-attention up to its heads, with a place of its own in the cache.

    The output projection is `read_proj`: what is read is wanted before and after it.
    """

    def __init__(self, text_config, index: int):
        # Behind the slots of the primaries.
        slot = text_config.decoder_layers + index
        super().__init__(
            embed_dim=text_config.d_model,
            num_heads=text_config.decoder_attention_heads,
            dropout=text_config.attention_dropout,
            is_decoder=True,
            layer_idx=slot,
            config=text_config,
        )
        self.slot = slot
        self.read_proj: Any = self.out_proj
        self.out_proj: Any = nn.Identity()

    def heads(self, normed: Tensor, encoder_states, encoder_mask, cache, **kwargs) -> Tensor:
        """What the heads read, side by side: `[B, L, H]`."""
        if cache is not None:
            make_room(cache.cross_attention_cache, self.slot + 1)
        heads, _ = self(
            normed,
            key_value_states=encoder_states,
            past_key_values=cache,
            attention_mask=encoder_mask,
            **kwargs,
        )
        return heads

    def copy(self, primary: nn.Module) -> None:
        """Start from the primary's weights."""
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            source = getattr(primary, name)
            if not source.weight.is_floating_point():
                raise ValueError(
                    f"a secondary attention cannot be copied from weights in {source.weight.dtype}; "
                    "set rank, or compose on an unquantized base"
                )
            target = self.read_proj if name == "out_proj" else getattr(self, name)
            copy_parameters(source, target)

    def borrow(self, primary: nn.Module) -> None:
        """Nothing: it has weights of its own."""

    def input_dtype(self, states: Tensor) -> torch.dtype:
        """The dtype in which it wants what it reads."""
        return self.q_proj.weight.dtype


class LowRankShift(nn.Module):
    """A linear of the base plus a difference of low rank, zero at the start."""

    base: Any

    def __init__(self, source: nn.Linear, rank: int):
        super().__init__()
        self.down = nn.Linear(source.in_features, rank, bias=False)
        self.up = nn.Linear(rank, source.out_features, bias=False)
        nn.init.normal_(self.down.weight, std=DOWN_STD)
        nn.init.zeros_(self.up.weight)

    def forward(self, states: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`."""
        shift = self.up(self.down(states.to(self.down.weight.dtype)))
        output = self.base(states)
        return output + shift.to(output.dtype)


class LowRankSecondaryAttention(SecondaryAttention):
    """The primary's projections, each with a difference of low rank."""

    PARTS = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "read_proj": "out_proj"}

    def __init__(self, text_config, index: int, rank: int):
        super().__init__(text_config, index)
        for name in self.PARTS:
            setattr(self, name, LowRankShift(getattr(self, name), rank))

    def copy(self, primary: nn.Module) -> None:
        """Nothing: it is the primary until its differences are trained."""

    def borrow(self, primary: nn.Module) -> None:
        """Use these linears of the base, at this call. They are not children: the base has them."""
        for name, source in self.PARTS.items():
            shift, linear = getattr(self, name), getattr(primary, source)
            if shift.__dict__.get("base") is not linear:
                object.__setattr__(shift, "base", linear)

    def input_dtype(self, states: Tensor) -> torch.dtype:
        return states.dtype


class DualAttentionLayer(nn.Module):
    """What is added to one decoder layer: norm, secondary attention, gate."""

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

    def secondary(self, layer, states: Tensor, encoder_states, encoder_mask, cache, **kwargs):
        """What the second branch reads: its heads and their projection, `[B, L, H]` each."""
        self.attention.borrow(layer.encoder_attn)
        wanted = self.attention.input_dtype(states)
        if encoder_mask is not None and encoder_mask.is_floating_point():
            encoder_mask = encoder_mask.to(wanted)
        heads = self.attention.heads(
            self.normed(states), encoder_states.to(wanted), encoder_mask, cache, **kwargs
        )
        read = self.attention.read_proj(heads)
        return heads, F.dropout(read, p=layer.dropout, training=layer.training)

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
        primary, primary_heads = own.gate.read_primary(
            layer.encoder_attn,
            lambda: self.primary(layer, states, encoder_states, encoder_mask, cache, **kwargs),
        )
        heads, secondary = own.secondary(layer, states, encoder_states, encoder_mask, cache, **kwargs)
        gate = own.gate(states, primary, secondary)
        added = own.gate.fused(gate, primary, secondary, primary_heads, heads, layer, own.attention)
        for notes in self._notes:
            self._note(notes, index, layer, states, encoder_states, encoder_mask, cache, gate, heads)
        return states + added.to(states.dtype)

    def _note(self, notes: DualNotes, index, layer, states, encoder_states, mask, cache, gate, heads) -> None:
        own: Any = self.layers[index]
        notes.add(index, heads=heads, gate=gate.primary.detach())
        if notes.with_maps:
            own.attention.borrow(layer.encoder_attn)
            branches = {
                "primary": (layer.encoder_attn, layer.encoder_attn_layer_norm(states)),
                "secondary": (own.attention, own.normed(states)),
            }
            for name, (attention, normed) in branches.items():
                notes.add(index, **{name: attention_map(attention, normed, encoder_states, mask, cache)})

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


def copy_parameters(source: nn.Module, target: nn.Module) -> None:
    """Give `target` the values of `source`; on the meta device, where there are none, nothing happens."""
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            parameter.copy_(source.get_parameter(name))


def make_room(cache, slots: int) -> None:
    """Give a cache of a fixed number of layers further ones, of the kind it has."""
    while cache.layer_class_to_replicate is None and len(cache.layers) < slots:
        first = cache.layers[0]
        size = {"max_cache_len": first.max_cache_len} if hasattr(first, "max_cache_len") else {}
        cache.layers.append(type(first)(**size))
