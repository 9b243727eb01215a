"""LoRA around the linears of a frozen base.

PEFT is the reference for names and numbers (its folders are read and written), but it is not imported: a
checkpoint with LoRA has to load where only transformers and torch are installed.
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..configuration.configuration_lora import LoraConfig

ADAPTER = "default"


class LoraLinear(nn.Module):
    """`base(x) + scaling * B(A(dropout(x)))`. Parameters are named as PEFT names them."""

    def __init__(self, base_layer: nn.Module, config: LoraConfig):
        super().__init__()
        self.base_layer = base_layer
        self.scaling = config.scaling
        self.dropout = nn.Dropout(config.lora_dropout)
        weight = base_layer.weight
        # Quantized weights hold integers; their LoRA computes in the dtype that the layer takes in.
        dtype = weight.dtype if weight.dtype.is_floating_point else torch.float32
        options = {"bias": False, "device": weight.device, "dtype": dtype}
        self.lora_A = nn.ModuleDict({ADAPTER: nn.Linear(base_layer.in_features, config.r, **options)})
        self.lora_B = nn.ModuleDict({ADAPTER: nn.Linear(config.r, base_layer.out_features, **options)})
        nn.init.kaiming_uniform_(self.lora_A[ADAPTER].weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B[ADAPTER].weight)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`[..., in]` -> `[..., out]`."""
        down, up = self.lora_A[ADAPTER], self.lora_B[ADAPTER]
        update = up(down(self.dropout(states).to(down.weight.dtype)))
        return self.base_layer(states) + (update * self.scaling).to(states.dtype)

    @property
    def weight(self) -> torch.Tensor:
        """The frozen weight: stock layers look at its dtype and device."""
        return self.base_layer.weight


def add_lora(base: nn.Module, config: LoraConfig) -> int:
    """Wrap every linear of `base` that a target names; how many. None is an error that names what there is."""
    linears = {name: module for name, module in base.named_modules() if hasattr(module, "in_features")}
    endings = tuple(f".{target}" for target in config.target_modules)
    chosen = [name for name in linears if f".{name}".endswith(endings)]
    if not chosen:
        there = sorted({name.rpartition(".")[2] for name in linears})
        raise ValueError(f"no linear is named {config.target_modules}; there are {there}")
    for name in chosen:
        parent, _, child = name.rpartition(".")
        setattr(base.get_submodule(parent), child, LoraLinear(linears[name], config))
    return len(chosen)


def lora_state(base: nn.Module) -> dict[str, torch.Tensor]:
    """The LoRA tensors of a base, by their names below it."""
    return {name: tensor for name, tensor in base.state_dict().items() if is_lora_key(name)}


def is_lora_key(name: str) -> bool:
    """Whether a tensor of this name belongs to LoRA, and not to the base it wraps."""
    return ".lora_A." in name or ".lora_B." in name


def save_lora(base: nn.Module, config: LoraConfig, folder: str | Path, base_id: str | None = None) -> None:
    """Write a plain PEFT folder for the stock base."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"base_model.model.{_peft_name(name)}": t.contiguous() for name, t in lora_state(base).items()}
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    fields = {name: getattr(config, name) for name in ("r", "lora_alpha", "lora_dropout", "target_modules")}
    settings = {"peft_type": "LORA", "base_model_name_or_path": base_id, "bias": "none", **fields}
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def load_lora(base: nn.Module, folder: str | Path) -> None:
    """Fill the LoRA of a base from a plain PEFT folder; missing or foreign tensors are an error."""
    tensors = load_file(str(Path(folder) / "adapter_model.safetensors"))
    named = {_peft_name(name).removeprefix("base_model.model."): tensor for name, tensor in tensors.items()}
    own = {_peft_name(name): name for name in lora_state(base)}
    if set(named) != set(own):
        odd = sorted(set(named) ^ set(own))[0]
        raise ValueError(f"the LoRA in {folder} does not fit this base: {odd} stands on one side only")
    base.load_state_dict({own[name]: tensor for name, tensor in named.items()}, strict=False)


def _peft_name(name: str) -> str:
    # PEFT's files leave out the adapter's name, which its modules carry.
    return name.replace(f".{ADAPTER}.", ".")
