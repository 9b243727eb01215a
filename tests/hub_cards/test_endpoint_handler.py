"""The handler that goes up with a checkpoint answers as Inference Endpoints ask."""

import json
import shutil

import pytest
import soundfile
from hub_folders import write
from speechllm.hub_cards.contents import model_contents, requirements
from speechllm.hub_cards.run_facts import read_run
from subprocesses import run_python

ASK = """
    import base64, json, sys
    sys.path.insert(0, {folder!r})
    from handler import EndpointHandler
    handler = EndpointHandler({folder!r})
    sound = open({clip!r}, "rb").read()
    few = {{"max_new_tokens": 4}}
    asked = [
        {{"inputs": sound, "parameters": few}},
        {{"inputs": base64.b64encode(sound).decode(), "parameters": few}},
        {{"inputs": {{"array": [0.0, 0.1] * 8000, "sampling_rate": 16000}}, "parameters": {{**few, "return_timestamps": True}}}},
        {{"inputs": {clip!r}}},
        {{"inputs": b"not a sound"}},
        {{"parameters": few}},
    ]
    print(json.dumps([handler(one) for one in asked]))
"""  # noqa: E501


@pytest.mark.slow
def test_handler_answers_without_the_package(run_folder, bases, clips, tmp_path):
    folder, clip = tmp_path / "endpoint", tmp_path / "talk.wav"
    soundfile.write(clip, clips[2], 16000)
    write(model_contents(read_run(run_folder)), folder)
    code = ASK.format(folder=str(folder), clip=str(clip))
    env = {"SPEECHLLM_BASES": str(bases), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    output = run_python(code, env | {"OMP_NUM_THREADS": "1"}, without_package=True)
    file, text, samples, path, broken, nothing = json.loads(output.strip().splitlines()[-1])
    assert "text" in file and file == text
    assert samples["chunks"] is not None
    # A path is never opened: it would be one of the server's.
    assert path == {"error": "inputs is neither sound in base64 nor an https address"}
    assert list(broken) == ["error"] and "\n" not in broken["error"]
    assert "inputs must be a sound file" in nothing["error"]


def test_handler_and_requirements_of_ones_own_stay(run_folder, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(run_folder / "model", folder)
    (folder / "handler.py").write_text("class EndpointHandler: ...\n")
    contents = model_contents(read_run(folder))
    assert contents["handler.py"] == folder / "handler.py" and "requirements.txt" not in contents


def test_requirements_are_those_of_the_package():
    assert any(line.startswith("transformers>=5") for line in requirements())
    assert not any(line.startswith("gradio") for line in requirements())
    assert any(line.startswith("gradio") for line in requirements("demo"))
