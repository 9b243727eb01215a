"""What the pictures of a run show, and what they leave out."""

from speechllm.training.plots import MOST_CURVES, curves_of, plot_history, readable


def history(*sets):
    """Two judgements of some sets, as a trainer logs them, with their means."""
    entries = []
    for step in (10, 20):
        rates = {name: (step + number) / 100 for number, name in enumerate(sets)}
        for measure in ("wer", "cer"):
            own = {f"eval_{name}_{measure}": rate for name, rate in rates.items()}
            entries.append({"step": step, **own, f"eval_{measure}": sum(rates.values()) / len(rates)})
    return entries


def shown(*sets):
    return set(readable(curves_of(history(*sets), ("wer", "cer"))))


def test_sets_are_drawn_with_their_mean_and_a_set_alone_without():
    assert shown("it", "fr") == {
        f"eval_{name}{rate}" for name in ("it_", "fr_", "") for rate in ("wer", "cer")
    }
    assert shown("it") == {"eval_it_wer", "eval_it_cer"}


def test_of_many_sets_there_are_the_word_error_rates_and_the_means():
    names = [f"set{number}" for number in range(MOST_CURVES)]
    assert shown(*names) == {*(f"eval_{name}_wer" for name in names), "eval_wer", "eval_cer"}


def test_what_was_never_logged_is_not_drawn(tmp_path):
    drawn = plot_history([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], tmp_path / "plots")
    assert [path.name for path in drawn] == ["loss.png"]
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"loss.png"}
