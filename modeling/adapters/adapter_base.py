"""What every bridge adapter shares: frames with their lengths, positions, attention, and the way in and out.

Nothing here keeps a tensor that is not a parameter: a model is built on the meta device and filled from a
checkpoint, and whatever the checkpoint does not hold would come out as garbage. Positions are computed.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...configuration.configuration_adapters import AdapterConfig
from ...configuration.speech_lengths import chain_length
from ..length_masks import length_mask

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}


class AdapterOutput(NamedTuple):
    """Speech as the decoder's input embeddings."""

    states: Tensor  # [B, N, D_out], zero beyond each row's length
    lengths: Tensor  # [B]
    auxiliary_loss: Tensor | None  # to be added to the training loss; None where there is nothing to add


def zero_beyond(states: Tensor, lengths: Tensor) -> Tensor:
    """[B, T, D] with zeros in place of whatever lies beyond each row's length, be it NaN."""
    return states.masked_fill(~length_mask(lengths, states.shape[1])[..., None], 0)


def pad_time(states: Tensor, multiple: int) -> Tensor:
    """[B, T, D] -> [B, T', D]: zero frames appended until `multiple` divides the time."""
    return F.pad(states, (0, 0, 0, -states.shape[1] % multiple))


class SpeechFrames(NamedTuple):
    """A batch of clips. Padding is always zero, so a row's last partial stack never sees its neighbours."""

    states: Tensor  # [B, T, D]
    lengths: Tensor  # [B]
    padded: bool  # whether any position is beyond its row's length

    def mask(self) -> Tensor | None:
        """[B, T] bool, True for speech; None where all of it is: attention is faster without a mask."""
        return length_mask(self.lengths, self.states.shape[1]) if self.padded else None

    def stacked(self, count: int) -> "SpeechFrames":
        """[B, T, D] -> [B, ceil(T / count), count * D], neighbours side by side."""
        states = pad_time(self.states, count)
        batch, time, width = states.shape
        lengths = chain_length(self.lengths, [["windows", count, 1]])
        return SpeechFrames(states.reshape(batch, time // count, count * width), lengths, self.padded)

    def windows(self, size: int) -> "SpeechFrames":
        """[B, T, D] -> [B * W, size, D]: each window a clip, the last ones partly or all padding."""
        states = pad_time(self.states, size)
        batch, time, width = states.shape
        starts = torch.arange(0, time, size, device=states.device)
        lengths = (self.lengths[:, None] - starts).clamp(0, size).flatten()
        padded = self.padded or time != self.states.shape[1]
        return SpeechFrames(states.reshape(batch * (time // size), size, width), lengths, padded)


def position_angles(count: int, half: int, device: torch.device) -> Tensor:
    """[count, half] in float32: position times a frequency that falls from 1 towards 1 / 10000."""
    frequencies = torch.exp(torch.arange(half, device=device, dtype=torch.float32) * (-math.log(1e4) / half))
    return torch.arange(count, device=device, dtype=torch.float32)[:, None] * frequencies


def add_positions(states: Tensor) -> Tensor:
    """[B, T, D] plus sinusoidal positions counted from each row's first frame."""
    time, width = states.shape[1:]
    # The angles need float32: half precision cannot tell frame 1000 from frame 1001.
    angles = position_angles(time, (width + 1) // 2, states.device)
    positions = torch.cat([angles.sin(), angles.cos()], dim=-1)[:, :width]
    return states + positions.to(states.dtype)


def rotate_by_position(states: Tensor) -> Tensor:
    """[B, heads, T, d], each half-split pair of channels turned by its position's angle."""
    first, second = states.float().chunk(2, dim=-1)
    angles = position_angles(states.shape[-2], first.shape[-1], states.device)
    sine, cosine = angles.sin(), angles.cos()
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return turned.to(states.dtype)


class SpeechAttention(nn.Module):
    """Multi-head attention with a mask over keys. Keys that are all masked give zeros, not NaN."""

    def __init__(self, width: int, num_heads: int, dropout: float, rotary: bool = False):
        super().__init__()
        if width % num_heads:
            raise ValueError(
                f"a width of {width} cannot be shared by num_attention_heads={num_heads}; change one"
            )
        self.num_heads = num_heads
        self.dropout = dropout
        self.rotary = rotary
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, key_mask: Tensor | None) -> Tensor:
        """[B or 1, Q, D], [B, S, D], [B, S] bool or None -> [B, Q, D]; one row of queries serves all."""
        # B, S, D -> B, heads, S, d
        query, key, value = (
            projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projected in (self.q_proj(queries), self.k_proj(keys), self.v_proj(keys))
        )
        if self.rotary:
            query, key = rotate_by_position(query), rotate_by_position(key)
        query = query.expand(key.shape[0], -1, -1, -1)
        heads = self.attend(query, key, value, key_mask)
        # B, heads, Q, d -> B, Q, D
        return self.out_proj(heads.transpose(1, 2).flatten(-2))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None) -> Tensor:
        """[B, heads, Q, d] from [B, heads, S, d], each row over its own keys."""
        dropout = self.dropout if self.training else 0.0
        if key_mask is None:
            return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        # A row without keys has no softmax: it looks at everything, and what it saw is dropped.
        empty = ~key_mask.any(dim=-1)[:, None, None, None]
        visible = key_mask[:, None, None, :] | empty
        heads = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout)
        return heads.masked_fill(empty, 0)


class FeedForward(nn.Module):
    """Two linear layers around an activation: [..., D_in] -> [..., D_out]."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        activation: str = "gelu",
        dropout: float = 0.0,
    ):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.up_proj = nn.Linear(input_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.down_proj = nn.Linear(hidden_size, output_size)

    def forward(self, states: Tensor) -> Tensor:
        return self.down_proj(self.dropout(self.activation(self.up_proj(states))))


class SpeechAdapter(nn.Module, ABC):
    """Encoder frames to speech tokens at the decoder's width.

    A kind writes `bridge`; cropping, zeroing and lengths are done here, once, so that a row comes out the
    same alone and in any batch. `lengths` out is always `chain_length(lengths, config.length_steps())`.
    """

    def __init__(self, config: AdapterConfig, input_size: int, output_size: int):
        super().__init__()
        self.config = config
        self.input_size = input_size
        self.output_size = output_size

    @abstractmethod
    def bridge(self, frames: SpeechFrames) -> tuple[Tensor, Tensor | None]:
        """[B, T, D_in] with T at least 1 -> [B, at least N, D_out] and an auxiliary loss or None."""

    def forward(self, states: Tensor, lengths: Tensor) -> AdapterOutput:
        """[B, T, D_in], [B] -> [B, N, D_out], N the most of any row; frames beyond a length are ignored."""
        frames, longest = self.receive(states, lengths)
        tokens, auxiliary_loss = self.bridge(frames)
        steps = self.config.length_steps()
        token_lengths = chain_length(frames.lengths, steps)
        tokens = tokens[:, : chain_length(longest, steps)]
        if frames.padded:
            tokens = zero_beyond(tokens, token_lengths)
        return AdapterOutput(tokens, token_lengths, auxiliary_loss)

    def receive(self, states: Tensor, lengths: Tensor) -> tuple[SpeechFrames, int]:
        """Frames cropped to the longest row, in the adapter's dtype, zero in the padding; and that length."""
        shortest, longest = torch.stack(torch.aminmax(lengths)).tolist()
        if lengths.shape != states.shape[:1] or shortest < 0 or longest > states.shape[1]:
            raise ValueError(
                f"lengths of shape {list(lengths.shape)} from {shortest} to {longest} do not fit states of "
                f"shape {list(states.shape)}; give one length for each row, at most its number of frames"
            )
        # An adapter kept in float32 may follow an encoder in bfloat16.
        states = states[:, :longest].to(next(self.parameters()).dtype)
        lengths = lengths.to(states.device)
        if longest == 0:
            states = F.pad(states, (0, 0, 0, 1))  # one silent frame: attention and kernels need something
        padded = shortest < states.shape[1]
        return SpeechFrames(zero_beyond(states, lengths) if padded else states, lengths, padded), longest
