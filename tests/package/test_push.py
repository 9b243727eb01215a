"""Pushed over HTTP to a stand-in for the Hub, a checkpoint loads by its id, bases at pinned revisions."""

import json

import pytest
from hub_standin import HubStandIn
from huggingface_hub import HfApi
from subprocesses import run_python

PUSH = """
    import json
    from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMProcessor
    names = ("tiny/whisper", "tiny/llama_tied", "mlp")
    fields = {{"stack_factor": 4, "hidden_size": 16}}
    model = SpeechLLMForConditionalGeneration.from_bases(*names, **fields)
    processor = SpeechLLMProcessor.from_bases(*names, **fields)
    model.push_to_hub("me/asr", private=True)
    processor.push_to_hub("me/asr")
    import numpy as np, torch
    clip = np.sin(np.arange(16000) * 0.1).astype("float32")
    with torch.no_grad():
        total = model(**processor.apply_transcription_request(clip)).logits.double().sum().item()
    print(json.dumps([model.config.encoder_revision, model.config.decoder_revision, total]))
"""
LOAD = """
    import json
    import numpy as np, torch
    from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, pipeline
    model = AutoModelForSpeechSeq2Seq.from_pretrained("me/asr", trust_remote_code=True, **{arguments})
    processor = AutoProcessor.from_pretrained("me/asr", trust_remote_code=True, **{arguments})
    clip = np.sin(np.arange(16000) * 0.1).astype("float32")
    with torch.no_grad():
        total = model(**processor.apply_transcription_request(clip)).logits.double().sum().item()
    asr = pipeline("automatic-speech-recognition", model="me/asr", trust_remote_code=True, **{arguments})
    print(json.dumps([type(asr).__name__, asr(clip, max_new_tokens=4)["text"], total]))
"""


def last_json(output: str):
    return json.loads(output.strip().splitlines()[-1])


@pytest.mark.slow
def test_push_to_hub_makes_a_repository_that_loads_by_its_id(bases, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with HubStandIn(tmp_path / "hub", namespaces=("me", "tiny")) as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        for name in ("whisper", "llama_tied"):
            api.create_repo(f"tiny/{name}")
            api.upload_folder(repo_id=f"tiny/{name}", folder_path=bases / f"tiny--{name}")
        pinned = [api.model_info(f"tiny/{name}").sha for name in ("whisper", "llama_tied")]
        env = {"OMP_NUM_THREADS": "1"}
        pushed = last_json(run_python(PUSH.format(), {**hub.environment(tmp_path / "author"), **env}))
        assert pushed[:2] == pinned
        files = {sibling.rfilename for sibling in api.model_info("me/asr").siblings}
        assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= files
        assert {"modeling_speechllm.py", "pipeline_speechllm.py", "README.md"} <= files
        # The bases move on; the checkpoint does not.
        api.upload_folder(repo_id="tiny/llama_tied", folder_path=bases / "tiny--llama")
        user = {**hub.environment(tmp_path / "user"), **env}
        loaded = last_json(run_python(LOAD.format(arguments="{}"), user, without_package=True))
        assert loaded[0] == "SpeechLLMPipeline"
        assert loaded[2] == pushed[2]
        # A second time nothing is asked of the Hub.
        offline = {**user, "HF_HUB_OFFLINE": "1"}
        assert last_json(run_python(LOAD.format(arguments="{}"), offline, without_package=True)) == loaded
        sha = api.model_info("me/asr").sha
        at = LOAD.format(arguments=json.dumps({"revision": sha}))
        assert last_json(run_python(at, user, without_package=True)) == loaded


def test_no_network_and_no_cache_is_one_line(compose, tmp_path):
    model, _ = compose()
    model.save_pretrained(tmp_path / "checkpoint")
    code = f"""
        from speechllm import SpeechLLMForConditionalGeneration
        try:
            SpeechLLMForConditionalGeneration.from_pretrained({str(tmp_path / "checkpoint")!r})
        except OSError as error:
            print(error)
    """
    output = run_python(code, {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}).strip()
    assert "tiny/" in output and "speechllm bases install" in output
    assert "\n" not in output
