"""Which number formats a run computes in, found out by measuring, and said aloud."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from speechllm.device_choice import choose_dtype

# NVIDIA's Ampere and later multiply float32 in TensorFloat32, eight times as fast.
FIRST_TF32_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Precision:
    """`name`: what products are computed in; `tf32`: whether float32 ones may be rounded; and why."""

    name: str
    tf32: bool
    reason: str

    def as_dict(self) -> dict:
        return asdict(self)

    @property
    def arguments(self) -> dict[str, Any]:
        """For `TrainingArguments`."""
        return {
            "bf16": self.name == "bfloat16",
            "fp16": self.name == "float16",
            "tf32": True if self.tf32 else None,
        }


def choose_precision(precision: str, tf32: bool | None, device: torch.device, config) -> Precision:
    """As asked, or as this machine does best where it says "auto" (null for `tf32`)."""
    dtype, reason = choose_dtype(precision, device, config)
    if device.type == "cpu" and dtype == torch.float16:
        raise ValueError("precision=float16 needs an accelerator; on a CPU there are bfloat16 and float32")
    able = device.type == "cuda" and torch.cuda.get_device_capability(device) >= FIRST_TF32_CAPABILITY
    if tf32 and not able:
        raise ValueError(f"tf32=true needs an NVIDIA GPU of capability 8.0 or more, not {device}")
    name = str(dtype).removeprefix("torch.")
    return Precision(name, able if tf32 is None else tf32, reason or "as asked")
