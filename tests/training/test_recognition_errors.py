"""Error rates are those of jiwer where jiwer has some, and say what it cannot."""

import os
import subprocess
import sys

import evaluate
import jiwer
import pytest
from speechllm.training.metrics.metric_table import METRICS, load_metric
from speechllm.training.recognition_errors import edit_counts, judge, repeats_itself

SAID = ["the cat sat", "on the mat", "is it so"]
HEARD = ["the cat", "on a mat here", "is it so"]


def test_rates_are_jiwers():
    found = judge(HEARD, SAID)
    assert found["wer"] == pytest.approx(jiwer.wer(SAID, HEARD))
    assert found["cer"] == pytest.approx(jiwer.cer(SAID, HEARD))
    assert (found["substitutions"], found["deletions"], found["insertions"]) == (1, 1, 1)


def test_what_is_heard_in_silence_counts_as_inserted():
    assert edit_counts(["a b", ""], ["", ""])["insertions"] == 2
    found = judge(["", "x y", "c"], ["", "", "c"])
    assert found["wer"] == 2.0 and found["empty_rate"] == 0.0
    assert judge(["", "b"], ["a", "b"])["empty_rate"] == 0.5


@pytest.mark.parametrize(
    "text, loops",
    [
        ("longer longer longer longer", True),
        ("and so on and so on and so on and so on", True),
        ("哈哈哈哈哈哈哈哈", True),
        ("no no no", False),
        ("aaah", False),
        ("it cost 1000000", False),
        ("", False),
    ],
)
def test_loops_are_told_from_speech(text, loops):
    assert repeats_itself(text) == loops


def test_metrics_are_modules_of_evaluate_that_combine():
    metrics = [load_metric(name, "basic") for name in METRICS]
    found = evaluate.combine(metrics).compute(predictions=["The cat!"], references=["the cat sat"])
    assert found["wer"] == pytest.approx(1 / 3)
    assert {"cer", "deletions", "repetition_rate", "empty_rate"} <= set(found)
    assert load_metric("wer").compute(predictions=["The cat"], references=["the cat"])["wer"] == 0.5


def test_metrics_need_no_network(tmp_path):
    code = (
        "from speechllm.training.metrics.metric_table import load_metric\n"
        "print(load_metric('wer').compute(predictions=['a'], references=['b']))"
    )
    env = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "{'wer': 1.0}", done.stderr


def test_unequal_numbers_are_refused():
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        judge(["a"], ["a", "b"])
