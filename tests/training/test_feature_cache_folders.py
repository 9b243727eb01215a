"""A feature cache on disk: what it holds, what interrupts it, and whose it is."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from cached_runs import cached, cached_batch, caching, loss_and_gradients, write_clips
from speechllm.cli.main import main
from speechllm.training.augmentation.augmentation import build_augmentation
from speechllm.training.data.batching import BudgetBatchSampler
from speechllm.training.data.utterances import write_manifest
from speechllm.training.feature_cache import caching as caching_module
from speechllm.training.feature_cache.cached_dataset import CachedFeatures
from speechllm.training.feature_cache.caching import cache_features
from speechllm.training.feature_cache.clip_reading import Clip, length_batches
from speechllm.training.feature_cache.identity import encoder_identity, refuse_uncacheable


@pytest.fixture()
def utterances(clips, tmp_path):
    return write_clips(tmp_path / "sounds", clips)


@pytest.fixture()
def tiny(compose):
    model, processor = compose("whisper", "llama")
    model.freeze_bases()
    return model, processor


def states_of(dataset):
    return [np.array(dataset[index]["encoder_states"]) for index in range(len(dataset))]


def test_interrupted_caching_goes_on_and_computes_nothing_twice(tiny, utterances, tmp_path, monkeypatch):
    folder, one_clip_a_part = tmp_path / "cache", caching(part_bytes=1, batch_seconds=0.1)
    whole = states_of(cached(*tiny, utterances, tmp_path / "whole"))
    write, written = caching_module.write_part, []

    def killed_at_the_third(place, rows):
        if len(written) == 2:
            (place / ".partial-1-x").write_bytes(b"half of a part")
            raise KeyboardInterrupt
        written.append(write(place, rows))

    monkeypatch.setattr(caching_module, "write_part", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        cache_features(*tiny, utterances, folder, one_clip_a_part)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"lacks 4 of 6 clips, clip\d first .* run cache-features again"):
        CachedFeatures(folder, utterances, encoder_identity(*tiny))
    done = cache_features(*tiny, utterances, folder, one_clip_a_part)
    assert (done["encoded"], done["rows"], done["parts"]) == (4, 6, 6)
    assert not list(folder.glob(".partial-*"))
    for one, other in zip(
        whole, states_of(CachedFeatures(folder, utterances, encoder_identity(*tiny))), strict=True
    ):
        # Another batch, so not bit by bit.
        np.testing.assert_allclose(one, other, atol=1e-5)
    again = cache_features(*tiny, utterances, folder, one_clip_a_part)
    assert (again["encoded"], again["rows"], again["parts"]) == (0, 6, 6)


def test_the_same_sound_is_encoded_once_wherever_it_lies(tiny, utterances, tmp_path):
    folder, moved = tmp_path / "cache", tmp_path / "moved"
    cached(*tiny, utterances, folder)
    shutil.copytree(tmp_path / "sounds", moved)
    elsewhere = [replace(item, audio=str(moved / os.path.basename(item.audio))) for item in utterances]
    dataset = CachedFeatures(folder, elsewhere, encoder_identity(*tiny))
    assert [len(states) for states in states_of(dataset)] == [15, 45, 85, 110, 155, 200]
    assert cache_features(*tiny, elsewhere, folder, caching())["encoded"] == 0


def test_a_sound_that_changed_is_missing_until_it_is_cached_again(tiny, utterances, tmp_path):
    folder = tmp_path / "cache"
    cached(*tiny, utterances, folder)
    soundfile.write(utterances[2].audio, np.full(16000, 0.1), 16000)
    with pytest.raises(ValueError, match=r"lacks 1 of 6 clips, clip2 first"):
        CachedFeatures(folder, utterances, encoder_identity(*tiny))
    assert cache_features(*tiny, utterances, folder, caching())["encoded"] == 1
    assert len(CachedFeatures(folder, utterances, encoder_identity(*tiny))[2]["encoder_states"]) == 50


def test_bad_clips_are_counted_by_reason_and_replaced_in_training(tiny, utterances, tmp_path, clips):
    names = {"unreadable": "gone.wav", "not finite": "nan.wav", "too long for the encoder": "long.wav"}
    soundfile.write(tmp_path / "nan.wav", np.full(8000, np.nan, dtype=np.float32), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "long.wav", np.zeros(16000 * 31), 16000)
    bad = [
        replace(utterances[0], audio=str(tmp_path / name), id=name, seconds=0.5) for name in names.values()
    ]
    dataset = cached(*tiny, [*utterances, *bad], tmp_path / "cache")
    manifest = json.loads((tmp_path / "cache" / "cache.json").read_text())
    assert {item["reason"]: item["clip"] for item in manifest["dropped"]} == names
    assert sorted(dataset.failures()) == sorted(names.values()) and len(dataset) == 9
    # The clip that is next shorter, as where the encoder is in the loop.
    assert dataset[7]["id"] == "clip0" and dataset[5]["id"] == "clip5"
    assert (dataset.costs()[:, 0] > 0).all()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"encoder": "hubert_base"}, r"encoder_id='tiny/whisper', but here it is 'tiny/hubert_base'"),
        ({"encoder_padding": "max_length"}, r"encoder_padding='longest', but here it is 'max_length'"),
        ({"dtype": torch.bfloat16}, r"precision='float32', but here it is 'bfloat16'"),
    ],
)
def test_foreign_caches_are_refused_with_both_sides(tiny, compose, utterances, tmp_path, change, told):
    cached(*tiny, utterances, tmp_path / "cache")
    other = compose(**{"encoder": "whisper", "decoder": "llama", **change})
    other[0].freeze_bases()
    for use in (
        lambda: CachedFeatures(tmp_path / "cache", utterances, encoder_identity(*other)),
        lambda: cache_features(*other, utterances, tmp_path / "cache", caching()),
    ):
        with pytest.raises(ValueError, match=f"cache in .* was made with {told}: cache into") as error:
            use()
        assert "\n" not in str(error.value)


def test_an_encoder_that_was_trained_is_another_one_under_the_same_name(tiny, utterances, tmp_path):
    cached(*tiny, utterances, tmp_path / "cache")
    with torch.no_grad():
        tiny[0].model.audio_tower.layers[0].fc1.bias[0] += 1e-3
    with pytest.raises(ValueError, match="encoder_weights="):
        CachedFeatures(tmp_path / "cache", utterances, encoder_identity(*tiny))


def test_storage_is_one_for_a_cache_and_other_folders_are_left_alone(tiny, utterances, tmp_path):
    cached(*tiny, utterances, tmp_path / "cache")
    with pytest.raises(ValueError, match=r"storage='float32', but here it is 'int8'"):
        cache_features(*tiny, utterances, tmp_path / "cache", caching(storage="int8"))
    with pytest.raises(ValueError, match="is not empty and no feature cache"):
        cache_features(*tiny, utterances, tmp_path / "sounds", caching())
    with pytest.raises(ValueError, match="is no feature cache: it has no cache.json"):
        CachedFeatures(tmp_path / "sounds", utterances, encoder_identity(*tiny))


def test_a_damaged_part_is_named(tiny, utterances, tmp_path):
    cached(*tiny, utterances, tmp_path / "cache")
    part = next((tmp_path / "cache").glob("*.arrow"))
    part.write_bytes(part.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=f"{part.name} is no part of a feature cache, or damaged"):
        CachedFeatures(tmp_path / "cache", utterances, encoder_identity(*tiny))


@pytest.mark.parametrize("slot", ["lora_config", "lora_bank", "thawed"])
def test_what_changes_the_encoder_cannot_be_trained_from_a_cache(compose, slot):
    fields = {
        "lora_config": {"lora_config": {"encoder": {"r": 2}}},
        "lora_bank": {"lora_bank": {"it": {"encoder": {"r": 2}}}},
        "thawed": {},
    }[slot]
    model, _ = compose("whisper", "llama", **fields)
    model.freeze_bases()
    if slot == "thawed":
        refuse_uncacheable(model)
        model.model.audio_tower.layers[0].fc1.weight.requires_grad_(True)
    with pytest.raises(ValueError, match="encoder in the loop"):
        refuse_uncacheable(model)


def test_augmented_copies_come_in_turn_and_are_what_augmentation_makes(tiny, utterances, tmp_path):
    recipe = {"speed": {"probability": 1.0}, "spec_augment": {"frequency_masks": 1}}
    augmentation = build_augmentation(recipe, 5)
    dataset = cached(*tiny, utterances, tmp_path / "cache", augmentation, copies=2)
    plain = states_of(cached(*tiny, utterances, tmp_path / "plain"))
    by_epoch = []
    for epoch in range(4):
        dataset.set_epoch(epoch)
        by_epoch.append(states_of(dataset))
    for clip in range(len(utterances)):
        np.testing.assert_allclose(by_epoch[0][clip], plain[clip], atol=1e-5)
        assert np.array_equal(by_epoch[0][clip], by_epoch[3][clip])
        assert by_epoch[1][clip].shape != by_epoch[0][clip].shape or clip == 0
    longest = max(len(states[5]) for states in by_epoch)
    # A slower copy is a longer clip: the budget reckons with the longest.
    assert dataset.costs()[5, 0] == pytest.approx(longest / 50, abs=0.02)
    with pytest.raises(ValueError, match="augmentation=.* but here it is"):
        cache_features(
            *tiny, utterances, tmp_path / "cache", caching(copies=2), build_augmentation(recipe, 6)
        )
    with pytest.raises(ValueError, match="has 2 augmented copies of each clip, but 0 are asked for"):
        cache_features(*tiny, utterances, tmp_path / "cache", caching())


def test_batches_hold_the_budget_whatever_the_lengths():
    generator = np.random.default_rng(1)
    clips = [Clip(None, 0, None, float(seconds)) for seconds in generator.uniform(0.3, 20, 300)]
    for whole in (None, 30.0):
        batches = length_batches(clips, 60.0, whole)
        assert sum(map(len, batches)) == 300
        assert all(len(batch) * (whole or max(clip.seconds for clip in batch)) <= 60 for batch in batches)
        assert len(batches) <= (150 if whole else 70)


def test_a_worker_reads_what_the_main_process_reads(tiny, utterances, tmp_path):
    dataset = cached(*tiny, utterances, tmp_path / "cache", workers=2)
    other = pickle.loads(pickle.dumps(dataset))
    assert all(np.array_equal(a, b) for a, b in zip(states_of(dataset), states_of(other), strict=True))
    sampler = BudgetBatchSampler(dataset.costs(), 8.0)
    assert sorted(index for batch in sampler for index in batch) == list(range(6))


def test_cache_opens_as_an_arrow_dataset(tiny, utterances, tmp_path):
    datasets = pytest.importorskip("datasets")
    cached(*tiny, utterances, tmp_path / "cache")
    rows = datasets.Dataset.from_file(str(next((tmp_path / "cache").glob("*.arrow"))))
    assert sorted(rows["frames"]) == [15, 45, 85, 110, 155, 200]


def cli_words(bases, manifest, folder, *more):
    named = ["--encoder", "tiny/whisper", "--decoder", "tiny/llama", "--bases", str(bases), "--device", "cpu"]
    return ["cache-features", str(manifest), "--to", str(folder), *named, *more]


def test_command_caches_says_what_and_fails_in_one_line(bases, utterances, tmp_path, capsys):
    manifest = tmp_path / "train.jsonl"
    write_manifest(manifest, utterances)
    words = cli_words(bases, manifest, tmp_path / "cache", "--storage", "int8")
    assert main(words) == 0
    assert "6 sounds, 6 rows" in capsys.readouterr().out
    assert main(words) == 0
    assert "encoded now: 0" in capsys.readouterr().out
    assert main([*words, "--storage", "float32"]) == 1
    assert (
        capsys.readouterr()
        .err.strip()
        .splitlines()[-1]
        .startswith("speechllm cache-features: the feature cache")
    )
    recipe = tmp_path / "noisy.yaml"
    recipe.write_text("gain: {probability: 1.0}")
    assert main([*words, "--augment", str(recipe), "--copies", "1"]) == 0
    assert "6 sounds, 12 rows" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_make_the_cache_of_one(bases, tiny, utterances, tmp_path):
    manifest = tmp_path / "train.jsonl"
    write_manifest(manifest, utterances)
    words = cli_words(bases, manifest, tmp_path / "two", "--storage", "float32")
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    start += [f"--master_port={29500 + os.getpid() % 2000}", "-m", "speechllm", *words]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(start, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "encoded now: 6" in done.stdout and done.stdout.count("sounds") == 1
    assert len(list((tmp_path / "two").glob("*.arrow"))) == 2
    identity = encoder_identity(*tiny)
    one = cached(*tiny, utterances, tmp_path / "one")
    for a, b in zip(
        states_of(one), states_of(CachedFeatures(tmp_path / "two", utterances, identity)), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)
    expected = loss_and_gradients(tiny[0], cached_batch(tiny[1], one, [0, 1]))[0]
    assert np.isfinite(expected)
