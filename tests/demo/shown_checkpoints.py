"""Tiny checkpoints as the demo offers them: one with a routed bank, one with two attentions, one plain."""

import torch
from speechllm.demo.checkpoints import find_checkpoints
from speechllm.demo.page import Page
from speechllm.demo.recognizers import Recognizers, load_recognizer

LORA = {"r": 2}
KINDS = {
    "routed": {
        "lora_bank": {"it": {"encoder": LORA}, "fr": {"decoder": LORA}},
        "router_config": {"labels": ["it", "fr", "el"], "hidden_sizes": [16]},
    },
    "dual": {"adapter": "dual_attention"},
    "plain": {},
}


def save_checkpoints(compose_whisper, root) -> list[str]:
    """Their folders, in the order of `KINDS`."""
    folders = []
    for name, fields in KINDS.items():
        model, processor = compose_whisper(**fields)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.fill_(0.05)
        model.save_pretrained(root / name)
        processor.save_pretrained(root / name)
        folders.append(str(root / name))
    return folders


def page_of(folders, bases, load=load_recognizer, **limits) -> Page:
    """A page that offers these folders and nothing else."""
    return Page(
        find_checkpoints(folders, shipped=None), Recognizers(lambda source: load(source, bases)), **limits
    )
