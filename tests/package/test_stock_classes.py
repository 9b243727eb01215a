"""A checkpoint given to a stock class, or to an Auto class that may not run its code, stops loudly."""

import json
import re
import shutil

import pytest
from speechllm import SpeechLLMConfig
from speechllm.configuration.stock_refusals import PREFIX
from subprocesses import run_python

# Prints what each way of loading each folder ends with.
LOAD = """
import json, os
import torch
from transformers import (AutoModel, AutoModelForSpeechSeq2Seq, LlamaForCausalLM, WhisperConfig,
                          WhisperForConditionalGeneration, WhisperModel, pipeline)
ways = {
    "class": WhisperForConditionalGeneration.from_pretrained,
    "class in bfloat16": lambda f: WhisperForConditionalGeneration.from_pretrained(f, dtype=torch.bfloat16),
    "class that trusts": lambda f: WhisperForConditionalGeneration.from_pretrained(f, trust_remote_code=True),
    "body": WhisperModel.from_pretrained,
    "config": WhisperConfig.from_pretrained,
    "decoder": LlamaForCausalLM.from_pretrained,
    "auto": AutoModelForSpeechSeq2Seq.from_pretrained,
    "auto body": AutoModel.from_pretrained,
    "pipeline": lambda folder: pipeline("automatic-speech-recognition", model=folder),
}
found = {}
for folder, names in json.loads(os.environ["ASKED"]).items():
    for way in names:
        try:
            found[folder + " " + way] = "loaded a " + type(ways[way](folder)).__name__
        except Exception as error:
            found[folder + " " + way] = type(error).__name__ + ": " + " ".join(str(error).split())
print()
print(json.dumps(found))
"""
DIRECT = ["class", "class in bfloat16", "class that trusts", "body", "config"]
AUTO = ["auto", "auto body", "pipeline"]
REFUSED = "ValueError: .*of type speech_llm, of which a {} is only a part: .*trust_remote_code=True"


@pytest.mark.slow
def test_no_checkpoint_is_taken_for_one_of_its_bases(compose, compose_whisper, tmp_path):
    for included in (False, True):
        for part in compose_whisper("dual_attention"):
            options = {"include_bases": True} if included and hasattr(part, "generate") else {}
            part.save_pretrained(tmp_path / f"dual-{included}", **options)
    for part in compose("whisper", "llama_tied"):
        part.save_pretrained(tmp_path / "bridge")
    # As it would be without the refusal. Once transformers refuses by itself, the refusal may go.
    shutil.copytree(tmp_path / "dual-False", tmp_path / "bare")
    values = json.loads((tmp_path / "bare" / "config.json").read_text())
    bare = {name: value for name, value in values.items() if not name.startswith(PREFIX)}
    (tmp_path / "bare" / "config.json").write_text(json.dumps(bare))
    ways = {"dual-False": DIRECT + AUTO, "dual-True": ["class", "pipeline"], "bare": ["class"]}
    ways["bridge"] = ["class", "decoder"]
    asked = json.dumps({str(tmp_path / name): listed for name, listed in ways.items()})
    output = run_python(LOAD, {"ASKED": asked, "HF_HUB_OFFLINE": "1"}, without_package=True)
    said = json.loads(output.strip().splitlines()[-1])
    found = {(name, way): said[f"{tmp_path / name} {way}"] for name, listed in ways.items() for way in listed}
    for (name, way), answer in found.items():
        if way in AUTO:
            assert answer.startswith("ValueError: ") and "`trust_remote_code=True`" in answer, (name, way)
        elif name != "bare":
            kind = "llama" if way == "decoder" else "whisper"
            assert re.match(REFUSED.format(kind), answer), (name, way, answer)
    assert found["bare", "class"] == "loaded a WhisperForConditionalGeneration"


def test_refusals_stand_behind_the_sub_configs_and_are_no_field(compose_whisper, tmp_path):
    model, _ = compose_whisper("dual_attention")
    model.save_pretrained(tmp_path / "dual")
    values = json.loads((tmp_path / "dual" / "config.json").read_text())
    # Of several entries of a type the last one is read.
    assert list(values)[-1] == PREFIX + "whisper" and list(values) == sorted(values)
    config = SpeechLLMConfig.from_pretrained(tmp_path / "dual")
    assert not any(name.startswith(PREFIX) for name in config.to_dict())
    shutil.copytree(tmp_path / "dual", tmp_path / "again")
    config.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()).keys() >= {PREFIX + "whisper"}
