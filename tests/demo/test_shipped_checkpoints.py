"""The checkpoints that travel with the package: small, of pinned bases, and nobody's machine in them."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from speechllm import SpeechLLMConfig
from speechllm.bases.sources import BASES
from speechllm.default_checkpoint import default_checkpoint

FOLDERS = sorted(path.parent for path in default_checkpoint().parent.glob("*/config.json"))
MOST_MEGABYTES = 40
# In pieces, so that this file does not name what it looks for.
PLACES = re.compile("/" + "root/|/" + r"home/\w+|/" + "work/")


def test_the_default_is_among_them_and_together_they_are_small():
    assert default_checkpoint() in FOLDERS
    weights = [path for folder in FOLDERS for path in folder.glob("*.safetensors")]
    assert sum(path.stat().st_size for path in weights) < MOST_MEGABYTES * 1e6


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_one_holds_what_was_trained_in_half_precision_on_a_pinned_base(folder):
    config = SpeechLLMConfig.from_pretrained(folder)
    assert config.references_bases and config.encoder_id in BASES
    assert config.encoder_revision == BASES[config.encoder_id].hub_revision
    weights = load_file(folder / "model.safetensors")
    # A router is small, and sure of itself only in the precision it was trained in.
    kinds = {tensor.dtype for name, tensor in weights.items() if ".router." not in name}
    assert kinds == {torch.float16}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_one_says_how_it_was_trained_and_judged_and_not_where(folder):
    results = json.loads((folder / "results.json").read_text())
    assert results["steps"] > 0 and results["phases"]
    assert (folder / "config.yaml").exists() and (folder / "train.log").exists()
    assert json.loads((folder / "evaluation" / "results.json").read_text())["sets"]
    text = [path for path in folder.rglob("*") if path.suffix in (".json", ".jsonl", ".yaml", ".log", ".md")]
    assert not [path.name for path in text if PLACES.search(path.read_text(errors="ignore"))]
