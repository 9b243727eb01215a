"""What models do with LoRA: the one that is always on, and the bank of named adapters."""

from collections.abc import Mapping
from typing import Any

import torch

from ..configuration.configuration_lora import LORA_SLOTS
from ..configuration.encoder_specs import encoder_spec
from .lora_bank import LoraBank
from .lora_folders import SETTINGS, read_bank_folder, read_lora_folder, write_bank_folder, write_lora_folder


class LoraModelMixin:
    """For both public classes; `speech_model` holds the bases, `bank` the adapters of `config.lora_bank`."""

    config: Any
    speech_model: Any
    training: bool
    train: Any

    @property
    def lora_bank(self) -> LoraBank:
        """The bank: `add`, `remove`, `rename`, `replace` change one adapter and no other."""
        return self.speech_model.bank

    def use_adapters(self, choice: str | Mapping[str, float] | None) -> None:
        """Adapters for every clip from now on: a name, weights by name, or `None` for those of each call."""
        bank = self.lora_bank
        weights = {choice: 1.0} if isinstance(choice, str) else dict(choice or {})
        row = torch.zeros(1, len(bank.names))
        for name, weight in weights.items():
            bank.config_of(name)
            row[0, bank.names.index(name)] = float(weight)
        self.speech_model.chosen_adapters = row if weights else None

    def save_adapter_folder(self, name: str, folder) -> None:
        """Write one adapter of the bank as a PEFT folder for its stock base.

        Where encoder and decoder are of two bases, `folder` gets a sub-folder for each of them.
        """
        model = self.speech_model
        slots = self.lora_bank.config_of(name).slots
        for place, stock in model.family.stock_parts(model, folder, slots).items():
            write_bank_folder(self.lora_bank, name, place, *stock)

    def load_adapter_folder(self, name: str, folder, language: str | None = None) -> None:
        """Put what `save_adapter_folder` or PEFT wrote for this base into the bank, under a new name."""
        model = self.speech_model
        parts = model.family.stock_parts(model, folder, LORA_SLOTS)
        found = {place: stock for place, stock in parts.items() if (place / SETTINGS).is_file()}
        if not found:
            raise ValueError(f"there is no PEFT adapter in {' or '.join(map(str, parts))}: no {SETTINGS}")
        for place, (prefixes, base_id, _) in found.items():
            read_bank_folder(self.lora_bank, name, place, prefixes, base_id, language)
        self.train(self.training)

    def save_lora(self, slot: str, folder) -> None:
        """Write the LoRA of a slot ("encoder", "decoder") as a PEFT folder for that stock base.

        `peft.PeftModel.from_pretrained(base, folder)` reads it, where `base` is what `AutoModelForCausalLM`
        makes of the decoder, or `AutoModel` of the encoder.
        """
        base, prefix, base_id, revision = self._lora_base(slot)
        config = (self.config.lora_config or {}).get(slot)
        if config is None:
            raise ValueError(
                f"the {slot} has no LoRA to save: build the model with lora_config={{{slot!r}: ...}}"
            )
        write_lora_folder(base, config, folder, prefix, base_id, revision)

    def load_lora(self, slot: str, folder) -> None:
        """Fill the LoRA of a slot from a PEFT folder made for that base; a slot without LoRA gets one."""
        base, prefix, base_id, _ = self._lora_base(slot)
        slots = dict(self.config.lora_config or {})
        slots[slot] = read_lora_folder(base, slots.get(slot), folder, prefix, base_id)
        self.config.lora_config = slots
        self.train(self.training)

    def _lora_base(self, slot: str):
        """`(module, prefix of its names in the stock base, id, revision)` of a slot."""
        model, config = self.speech_model, self.config
        if slot == "encoder":
            prefix = encoder_spec(config.audio_config).stock_prefix
            return model.audio_tower, prefix, config.encoder_id, config.encoder_revision
        if slot == "decoder":
            prefix = model.family.decoder_prefix(model)
            return model.language_model, prefix, config.decoder_id, config.decoder_revision
        raise ValueError(f"no slot {slot!r} for LoRA; there are {', '.join(LORA_SLOTS)}")
