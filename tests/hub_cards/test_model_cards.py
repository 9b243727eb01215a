"""A model's card says what its run left behind, all of it, and nothing else."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from speechllm.cli.main import main
from speechllm.hub_cards.model_card import model_card
from speechllm.hub_cards.parts import parts
from speechllm.hub_cards.run_facts import read_run


@pytest.fixture
def copied_run(run_folder, tmp_path) -> Path:
    """The run, to be changed."""
    return Path(shutil.copytree(run_folder, tmp_path / "first"))


def rewrite(path: Path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_card_is_read_by_the_hubs_own_classes_without_a_warning(evaluated_card, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        card = ModelCard(evaluated_card.text)
    assert not caplog.records and str(card) == evaluated_card.text
    data = card.data.to_dict()
    assert data["pipeline_tag"] == "automatic-speech-recognition" and data["library_name"] == "transformers"
    assert data["base_model"] == ["tiny/whisper", "tiny/llama"] and data["base_model_relation"] == "adapter"
    assert data["language"] == ["en"] and data["metrics"] == ["wer", "cer"]
    assert data["model-index"][0]["name"] == "my-asr"


def test_numbers_are_those_of_the_evaluation_with_their_intervals(evaluated_card, evaluation_folder):
    text = evaluated_card.text
    results = json.loads((evaluation_folder / "results.json").read_text())
    found = results["results"][0]
    wer, ends = 100 * found["wer"], [100 * found["wer_interval"][end] for end in ("low", "high")]
    assert f"| spoken | 8 | {wer:.1f} ({ends[0]:.1f}–{ends[1]:.1f}) |" in text
    for language in ("en", "ro"):
        assert f"| spoken | {language} | 4 | {100 * found['by_language'][language]['wer']:.1f} (" in text
    noisy = next(row for row in results["noise"] if row["snr_db"] == 0)
    assert f"| spoken | white | 0 dB | 8 | {100 * noisy['wer']:.1f} (" in text
    index = ModelCard(text).data.eval_results
    assert [(one.metric_type, one.metric_value) for one in index if one.dataset_name == "spoken"] == [
        ("wer", round(wer, 2)),
        ("cer", round(100 * found["cer"], 2)),
    ]
    # The sum of all sets is a line of the card, and no data set.
    assert "| all sets | 16 |" in text and {one.dataset_name for one in index} == {"spoken", "other"}
    assert "Counted by the training run" not in text


def test_pictures_of_scores_are_drawn_and_named_in_the_card(evaluated_card):
    card = evaluated_card
    for name in ("architecture", "wer_by_language", "cer_by_snr", "training"):
        assert card.files[f"card/{name}.png"].startswith(b"\x89PNG") and f"(card/{name}.png)" in card.text


def test_without_an_evaluation_the_runs_own_numbers_are_told_as_what_they_are(copied_run):
    rewrite(
        copied_run / "model" / "results.json", lambda values: values["metrics"]["test"].update(wer=0.4321)
    )
    text = model_card(read_run(copied_run)).text
    assert "Counted by the training run" in text and "| test | 2 | 43.2 |" in text


def test_checkpoint_without_results_is_not_evaluated(saved_checkpoint):
    text = model_card(read_run(saved_checkpoint)).text
    assert "**Not evaluated.**" in text and "Nothing is recorded of how it was trained." in text
    data = ModelCard(text).data.to_dict()
    assert "model-index" not in data and "metrics" not in data


def test_sets_of_the_hub_get_an_eval_results_file(run_folder, evaluation_folder, tmp_path):
    shutil.copytree(evaluation_folder, tmp_path / "evaluation")
    named = "preset=fleurs,language=ro"
    rewrite(
        tmp_path / "evaluation" / "results.json", lambda values: values["sets"]["spoken"].update(origin=named)
    )
    card = model_card(read_run(run_folder, tmp_path / "evaluation"))
    entries = parse_eval_result_entries(yaml.safe_load(card.files[".eval_results/spoken.yaml"]))
    wer = ModelCard(card.text).data.eval_results[0]
    assert (entries[0].dataset_id, entries[0].task_id, entries[0].value) == (
        "google/fleurs", "ro_ro", wer.metric_value,
    )  # fmt: skip
    assert (wer.dataset_type, wer.dataset_config, wer.dataset_split) == ("google/fleurs", "ro_ro", "test")
    assert "95 % interval" in entries[0].notes


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--results", "nowhere"], "there are no results"),
        (["--system", "other", "--results", "EVALUATION"], "there are ['model']"),
        (["--results", "MODEL/config.json"], "is not what `speechllm evaluate` writes"),
    ],
)
def test_results_that_do_not_fit_are_one_line(run_folder, evaluation_folder, arguments, said, capsys):
    places = {"EVALUATION": str(evaluation_folder), "MODEL": str(run_folder / "model")}
    for name, place in places.items():
        arguments = [word.replace(name, place) for word in arguments]
    assert main(["card", str(run_folder), *arguments]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_results_of_another_checkpoint_are_not_taken_for_this_one(copied_run, evaluation_folder, capsys):
    assert main(["card", str(copied_run), "--results", str(evaluation_folder)]) == 1
    assert "say which it is with --system" in capsys.readouterr().err
    assert main(["card", str(copied_run), "--results", str(evaluation_folder), "--system", "model"]) == 0


def test_counts_of_parameters_are_the_models(run_folder, bases):
    from speechllm import SpeechLLMForConditionalGeneration

    model = SpeechLLMForConditionalGeneration.from_pretrained(run_folder / "model", bases=bases)
    counts = model.parameter_counts()
    found = {part.name: part for part in parts(read_run(run_folder))}
    assert sum(part.total for part in found.values()) == counts["total"]
    assert sum(part.trained for part in found.values()) == counts["trainable"]
    assert found["encoder"].total == counts["audio_tower"] and found["encoder"].trained == 0


def test_self_contained_checkpoint_counts_only_what_was_trained(compose, tmp_path):
    model, processor = compose()
    for folder, bases_too in (("small", False), ("whole", True)):
        model.save_pretrained(tmp_path / folder, include_bases=bases_too)
        processor.save_pretrained(tmp_path / folder)
    assert parts(read_run(tmp_path / "small")) == parts(read_run(tmp_path / "whole"))


def test_card_names_no_path_of_this_machine(evaluated_card, run_folder, tmp_path):
    text = evaluated_card.text
    assert str(run_folder.parent) not in text and str(tmp_path.parent) not in text


def test_texts_of_strangers_cannot_break_the_tables(run_folder, evaluation_folder, tmp_path):
    shutil.copytree(evaluation_folder, tmp_path / "evaluation")
    for transcripts in (tmp_path / "evaluation" / "transcripts").glob("model.*.jsonl"):
        rows = [json.loads(line) for line in transcripts.read_text().splitlines()]
        for row in rows[1:]:
            row["text"] = "a | b\n<script>x</script> c d e f"
        transcripts.write_text("\n".join(map(json.dumps, rows)))
    text = model_card(read_run(run_folder, tmp_path / "evaluation")).text
    assert "a \\| b &lt;script>x&lt;/script> c d e f" in text


def test_card_of_no_checkpoint_is_one_line(tmp_path, capsys):
    assert main(["card", str(tmp_path)]) == 1
    assert "holds neither a checkpoint" in capsys.readouterr().err
    assert main(["card", str(tmp_path / "nothing")]) == 1
    assert "no such folder" in capsys.readouterr().err
