"""Licences, citations, pictures and the training command: each from the config, none by hand."""

import io
import re
import shlex

import pytest
from PIL import Image
from speechllm.hub_cards.architecture import architecture_picture
from speechllm.hub_cards.licences import BASE_LICENCES, base_licence, combined, consequences, data_consequence
from speechllm.hub_cards.model_card import model_card
from speechllm.hub_cards.papers import OF_ADAPTERS, OF_BASES, OF_LOSSES, bibliography, citation
from speechllm.hub_cards.run_facts import read_run
from speechllm.hub_cards.training_command import training_command
from training_runs import composed


def saved(parts, folder):
    for part in parts:
        part.save_pretrained(folder)
    return read_run(folder)


def test_what_is_built_on_artst_is_non_commercial():
    bases = ["MBZUAI/artst_asr_v2", "HuggingFaceTB/SmolLM3-3B"]
    licences = [base_licence(one) for one in bases]
    assert combined(licences).id == "cc-by-nc-4.0"
    said = consequences(zip(bases, licences, strict=True))
    assert said == [
        "**Not for commercial use**: MBZUAI/artst_asr_v2 (cc-by-nc-4.0) is non-commercial, and so is what is "
        "built on it."
    ]


@pytest.mark.parametrize(
    "bases, licence",
    [
        (["openai/whisper-base", "HuggingFaceTB/SmolLM2-135M-Instruct"], "apache-2.0"),
        (["microsoft/speecht5_asr", "openai-community/gpt2"], "mit"),
        (["openai/whisper-base", "meta-llama/Llama-3.2-1B"], "llama3.2"),
        (["openai/whisper-base", "Qwen/Qwen2.5-3B-Instruct"], "cc-by-nc-4.0"),
        (["openai/whisper-base", "somebody/model"], "unknown"),
    ],
)
def test_the_strictest_licence_of_the_bases_is_the_models(bases, licence):
    assert combined(base_licence(one) for one in bases).id == licence


def test_licence_in_the_bases_own_card_counts_more_than_the_table(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHLLM_BASES", str(tmp_path))
    folder = tmp_path / "openai--whisper-base"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-sa-4.0\n---\n# Whisper\n")
    assert combined([base_licence("openai/whisper-base")]).id == "cc-by-nc-sa-4.0"
    (folder / "README.md").write_text("no front matter")
    assert base_licence("openai/whisper-base") == BASE_LICENCES["openai/whisper-*"]


def test_unknown_licence_is_left_out_of_the_metadata_and_said(compose, tmp_path):
    text = model_card(saved(compose(), tmp_path)).text
    assert "\nlicense:" not in text and "The licence of tiny/whisper and tiny/llama_tied is not known" in text


def test_non_commercial_data_is_named():
    assert "CC-BY-NC-4.0" in data_consequence(["CC0-1.0", "CC-BY-NC-4.0"])
    assert data_consequence(["CC0-1.0", "CC-BY-SA-3.0", "GPL-2"]) is None


def test_every_paper_is_in_the_bibliography():
    wanted = {*OF_BASES.values(), *OF_ADAPTERS.values(), *OF_LOSSES.values(), "hu2021lora", "speechllm"}
    assert wanted == set(bibliography())


def test_citation_is_of_what_the_model_rests_on(compose, tmp_path):
    plain = citation(saved(compose(), tmp_path / "plain"))
    assert set(re.findall(r"@\w+\{(\w+),", plain)) == {"speechllm", "radford2022whisper", "ma2024slamasr"}
    assert "VERSION" not in plain
    assert "hu2021lora" in citation(saved(compose(lora_config={"decoder": {"r": 2}}), tmp_path / "lora"))


BANK = {
    "lora_bank": {name: {"encoder": {"r": 2}, "decoder": {"r": 2}} for name in ("ro", "el")},
    "router_config": {"labels": ["ro", "el", "en"]},
}


def test_architecture_is_drawn_for_every_kind_and_shows_its_parts(compose, compose_whisper, tmp_path):
    built = {
        "mlp": compose(),
        "prefix": compose(adapter="prefix"),
        "waveform": compose("hubert_base"),
        "bridge_bank": compose(**BANK),
        "dual": compose_whisper("dual_attention"),
        "bank": compose_whisper("cross_attention", **BANK),
    }
    pictures = {name: architecture_picture(saved(parts, tmp_path / name)) for name, parts in built.items()}
    assert len(set(pictures.values())) == len(pictures)
    for picture in pictures.values():
        image = Image.open(io.BytesIO(picture))
        assert image.width > 900 and len(image.convert("RGB").getcolors(1 << 20)) > 50
    assert pictures["mlp"] == architecture_picture(read_run(tmp_path / "mlp"))


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["+experiment=smoke", "trainer.learning_rate=3e-7", 'name="it\'s odd"'],
        ["adapter=qformer", "data.eval={a-b: {preset: fleurs, language: hi}, test: x y.jsonl}"],
        ["+experiment=debian_bank", "model.lora_bank.ro.decoder.r=4", "trainer.report_to=[tensorboard]"],
        ["+experiment=tiny_audio", "phases=[{name: one, loss: {kind: ctc}, train: [adapter]}]"],
    ],
)
def test_training_command_composes_the_same_configuration(overrides):
    settings = composed(*overrides)
    command = shlex.split(training_command(settings))
    assert command[:2] == ["speechllm", "train"]
    again = composed(*command[2:])
    for one in (settings, again):
        one.pop("output_dir")
    assert again == settings
    assert len(command) <= 4 + len(overrides)


def test_training_command_tells_no_path_of_this_machine():
    settings = composed("data.train=/srv/corpora/mine/train.jsonl")
    assert "data.train=mine/train.jsonl" in training_command(settings)
