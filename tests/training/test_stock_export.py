"""`speechllm convert stock-whisper`: what stock Whisper can say is exported as it is, else refused."""

import json
import math
import re

import numpy as np
import pytest
import soundfile
import torch
from moved_parameters import move
from speechllm import SpeechLLMForConditionalGeneration
from speechllm.cli.main import main
from speechllm.training.conversion.gate_measure import largest_share
from speechllm.training.trained_parts import set_trained_parts
from transformers import AutoProcessor, WhisperForConditionalGeneration, WhisperProcessor

IDS = torch.tensor([[257, 258, 264, 268, 70, 80, 90], [257, 258, 264, 268, 71, 81, 91]])
LORA = {"r": 2, "target_modules": ["q_proj", "v_proj", "fc1"]}
BANK = {"it": {"encoder": LORA, "decoder": LORA}, "fr": {"decoder": {"r": 4, "target_modules": ["out_proj"]}}}


@pytest.fixture(scope="module")
def features(compose_whisper, clips):
    extractor = compose_whisper()[1].feature_extractor
    return extractor(clips[2:4], sampling_rate=16000, return_tensors="pt").input_features


@pytest.fixture
def manifest(tmp_path, clips):
    rows = []
    for number, clip in enumerate(clips[:2]):
        soundfile.write(tmp_path / f"{number}.wav", clip, 16000)
        rows.append(json.dumps({"audio": f"{number}.wav", "text": "ab", "language": "en"}))
    (tmp_path / "clips.jsonl").write_text("\n".join(rows))
    return str(tmp_path / "clips.jsonl")


def stirred(model, parts: list[str], size: float = 0.1):
    """The model with these parts trained, or as if."""
    set_trained_parts(model, parts)
    move((parameter for parameter in model.parameters() if parameter.requires_grad), size)
    return model.eval()


def saved(model, processor, folder) -> str:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def export(bases, checkpoint, target, *options) -> int:
    return main(
        [
            "convert",
            "stock-whisper",
            checkpoint,
            "--to",
            str(target),
            "--bases",
            str(bases),
            *map(str, options),
        ]
    )


@torch.no_grad()
def check_equal(model, features, folder):
    """The folder holds a plain Whisper with the model's logits and texts, and nothing of ours."""
    stock, info = WhisperForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    wanted = model(input_features=features, decoder_input_ids=IDS).logits
    torch.testing.assert_close(
        stock.eval()(features, decoder_input_ids=IDS).logits, wanted, atol=2e-4, rtol=1e-4
    )
    asked = {"language": "en", "task": "transcribe", "max_new_tokens": 8}
    texts = stock.generate(features, **asked)
    ours = model.generate(features, **asked, stop_loops=False)
    assert texts.tolist() == ours[:, : texts.shape[1]].tolist()
    assert not list(folder.glob("*.py")) and "auto_map" not in json.loads(
        (folder / "config.json").read_text()
    )
    read = AutoProcessor.from_pretrained(folder)
    assert type(read) is WhisperProcessor and read.tokenizer.eos_token == "<|endoftext|>"


@pytest.mark.parametrize("name", ["it", "fr"])
def test_a_bank_with_one_adapter_chosen_is_a_stock_whisper(
    compose_whisper, bases, features, tmp_path, name, capsys
):
    model, processor = compose_whisper(lora_bank=BANK)
    stirred(model, ["bank:*"])
    checkpoint = saved(model, processor, tmp_path / "bank")
    assert export(bases, checkpoint, tmp_path / "plain", "--adapter", name) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "plain")
    base = model(input_features=features, decoder_input_ids=IDS).logits
    model.use_adapters(name)
    assert (model(input_features=features, decoder_input_ids=IDS).logits - base).abs().max() > 0.1
    check_equal(model, features, tmp_path / "plain")


def test_a_trained_base_and_lora_that_is_always_on_are_exported(compose_whisper, bases, features, tmp_path):
    model, processor = compose_whisper(lora_config={"decoder": LORA})
    stirred(model, ["lora", "decoder", "encoder"], 0.03)
    assert export(bases, saved(model, processor, tmp_path / "trained"), tmp_path / "plain") == 0
    check_equal(model, features, tmp_path / "plain")


def shut(model, bias: float):
    """The gate as if trained to the primary: its last layer says about `bias`, and a little by the input."""
    with torch.no_grad():
        for layer in model.model.adapter.layers:
            layer.gate.head.bias[: layer.gate.weights].fill_(bias)
            layer.gate.head.weight[: layer.gate.weights].mul_(0.1)
    return model


def dual(compose_whisper, folder, bias, **fields):
    model, processor = compose_whisper("dual_attention", **fields)
    shut(stirred(model, ["adapter", "decoder"], 0.05), bias)
    return model, saved(model, processor, folder)


@pytest.mark.parametrize(
    "fields", [{}, {"gate": "head"}, {"gate": "channel"}, {"rank": 2}, {"init": "published"}]
)
def test_a_shut_gate_leaves_a_stock_whisper(
    compose_whisper, bases, features, tmp_path, manifest, fields, capsys
):
    model, checkpoint = dual(compose_whisper, tmp_path / "dual", 30.0, **fields)
    assert export(bases, checkpoint, tmp_path / "plain", "--clips", manifest) == 0
    assert "in 2 clips, and changes no text" in capsys.readouterr().err
    check_equal(model, features, tmp_path / "plain")


def test_no_input_gets_past_the_bound(compose_whisper, features, tmp_path):
    model, _ = dual(compose_whisper, tmp_path / "dual", 1.0)
    bound, gates = largest_share(model.model.adapter), [layer.gate for layer in model.model.adapter.layers]
    with torch.no_grad():
        loud = [100 * torch.randn(64, 32, generator=torch.Generator().manual_seed(s)) for s in (1, 2, 3)]
        assert max(float(gate(*loud).secondary.max()) for gate in gates) <= bound
        # An input that the bound is made of: it is no larger than it has to be.
        gates[0].trunk.weight.zero_()
        gates[0].trunk.bias.copy_(-50 * gates[0].head.weight[0].sign())
        reached = float(gates[0](*loud).secondary.max())
    least = 1.0 + gates[0].bias - gates[0].head.weight[0].abs().sum()
    assert math.isclose(reached, float(torch.sigmoid(-least)), rel_tol=1e-4) and reached <= bound + 1e-6


def test_a_gate_that_may_open_is_measured_on_clips(compose_whisper, bases, tmp_path, manifest, capsys):
    model, checkpoint = dual(compose_whisper, tmp_path / "dual", 6.0)
    possible = largest_share(model.model.adapter)
    assert export(bases, checkpoint, tmp_path / "plain") == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"may weigh as much as {possible:.3g}" in said and "--clips" in said and "--ignore-gate" in said
    assert export(bases, checkpoint, tmp_path / "plain", "--tolerance", possible, "--clips", manifest) == 0
    measured = float(re.search(r"weighs at most (\S+) in 2 clips", capsys.readouterr().err)[1])
    assert 0 < measured < possible
    assert (
        export(bases, checkpoint, tmp_path / "other", "--tolerance", measured / 2, "--clips", manifest) == 1
    )
    assert "a stock Whisper cannot say what it says" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_branch_that_changes_a_text_is_not_left_out_however_little_it_weighs(
    compose_whisper, bases, tmp_path, manifest, capsys
):
    model, processor = compose_whisper("dual_attention")
    shut(stirred(model, ["adapter"], 0.05), 8.0)
    with torch.no_grad():
        for layer in model.model.adapter.layers:
            layer.attention.read_proj.weight.mul_(1e5)
    checkpoint = saved(model, processor, tmp_path / "dual")
    assert export(bases, checkpoint, tmp_path / "other", "--clips", manifest, "--tolerance", 0.01) == 1
    said = capsys.readouterr().err
    assert "without the second attention" in said and "instead of" in said


def test_an_open_gate_is_refused_and_may_be_ignored_by_name(
    compose_whisper, bases, features, tmp_path, manifest, capsys
):
    model, checkpoint = dual(compose_whisper, tmp_path / "dual", 0.0)
    assert export(bases, checkpoint, tmp_path / "plain", "--clips", manifest) == 1
    assert not (tmp_path / "plain").exists()
    assert export(bases, checkpoint, tmp_path / "plain", "--ignore-gate") == 0
    assert "left out, whose weight may be as much as" in capsys.readouterr().err
    with pytest.raises(AssertionError):
        check_equal(model, features, tmp_path / "plain")
    check_equal(shut(model, 90.0), features, tmp_path / "plain")


def test_what_a_stock_whisper_does_otherwise_is_said(compose_whisper, bases, tmp_path, capsys):
    labels = {"labels": ["it", "fr", "en"]}
    model, processor = compose_whisper(lora_bank=BANK, router_config=labels, encoder_padding="longest")
    checkpoint = saved(model, processor, tmp_path / "bank")
    assert export(bases, checkpoint, tmp_path / "plain", "--adapter", "it") == 0
    said = capsys.readouterr().err
    assert "clips at their own length" in said and "the router is left out" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "choose one with --adapter; there are fr, it"),
        (["--adapter", "el"], "has no adapter 'el'; there are fr, it"),
    ],
)
def test_an_adapter_has_to_be_one_of_the_bank(compose_whisper, bases, tmp_path, capsys, options, message):
    checkpoint = saved(*compose_whisper(lora_bank=BANK), tmp_path / "bank")
    assert export(bases, checkpoint, tmp_path / "plain", *options) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "plain").exists()


def test_a_bridge_is_no_stock_whisper(compose, bases, tmp_path, capsys):
    assert export(bases, saved(*compose(), tmp_path / "bridge"), tmp_path / "plain") == 1
    assert "an adapter 'mlp' into a language model" in capsys.readouterr().err


def test_the_export_listens_to_the_checkpoint_and_not_to_the_base(compose_whisper, bases, features, tmp_path):
    """The comparisons above could not tell if what is trained were small."""
    model, processor = compose_whisper()
    stirred(model, ["decoder"], 0.05)
    checkpoint = saved(model, processor, tmp_path / "trained")
    again = SpeechLLMForConditionalGeneration.from_pretrained(checkpoint, bases=bases)
    stock = WhisperForConditionalGeneration.from_pretrained(bases / "tiny--whisper_asr").eval()
    with torch.no_grad():
        found = again(input_features=features, decoder_input_ids=IDS).logits
        assert (found - stock(features, decoder_input_ids=IDS).logits).abs().max() > 1
    assert np.isfinite(found.numpy()).all()
