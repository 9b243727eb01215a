"""`speechllm convert` of foreign weights: the same outputs, and one line where something is wrong."""

import json
import os
import shutil

import pytest
import torch
from hub_standin import HubStandIn
from published_dual import published_logits, published_model
from safetensors.torch import load_file, save_file
from speechllm import SpeechLLMForConditionalGeneration, SpeechLLMProcessor
from speechllm.bases.install import verify_base
from speechllm.cli.main import main
from speechllm.training.conversion.weight_files import read_weights
from subprocesses import run_python
from transformers import WhisperForConditionalGeneration

ASR = "tiny/whisper_asr"
IDS = torch.tensor([[257, 258, 264, 268, 70, 80, 90], [257, 258, 264, 268, 71, 81, 91]])


@pytest.fixture(scope="module")
def original(bases):
    return published_model(bases / "tiny--whisper_asr")


@pytest.fixture(scope="module")
def features(compose_whisper, clips):
    extractor = compose_whisper()[1].feature_extractor
    return extractor(clips[2:4], sampling_rate=16000, return_tensors="pt").input_features


def convert(bases, source, target, *options) -> int:
    return main(
        [
            "convert",
            "dual-whisper",
            str(source),
            "--base",
            ASR,
            "--to",
            str(target),
            "--bases",
            str(bases),
            *options,
        ]
    )


def as_pt(state, folder):
    torch.save(state, folder / "weights.pt")
    return folder / "weights.pt"


def as_trainer_folder(state, folder):
    torch.save(state, folder / "pytorch_model.bin")
    # A pickle of settings, which nobody needs.
    torch.save(print, folder / "training_args.bin")
    return folder


def as_shards(state, folder):
    names = sorted(state)
    index = {}
    for number, part in enumerate((names[:40], names[40:])):
        torch.save({name: state[name] for name in part}, folder / f"part-{number}.bin")
        index |= dict.fromkeys(part, f"part-{number}.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def as_safetensors(state, folder):
    rest = {name: tensor for name, tensor in state.items() if name != "proj_out.weight"}
    save_file(rest, folder / "model.safetensors")
    return folder


def as_wrapped_training_state(state, folder):
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"model_state_dict": wrapped, "epoch": 3}, folder / "epoch-3.pth")
    return folder / "epoch-3.pth"


FORMATS = [as_pt, as_trainer_folder, as_shards, as_safetensors, as_wrapped_training_state]


@pytest.mark.parametrize("written", FORMATS, ids=lambda form: form.__name__)
def test_the_originals_weights_give_the_originals_logits(
    written, original, bases, features, tmp_path, capsys
):
    (tmp_path / "source").mkdir()
    source = written(original.state_dict(), tmp_path / "source")
    assert convert(bases, source, tmp_path / "ours") == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == str(tmp_path / "ours")
    model = SpeechLLMForConditionalGeneration.from_pretrained(tmp_path / "ours", bases=bases)
    wanted = published_logits(original, features, IDS)
    with torch.no_grad():
        found = model(input_features=features, decoder_input_ids=IDS).logits
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-4)
    stock = WhisperForConditionalGeneration.from_pretrained(bases / "tiny--whisper_asr").eval()
    assert (stock(features, decoder_input_ids=IDS).logits - wanted).abs().max() > 1


def test_of_the_base_only_what_was_trained_is_kept(original, bases, features, tmp_path):
    assert convert(bases, as_pt(original.state_dict(), tmp_path), tmp_path / "ours") == 0
    held = load_file(tmp_path / "ours" / "model.safetensors")
    base = {name for name in held if not name.startswith("model.adapter.")}
    # 7 tensors of the primary and 2 of its norm, in 2 layers; the original trained those.
    assert len(base) == 18 and all("encoder_attn" in name for name in base)
    assert convert(bases, tmp_path / "weights.pt", tmp_path / "whole", "--include-bases") == 0
    alone = SpeechLLMForConditionalGeneration.from_pretrained(tmp_path / "whole", bases=tmp_path / "nowhere")
    with torch.no_grad():
        found = alone(input_features=features, decoder_input_ids=IDS).logits
    torch.testing.assert_close(found, published_logits(original, features, IDS), atol=2e-4, rtol=1e-4)
    assert SpeechLLMProcessor.from_pretrained(tmp_path / "ours").tokenizer.eos_token == "<|endoftext|>"


def test_an_original_that_trained_only_what_it_adds_refers_to_the_whole_base(bases, tmp_path):
    untouched = published_model(bases / "tiny--whisper_asr", trained=False)
    assert convert(bases, as_pt(untouched.state_dict(), tmp_path), tmp_path / "ours") == 0
    held = load_file(tmp_path / "ours" / "model.safetensors")
    assert all(name.startswith("model.adapter.") for name in held)


GATE = "model.decoder.layers.1.cross_attn_gate.gate.2.weight"


def changed(state, **changes):
    state = {name: tensor for name, tensor in state.items() if name not in changes.get("without", ())}
    return {**state, **changes.get("more", {})}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"without": [GATE]}, "lacks the tensor 'model.adapter.layers.1.gate.head.weight'"),
        ({"more": {"optimizer.step": torch.zeros(1)}}, "has, unasked, the tensor 'optimizer.step'"),
        ({"more": {GATE: torch.zeros(2, 32)}}, "has shape [2, 32], not [1, 32]"),
        ({"more": {"proj_out.weight": torch.zeros(1770, 32)}}, "proj_out.weight is not the embeddings"),
        ({"more": {"epoch": 3}}, "'epoch' is no tensor, but int"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(original, bases, tmp_path, capsys, changes, message):
    source = as_pt(changed(original.state_dict(), **changes), tmp_path)
    assert convert(bases, source, tmp_path / "ours") == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in said and said.startswith("speechllm convert: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights.pt"]


class Code:
    """Unpickled by anything that trusts it, it would make a folder."""

    def __reduce__(self):
        return os.mkdir, ("it-ran",)


def test_a_pickle_with_code_is_refused_and_its_code_does_not_run(bases, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Code()}, tmp_path / "weights.pt")
    assert convert(bases, tmp_path / "weights.pt", tmp_path / "ours") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "weights.pt is refused: it holds more than tensors, posix.mkdir for one" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights.pt"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("weights.pt", b"no weights", "is refused: it is no pickle of tensors"),
        ("weights.safetensors", b"no weights", "is no readable safetensors file"),
        ("weights.txt", b"no weights", "weights are in .bin, .pt, .pth, .ckpt or .safetensors files"),
        ("", b"", "files of weights in it: none"),
        ("nowhere.pt", None, "there is no such file or folder"),
    ],
)
def test_what_holds_no_weights_is_refused(tmp_path, name, content, message):
    if name and content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_weights(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_stock_whisper_is_no_dual_one_and_a_full_folder_is_no_target(bases, tmp_path, capsys):
    assert convert(bases, bases / "tiny--whisper_asr", tmp_path / "ours") == 1
    assert "has no second attention" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert convert(bases, bases / "tiny--whisper_asr", tmp_path / "full") == 1
    assert "holds something already: name a new folder" in capsys.readouterr().err


@pytest.fixture
def pickled(bases, tmp_path):
    """A stock Whisper's folder as some repositories have it: its only weights are a pickle."""
    folder = tmp_path / "pickled"
    shutil.copytree(bases / "tiny--whisper_asr", folder)
    state = WhisperForConditionalGeneration.from_pretrained(folder).half().state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(dict(state), folder / "pytorch_model.bin")
    return folder


def test_a_pickled_whisper_becomes_a_base_that_models_are_made_of(pickled, tmp_path, features, capsys):
    root = tmp_path / "bases"
    assert main(["convert", "base", str(pickled), "--id", "me/pickled", "--to", str(root)]) == 0
    assert capsys.readouterr().out.strip() == str(root / "me--pickled")
    assert verify_base(root / "me--pickled") == []
    assert not list((root / "me--pickled").glob("*.bin"))
    source = torch.load(pickled / "pytorch_model.bin", weights_only=True)
    held = load_file(root / "me--pickled" / "model.safetensors")
    assert set(held) == set(source) - {"proj_out.weight"}
    assert all(torch.equal(held[name], source[name]) for name in held)
    model = SpeechLLMForConditionalGeneration.from_bases("me/pickled", adapter="dual_attention", bases=root)
    with torch.no_grad():
        logits = model.float()(input_features=features, decoder_input_ids=IDS).logits
        stock = WhisperForConditionalGeneration.from_pretrained(root / "me--pickled", dtype="float32").eval()
        assert torch.equal(logits, stock(features, decoder_input_ids=IDS).logits)


def test_a_pickled_whisper_that_is_none_leaves_nothing(pickled, tmp_path, capsys):
    root = tmp_path / "bases"
    convert_base = ["convert", "base", str(pickled), "--to", str(root)]
    assert main(convert_base) == 1
    assert "say with --id what its base is called" in capsys.readouterr().err
    state = torch.load(pickled / "pytorch_model.bin", weights_only=True)
    state.pop("model.encoder.conv1.bias")
    torch.save(state, pickled / "pytorch_model.bin")
    assert main([*convert_base, "--id", "me/pickled"]) == 1
    assert "model.encoder.conv1.bias" in capsys.readouterr().err
    (pickled / "config.json").write_text('{"model_type": "bert"}')
    assert main([*convert_base, "--id", "me/pickled"]) == 1
    assert "me/pickled is a bert, not a whisper" in capsys.readouterr().err
    assert not root.exists()


FROM_HUB = """
    from huggingface_hub import HfApi
    from speechllm.cli.main import main
    api = HfApi()
    api.create_repo("me/pickled")
    api.upload_folder(repo_id="me/pickled", folder_path=SOURCE)
    assert main(["convert", "base", "me/pickled", "--to", TARGET]) == 0
    from speechllm.bases.install import read_manifest, verify_base
    from pathlib import Path
    base = Path(TARGET) / "me--pickled"
    print(verify_base(base), read_manifest(base)["revision"] == api.model_info("me/pickled").sha)
    print(sorted(path.suffix for path in base.iterdir()))
    print(main(["convert", "base", "me/absent", "--to", TARGET]))
"""


@pytest.mark.slow
def test_a_pickled_whisper_of_the_hub_becomes_a_base_at_its_commit(pickled, tmp_path):
    code = FROM_HUB.replace("SOURCE", repr(str(pickled))).replace("TARGET", repr(str(tmp_path / "bases")))
    with HubStandIn(tmp_path / "hub") as hub:
        lines = run_python(code, hub.environment(tmp_path / "home")).strip().splitlines()
    assert lines[-3:] == [
        "[] True",
        "['.json', '.json', '.json', '.json', '.json', '.json', '.safetensors']",
        "1",
    ]
