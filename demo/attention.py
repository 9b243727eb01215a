"""What the two attentions of a dual-attention checkpoint did while it wrote a text."""

from dataclasses import dataclass

import numpy as np
import torch

# In tokens; scripts without spaces are cut somewhere.
LONGEST_WORD = 6


@dataclass(frozen=True)
class Look:
    """Word by word: the primary's share in each layer, `[W, layers]`, and where each attention looked,
    `[W, T]`, over the `seconds` from the start."""

    words: list[str]
    shares: np.ndarray
    primary: np.ndarray
    secondary: np.ndarray
    seconds: float


@torch.no_grad()
def look_inside(pipeline, segment, text: str, language: str | None, task: str = "transcribe") -> Look | None:
    """Let the model write `text` about a segment once more, in one pass; `None` where nothing was said."""
    if not text.strip():
        return None
    model, processor = pipeline.model, pipeline.processor
    # Whisper's words begin with their space.
    inputs = processor.apply_training_request(
        [segment.waveform],
        [f" {text.strip()}"],
        language=[language],
        task=task,
        sampling_rate=processor.sampling_rate,
    ).to(model.device)
    ids = inputs["labels"][0].tolist()[:-1]
    with model.model.adapter.noting(maps=True) as notes:
        model(**inputs)
    # The last positions wrote the labels, of which the last is the end.
    shares = notes.gates()[:, 0, -len(ids) - 1 : -1].float().mean(-1).T.cpu().numpy()  # tokens, layers
    groups = words_of(ids, processor.decode)
    maps = [notes.maps(branch)[:, 0, :, -len(ids) - 1 : -1] for branch in ("primary", "secondary")]
    # Behind the frames of the segment may be padding.
    frames = int(model.config.encoder_frames(int(inputs["input_features_mask"].sum())))
    primary, secondary = (drawn(one, groups, frames) for one in maps)
    words = [processor.decode([ids[place] for place in group]).strip() for group in groups]
    return Look(words, averaged(shares, groups), primary, secondary, segment.duration)


def words_of(ids: list[int], decode) -> list[list[int]]:
    """Places of the tokens of each word; characters may be spread over tokens."""
    groups: list[list[int]] = []
    for place, token in enumerate(ids):
        begins = decode([token]).startswith(" ")
        whole = bool(groups) and "\ufffd" not in decode([ids[index] for index in groups[-1]])
        if not groups or begins or (whole and len(groups[-1]) >= LONGEST_WORD):
            groups.append([])
        groups[-1].append(place)
    return groups


def drawn(maps: torch.Tensor, groups: list[list[int]], frames: int) -> np.ndarray:
    """Maps `[layers, heads, tokens, T]` as `[words, frames]`, mean of all heads, 1 at each word's peak."""
    looked = averaged(maps.float().mean(dim=(0, 1)).cpu().numpy()[:, :frames], groups)
    return looked / np.maximum(looked.max(axis=1, keepdims=True), 1e-9)


def averaged(rows: np.ndarray, groups: list[list[int]]) -> np.ndarray:
    """Rows of tokens as rows of words."""
    return np.stack([rows[group].mean(axis=0) for group in groups])
