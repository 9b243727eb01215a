"""`speechllm convert average`: the mean of checkpoints of one shape, whole or not at all."""

import json

import pytest
import torch
from moved_parameters import move
from safetensors.torch import load_file
from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMProcessor
from speechllm.cli.main import main


def checkpoint(compose, folder, amount: float, **fields) -> str:
    model, processor = compose(**fields)
    move(model.model.adapter.parameters(), amount)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def average(capsys, *arguments) -> tuple[int, str, str]:
    capsys.readouterr()  # what was shown while composing
    code = main(["convert", "average", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out.strip(), captured.err.strip()


def test_the_mean_loads_as_a_checkpoint_and_lies_between(compose, bases, tmp_path, capsys):
    folders = [checkpoint(compose, tmp_path / str(size), size) for size in (0.0, 0.1, 0.2)]
    code, out, err = average(capsys, *folders, "--to", tmp_path / "mean")
    assert (code, out) == (0, str(tmp_path / "mean")) and "the mean of 3 checkpoints" in err
    given = [load_file(f"{folder}/model.safetensors") for folder in folders]
    means = load_file(tmp_path / "mean" / "model.safetensors")
    assert set(means) == set(given[0])
    for key, mean in means.items():
        assert torch.allclose(mean, sum(tensors[key] for tensors in given) / 3, atol=1e-7), key
    assert any(not torch.equal(mean, given[0][key]) for key, mean in means.items())
    model = SpeechLLMForConditionalGeneration.from_pretrained(tmp_path / "mean", bases=bases)
    named = dict(model.named_parameters())
    assert all(torch.equal(named[key], mean) for key, mean in means.items())
    SpeechLLMProcessor.from_pretrained(tmp_path / "mean")


def test_the_mean_of_the_same_is_the_same_in_half_precision_too(compose, bases, tmp_path, capsys):
    folder = checkpoint(compose, tmp_path / "one", 0.1)
    model = SpeechLLMForConditionalGeneration.from_pretrained(folder, bases=bases)
    model.save_pretrained(folder, trained_dtype="float16")
    assert average(capsys, folder, folder, folder, "--to", tmp_path / "mean")[0] == 0
    given, means = (load_file(f"{path}/model.safetensors") for path in (folder, tmp_path / "mean"))
    assert all(
        torch.equal(mean, given[key]) and mean.dtype == given[key].dtype for key, mean in means.items()
    )


def without(path, key: str) -> None:
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))


FAULTS = {
    "one alone": "a mean takes two",
    "no checkpoint": "is no folder with a checkpoint",
    "another shape": "they differ in 'adapter_config'",
    "another encoder": "they differ in 'encoder_id'",
    "not new": "holds something already",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_has_no_mean_is_refused_in_one_line(fault, compose, tmp_path, capsys):
    one = checkpoint(compose, tmp_path / "one", 0.0)
    other, target = tmp_path / "other", tmp_path / "mean"
    if fault == "no checkpoint":
        other.mkdir()
    elif fault != "one alone":
        checkpoint(compose, other, 0.0, **({"hidden_size": 48} if fault == "another shape" else {}))
    if fault == "another encoder":
        without(other / "config.json", "encoder_id")
    if fault == "not new":
        target.mkdir()
        (target / "notes.txt").write_text("mine")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    code, out, err = average(capsys, one, *([] if fault == "one alone" else [other]), "--to", target)
    assert code == 1 and not out
    assert FAULTS[fault] in err and len(err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
