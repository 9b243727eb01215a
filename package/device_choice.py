"""Which device and which dtype a command runs a model in, where it is not told."""

import time

import torch
from torch.nn.functional import linear

DTYPES = ("auto", "float32", "bfloat16", "float16")
# Keeps the measurement short for a large decoder on a CPU that runs bfloat16 in software.
LARGEST_SIDE = 1024
# About as many as a decoding step has: one a clip of the batch.
MEASURED_ROWS = 16
MEASURED_SECONDS = 0.1
# Less gain than this may be noise, and float32 is the exacter of the two.
WORTHWHILE_SPEEDUP = 1.1


def choose_device(name: str = "auto") -> torch.device:
    """The device called `name`, checked to be here; "auto" is an accelerator if there is one."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return accelerator or torch.device("cpu")
    here = ["cpu"] + ([accelerator.type] if accelerator else [])
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name!r}; there are auto, {', '.join(here)}") from None
    if device.type not in here:
        raise ValueError(f"there is no device {name!r} here; there are auto, {', '.join(here)}")
    count = torch.accelerator.device_count() if accelerator else 0
    if device.type != "cpu" and (device.index or 0) >= count:
        raise ValueError(f"there is no device {name!r} here; of its kind there are {count}, counted from 0")
    return device


def choose_dtype(name: str, device: torch.device, config) -> tuple[torch.dtype, str]:
    """The dtype called `name` and, for "auto", the reason in words.

    On a CPU "auto" measures products of the size of the decoder in `config`, a `SpeechLLMConfig`.
    """
    if name not in DTYPES:
        raise ValueError(f"unknown dtype {name!r}; there are {', '.join(DTYPES)}")
    if name != "auto":
        return getattr(torch, name), ""
    if device.type != "cpu":
        if supports_bfloat16(device):
            return torch.bfloat16, f"{device} computes in it"
        return torch.float16, f"{device} has no bfloat16"
    decoder = config.text_config.get_text_config()
    width = decoder.hidden_size
    inner = getattr(decoder, "intermediate_size", None) or 4 * width
    speedup = bfloat16_speedup(MEASURED_ROWS, min(width, LARGEST_SIDE), min(inner, LARGEST_SIDE))
    dtype = torch.bfloat16 if speedup >= WORTHWHILE_SPEEDUP else torch.float32
    return dtype, f"on this CPU bfloat16 is {speedup:.1f} times as fast as float32"


def supports_bfloat16(device: torch.device) -> bool:
    """Whether an accelerator computes in bfloat16 by itself, not by emulation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        ones = torch.ones(2, 2, dtype=torch.bfloat16, device=device)
        return bool((ones @ ones).sum() == 8)
    except (RuntimeError, TypeError):
        return False


def bfloat16_speedup(
    rows: int = 512, inputs: int = 512, outputs: int = 512, seconds: float = MEASURED_SECONDS
) -> float:
    """How many times as fast as float32 bfloat16 is on this CPU, for `[rows, inputs] x [inputs, outputs]`.

    Measured, because what a CPU says about itself is no guide: some run bfloat16 in software, far slower.
    """
    operands = {
        dtype: (torch.ones(rows, inputs, dtype=dtype), torch.ones(outputs, inputs, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    for one, weight in operands.values():
        linear(one, weight)  # the first product also prepares the kernel
    fastest = dict.fromkeys(operands, float("inf"))
    begin = time.perf_counter()
    while True:
        # In turns: whatever else the machine does disturbs both alike.
        for dtype, (one, weight) in operands.items():
            started = time.perf_counter()
            linear(one, weight)
            fastest[dtype] = min(fastest[dtype], time.perf_counter() - started)
        if time.perf_counter() - begin > seconds:
            return fastest[torch.float32] / fastest[torch.bfloat16]
