"""The grid of models, languages and ranks: every run once, and none beyond the end."""

import json

import pytest
from speechllm.training.experiment_grid import grid_from, read_grid

MODEL = {"id": "x/y", "memory_gb": 1, "hours": [1, 2], "gpus": ["A100"]}


def content(**changes) -> dict:
    return {"models": {"m": MODEL}, "languages": {"hindi": {"code": "hi"}}, "ranks": [8], **changes}


def test_grid_of_the_system_is_eighty_runs_and_no_two_alike():
    grid = read_grid()
    runs = list(grid)
    assert len(grid) == len(runs) == 5 * 4 * 4 == 80
    assert len({(run.model.name, run.language.name, run.rank) for run in runs}) == 80
    assert len({run.name for run in runs}) == 80
    assert [run.index for run in runs] == list(range(80))


def test_numbers_of_runs_are_those_of_the_array():
    grid = read_grid()
    names = ["whisper-small", "whisper-medium", "whisper-large", "owsm-small", "owsm-medium"]
    languages, ranks = ["hindi", "italian", "punjabi", "telugu"], [8, 16, 32, 64]
    for run in grid:
        index = run.index
        assert run.model.name == names[index // 16]
        assert run.language.name == languages[(index % 16) // 4]
        assert run.rank == ranks[index % 4]
    assert grid.run(79).name == "owsm-medium_telugu_r64"
    assert grid.run(0).name == "whisper-small_hindi_r8" and grid.run(0).lora_alpha == 16


@pytest.mark.parametrize("index", [80, 1000, -1])
def test_number_beyond_the_end_is_an_error_that_says_where_it_is(index):
    with pytest.raises(
        IndexError, match=f"no run {index}: 5 models x 4 languages x 4 ranks are runs 0 to 79"
    ):
        read_grid().run(index)


def test_models_are_the_bases_that_are_meant():
    assert {model.name: model.id for model in read_grid().models} == {
        "whisper-small": "openai/whisper-small",
        "whisper-medium": "openai/whisper-medium",
        "whisper-large": "openai/whisper-large-v3",
        "owsm-small": "espnet/owsm_v4_small_370M",
        "owsm-medium": "espnet/owsm_v4_medium_1B",
    }


def test_long_runs_have_the_time_they_take():
    hours = {model.name: model.hours[1] for model in read_grid().models}
    assert hours["whisper-large"] == hours["owsm-medium"] == 48
    memory = {model.name: model.memory_gb for model in read_grid().models}
    assert memory == dict(zip(hours, (32, 48, 64, 32, 64), strict=True))
    assert {language.name: language.code for language in read_grid().languages} == {
        "hindi": "hi",
        "italian": "it",
        "punjabi": "pa",
        "telugu": "te",
    }


def test_grid_of_other_lists_has_its_own_numbers(tmp_path):
    path = tmp_path / "mine.json"
    models = {name: MODEL for name in ("m", "n", "o")}
    languages = {name: {"code": name} for name in ("hi", "it")}
    path.write_text(json.dumps(content(models=models, languages=languages, ranks=[4, 8, 16])))
    grid = read_grid(path)
    assert len({run.name for run in grid}) == 18
    assert grid.run(10).name == "n_it_r8"
    with pytest.raises(IndexError, match="runs 0 to 17"):
        grid.run(18)


def test_faulty_grids_are_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="ranks hold 8 twice"):
        grid_from(content(ranks=[8, 16, 8]))
    with pytest.raises(ValueError, match="no languages"):
        grid_from(content(languages={}))
    with pytest.raises(ValueError, match="ranks hold 0"):
        grid_from(content(ranks=[0]))
    with pytest.raises(ValueError, match="model 'm': memory_gb=1, hours="):
        grid_from(content(models={"m": {**MODEL, "hours": [5, 2]}}))
    with pytest.raises(ValueError, match="no grid 'other'; there are languages_ranks"):
        read_grid("other")
    path = tmp_path / "half.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="half.json is no grid of models, languages and ranks: KeyError"):
        read_grid(path)
