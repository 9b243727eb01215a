"""Every command that a card shows does what it says."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import soundfile
from hub_folders import write
from speechllm.cli.main import main
from speechllm.hub_cards.contents import model_contents
from speechllm.hub_cards.run_facts import read_run
from subprocesses import run_python


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


@pytest.fixture
def workplace(run_folder, evaluation_folder, bases, clips, tmp_path, monkeypatch) -> Path:
    """A folder in which the checkpoint lies under its id, and data and bases where the card says."""
    write(model_contents(read_run(run_folder, evaluation_folder), "me/my-asr"), tmp_path / "me" / "my-asr")
    soundfile.write(tmp_path / "talk.wav", clips[2], 16000)
    for split in ("train", "eval"):
        shutil.copytree(run_folder.parent / "corpus" / split, tmp_path / split)
    (tmp_path / bases.parent.name).mkdir()
    (tmp_path / bases.parent.name / bases.name).symlink_to(bases)
    return tmp_path


@pytest.mark.slow
def test_every_command_of_a_models_card_runs(workplace, bases):
    text = (workplace / "me" / "my-asr" / "README.md").read_text()
    env = {"SPEECHLLM_BASES": str(bases), "HF_HUB_OFFLINE": "1", "HF_HOME": str(workplace / "home")}
    env |= {"OMP_NUM_THREADS": "1"}
    (python,) = blocks(text, "python")
    # The text is nonsense: what counts is that one is printed.
    run_python(f"import os\nos.chdir({str(workplace)!r})\n{python}", env, without_package=True)
    transcribe, train = [block.strip() for block in blocks(text, "bash")]
    assert transcribe == "speechllm transcribe --model me/my-asr talk.wav" and train.startswith(
        "speechllm train "
    )
    for command in (transcribe, train):
        done = subprocess.run(
            ["bash", "-c", command], cwd=workplace, env={**os.environ, **env}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
    assert (workplace / "outputs" / "first" / "model" / "results.json").exists()


def test_command_of_a_corpus_card_composes(tmp_path, monkeypatch, capsys):
    for split in ("train", "validation"):
        row = '{"audio": "a.wav", "text": "a", "seconds": 1.0}\n'
        (tmp_path / "spoken").mkdir(exist_ok=True)
        (tmp_path / "spoken" / f"{split}.jsonl").write_text(row)
    assert main(["card", str(tmp_path / "spoken")]) == 0
    (command,) = blocks(capsys.readouterr().out, "bash")
    monkeypatch.chdir(tmp_path)
    assert main([*shlex.split(command)[1:], "--cfg", "job"]) == 0
    assert "validation: spoken/validation.jsonl" in capsys.readouterr().out
