"""The folder of a Space runs as it stands, and goes up as one."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path

import pytest
import yaml
from hub_folders import write
from huggingface_hub import HfApi, SpaceCard
from speechllm.cli.main import main
from speechllm.hub_cards.run_facts import read_run
from speechllm.hub_cards.space import space_contents
from subprocesses import HIDE_PACKAGE


def test_card_of_a_space_says_what_the_hub_needs_without_a_warning(caplog):
    text = space_contents("me/my-asr", "me/demo")["README.md"].decode()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        card = SpaceCard(text)
    assert not caplog.records and str(card) == text
    data = card.data.to_dict()
    assert data["sdk"] == "gradio" and data["app_file"] == "app.py" and data["models"] == ["me/my-asr"]
    assert data["sdk_version"].startswith("6.") and data["title"] == "demo"


def test_space_of_a_folder_brings_the_checkpoint_and_one_of_an_id_names_it(run_folder):
    whole = space_contents(str(run_folder), "me/demo")
    assert "model/model.safetensors" in whole and b'"--model", "model"' in whole["app.py"]
    named = space_contents("me/my-asr", "me/demo")
    assert not any(path.startswith("model/") for path in named) and b'"me/my-asr"' in named["app.py"]
    assert "speechllm/cli/demo.py" in named and "speechllm/demo/app.py" in named
    assert "speechllm/training/run.py" not in named
    assert not any(path.startswith("speechllm/demo/checkpoints/") for path in named)
    assert any(line.startswith("gradio") for line in named["requirements.txt"].decode().splitlines())


def test_space_of_a_checkpoint_needs_no_word_on_its_evaluation(checkpoint, evaluation_folder):
    shutil.copytree(evaluation_folder, checkpoint / "evaluation")
    with pytest.raises(ValueError, match="--system"):
        read_run(checkpoint)
    assert "model/config.json" in space_contents(str(checkpoint), "me/demo")


@pytest.mark.slow
def test_space_runs_as_it_stands(run_folder, bases, tmp_path):
    # In this environment, but without the package that is installed in it: the folder brings its own.
    folder = write(space_contents(str(run_folder), "me/demo"), tmp_path / "space")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(HIDE_PACKAGE.replace("[PackageIsNotInstalled, *(", "[*("))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {
        **os.environ,
        "PYTHONPATH": str(hidden),
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_SERVER_NAME": "127.0.0.1",
    }
    env |= {
        "SPEECHLLM_BASES": str(bases),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "GRADIO_ANALYTICS_ENABLED": "0",
    }
    with open(tmp_path / "log", "w") as log:
        app = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=env, stdout=log, stderr=log)
        try:
            page = wait_for(f"http://127.0.0.1:{port}/config", app, tmp_path / "log")
        finally:
            app.terminate()
            app.wait(30)
    assert json.loads(page)["title"] == "speechllm"


def wait_for(address: str, app: subprocess.Popen, log: Path, seconds: float = 120) -> bytes:
    end = time.monotonic() + seconds
    while time.monotonic() < end and app.poll() is None:
        try:
            return urllib.request.urlopen(address, timeout=5).read()
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the app does not answer:\n{log.read_text()[-2000:]}")


def test_pushed_space_is_one_and_private(run_folder, hub):
    assert main(["push", str(run_folder), "me/demo", "--space"]) == 0
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    info = api.space_info("me/demo")
    assert info.private and {"app.py", "requirements.txt"} <= {one.rfilename for one in info.siblings}
    settings = yaml.safe_load((hub.root / "spaces" / "me" / "demo" / "settings.json").read_text())
    assert settings["sdk"] == "gradio"
