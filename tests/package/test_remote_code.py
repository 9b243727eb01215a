"""Checkpoints where the package is not installed: each loads, transcribes, and saves itself again."""

import ast
import json

import numpy as np
import pytest
import torch
from speechllm.modeling.adapters.adapter_table import ADAPTERS
from speechllm.remote_code import AUTO_MAP, bundle_files, flatten_source
from subprocesses import run_python
from tiny_bases import ENCODER_NAMES

LORA = {"encoder": {"r": 2}, "decoder": {"r": 2}}

LOAD_EVERYWHERE = """
    import json
    import numpy as np, torch
    from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoModelForSpeechSeq2Seq
    from transformers import AutoProcessor, pipeline

    bases, trust = {bases!r}, {{"trust_remote_code": True}}
    clips = [np.load(path) for path in {clips!r}]

    def said(folder, out):
        assert AutoConfig.from_pretrained(folder, **trust).model_type == "speech_llm"
        processor = AutoProcessor.from_pretrained(folder, **trust)
        model = AutoModelForSpeechSeq2Seq.from_pretrained(folder, bases=bases, **trust)
        inputs = processor.apply_transcription_request(clips, language="it")
        with torch.no_grad():
            logits = model(**inputs).logits
            other = AutoModelForMultimodalLM.from_pretrained(folder, bases=bases, **trust)
            assert torch.equal(other(**inputs).logits, logits)
            headless = AutoModel.from_pretrained(folder, bases=bases, **trust)
            assert headless(**inputs).last_hidden_state.shape[:2] == logits.shape[:2]
        model.save_pretrained(out); processor.save_pretrained(out)
        torch.save(logits, out + ".pt")
        asr = pipeline("automatic-speech-recognition", model=folder, trust_remote_code=True)
        assert type(asr).__name__ == "SpeechLLMPipeline"
        return [asr(clips[0], max_new_tokens=8), asr(clips, batch_size=2, max_new_tokens=8)]

    print(json.dumps([said(folder, out) for folder, out in {folders!r}]))
"""
CASES = [(encoder, list(ADAPTERS)[i % len(ADAPTERS)], {}) for i, encoder in enumerate(ENCODER_NAMES)] + [
    ("whisper", "mlp", {"lora_config": LORA})
]


@pytest.fixture()
def clip_files(clips, tmp_path):
    for number, clip in enumerate(clips[:3]):
        np.save(tmp_path / f"{number}.npy", clip)
    return [str(tmp_path / f"{number}.npy") for number in range(3)]


def load_without_package(folders, bases, clip_files, home):
    """What each checkpoint says; `folders`: those to load, and where each saves itself."""
    folders = [(str(folder), str(out)) for folder, out in folders]
    code = LOAD_EVERYWHERE.format(folders=folders, bases=str(bases), clips=clip_files)
    env = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "SPEECHLLM_BASES": str(bases), "OMP_NUM_THREADS": "1"}
    return json.loads(run_python(code, env, without_package=True).strip().splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("cases", [CASES[::2], CASES[1::2]], ids=["even", "odd"])
def test_checkpoints_load_where_the_package_is_not(compose, bases, clips, clip_files, tmp_path, cases):
    from speechllm import SpeechLLMPipeline

    here, expected = [], []
    for number, (encoder, adapter, fields) in enumerate(cases):
        model, processor = compose(encoder, "llama_tied", adapter, **fields)
        model.save_pretrained(tmp_path / "0" / str(number))
        processor.save_pretrained(tmp_path / "0" / str(number))
        with torch.no_grad():
            here.append(model(**processor.apply_transcription_request(clips[:3], language="it")).logits)
        asr = SpeechLLMPipeline(model, processor, device="cpu")
        expected.append([asr(clips[0], max_new_tokens=8), asr(clips[:3], batch_size=2, max_new_tokens=8)])
    # Three generations: each is loaded by the code that the one before wrote.
    for generation in (1, 2):
        source, out = tmp_path / str(generation - 1), tmp_path / str(generation)
        folders = [(source / str(number), out / str(number)) for number in range(len(cases))]
        assert load_without_package(folders, bases, clip_files, tmp_path / f"home{generation}") == expected
        for number, case in enumerate(cases):
            first, again = tmp_path / "0" / str(number), out / str(number)
            assert torch.equal(torch.load(f"{again}.pt", weights_only=True), here[number]), case
            assert sorted(p.name for p in again.iterdir()) == sorted(p.name for p in first.iterdir()), case
            assert (again / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()


def test_every_shipped_file_has_a_name_of_its_own():
    names = [path.name for path in bundle_files()]
    assert len(set(names)) == len(names)


def test_every_shipped_file_is_found_from_the_config(tmp_path, compose):
    """transformers copies what import statements lead to; nothing may be out of their reach."""
    compose()[0].save_pretrained(tmp_path)
    reached, waiting = set(), [AUTO_MAP["AutoConfig"].split(".")[0]]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            tree = ast.parse((tmp_path / f"{name}.py").read_text())
            waiting += [
                node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level
            ]
    assert reached == {path.stem for path in bundle_files()}


def test_shipped_files_import_nothing_beyond_the_core():
    core = {"transformers", "torch", "numpy", "huggingface_hub", "safetensors", "tokenizers", "soundfile"}
    import sys

    for path in bundle_files():
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                root = module.split(".")[0]
                assert root in core or root in sys.stdlib_module_names, f"{path.name} imports {module}"


def test_import_of_a_file_that_does_not_ship_is_refused():
    with pytest.raises(ValueError, match="line 1: 'elsewhere'"):
        flatten_source("from .elsewhere import thing\n", {"here"})
