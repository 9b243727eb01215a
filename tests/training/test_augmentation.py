"""Augmentation as recipes use it: deterministic, within full scale, wrong fields refused in one line."""

import math
import multiprocessing
import pickle

import numpy as np
import pytest
import soundfile
import torch
from speechllm.training.augmentation.augmentation import EFFECTS, build_augmentation
from speechllm.training.augmentation.noise_sweep import CLEAN, SWEEP_SNRS, SWEEP_SOUNDS, noisy_copies

RATE = 16000
ALWAYS = {"probability": 1.0}
EVERYTHING = {
    **{name: dict(ALWAYS) for name in EFFECTS},
    "noise": {**ALWAYS, "kinds": ["white", "pink", "brown", "hum", "babble"]},
}


def error_of(fields, **options) -> str:
    with pytest.raises(ValueError) as caught:
        build_augmentation(fields, 1, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", EFFECTS)
def test_every_effect_changes_a_clip_and_stays_within_full_scale(name, clips):
    augment = build_augmentation({name: ALWAYS}, 1, clips)
    loud = clips[3] / np.abs(clips[3]).max()
    for index, clip in enumerate([clips[0], clips[3], loud]):
        heard = augment(clip, RATE, index, 0)
        assert heard.dtype == np.float32 and np.isfinite(heard).all() and np.abs(heard).max() <= 1
        assert len(heard) == len(clip) or name == "speed"
        assert len(heard) != len(clip) or np.abs(heard - clip).max() > 1e-4


@pytest.mark.parametrize("name", [name for name in EFFECTS if name != "noise"])
def test_silence_stays_silent_where_no_noise_is_added(name, clips):
    augment = build_augmentation({name: ALWAYS}, 1, clips)
    assert not augment(np.zeros(8000, np.float32), RATE, 0, 0).any()


def test_nothing_is_done_without_effects_and_to_empty_clips(clips):
    assert build_augmentation(None, 1)(clips[1], RATE, 0, 0) is clips[1]
    assert build_augmentation({"gain": None}, 1).effects == {}
    assert len(build_augmentation(EVERYTHING, 1, clips)(np.zeros(0, np.float32), RATE, 0, 0)) == 0


def test_clips_of_a_few_samples_pass_every_effect(clips):
    for name in EFFECTS:
        augment = build_augmentation({name: ALWAYS}, 1, clips)
        for length in (1, 2, 7):
            assert np.isfinite(augment(np.full(length, 0.5, np.float32), RATE, 0, 0)).all(), (name, length)


def test_the_same_seed_index_and_epoch_give_the_same_clip_and_others_another(clips):
    first, again = (build_augmentation(EVERYTHING, 5, clips) for _ in range(2))
    wanted = first(clips[2], RATE, 3, 1)
    for index in (0, 5):  # What came before leaves no trace.
        again(clips[index], RATE, index, 0)
    assert np.array_equal(again(clips[2], RATE, 3, 1), wanted)
    others = [(6, 3, 1), (5, 4, 1), (5, 3, 2)]
    for seed, index, epoch in others:
        other = build_augmentation(EVERYTHING, seed, clips)(clips[2], RATE, index, epoch)
        assert len(other) != len(wanted) or np.abs(other - wanted).max() > 1e-3


def test_an_effect_draws_the_same_whatever_stands_beside_it(clips):
    alone = build_augmentation({"noise": ALWAYS}, 5).mix(clips[2], RATE, 3, 1)
    beside = build_augmentation({"noise": ALWAYS, "gain": {"probability": 0.0}}, 5).mix(clips[2], RATE, 3, 1)
    assert np.array_equal(alone.waveform, beside.waveform) and alone.snr_db == beside.snr_db


def test_the_order_in_a_recipe_does_not_matter(clips):
    one, other = (
        build_augmentation(fields, 5, clips) for fields in (EVERYTHING, dict([*EVERYTHING.items()][::-1]))
    )
    assert np.array_equal(one(clips[2], RATE, 0, 0), other(clips[2], RATE, 0, 0))


def _in_a_worker(pickled) -> np.ndarray:
    augment, clip = pickle.loads(pickled)
    return augment(clip, RATE, 3, 1)


def test_another_process_gives_the_same_clip(clips):
    augment = build_augmentation(EVERYTHING, 5, clips)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        heard = pool.apply(_in_a_worker, [pickle.dumps((augment, clips[2]))])
    assert np.array_equal(heard, augment(clips[2], RATE, 3, 1))


def test_an_effect_comes_as_often_as_it_should(clips):
    augment = build_augmentation({"gain": {"probability": 0.3, "gain_db": -20}}, 1)
    hits = sum(augment(clips[0], RATE, index, 0).max() < 0.1 for index in range(1000))
    assert 250 < hits < 350


def test_what_is_no_clip_is_refused(clips):
    augment = build_augmentation({"gain": ALWAYS}, 1)
    with pytest.raises(ValueError, match="clip 4 is not finite"):
        augment(np.array([0, np.nan], np.float32), RATE, 4, 0)
    with pytest.raises(ValueError, match=r"clip 4 has shape \[2, 100\]"):
        augment(np.zeros((2, 100), np.float32), RATE, 4, 0)


def test_wrong_recipes_are_refused_in_one_line(clips, tmp_path):
    assert "did you mean 'noise'" in error_of({"niose": {}})
    assert "did you mean 'snr_db'" in error_of({"noise": {"snr": [0, 10]}})
    assert "did you mean 'white'" in error_of({"noise": {"kinds": ["wite"]}})
    assert "-30 dB; a sane ratio is -20 to 60 dB" in error_of({"noise": {"snr_db": [-30, 0]}})
    assert "61 dB" in error_of({"competing_speech": {"sir_db": 61}}, corpus=clips)
    assert "lower end comes first" in error_of({"noise": {"snr_db": [10, 0]}})
    assert "two numbers, or one" in error_of({"noise": {"snr_db": [0, 1, 2]}})
    assert "probability is 1.5" in error_of({"gain": {"probability": 1.5}})
    assert "probability is True" in error_of({"gain": {"probability": True}})
    assert "nan" in error_of({"noise": {"snr_db": math.nan}})
    assert "takes a list" in error_of({"noise": {"kinds": "white"}})
    assert "is empty" in error_of({"noise": {"kinds": []}})
    assert "takes fields" in error_of({"noise": 0.5})
    assert "none was given" in error_of({"noise": {"kinds": ["babble"]}})
    assert "holds 1" in error_of({"competing_speech": {}}, corpus=clips[:1])
    assert "whole number" in error_of({"spec_augment": {"time_masks": 1.5}})
    with pytest.raises(ValueError, match="seed"):
        build_augmentation({}, -1)


def test_noise_folders_without_sound_are_refused_in_one_line(tmp_path):
    def fields(folder, kinds=("files",)):
        return {"noise": {"kinds": list(kinds), "folder": folder and str(folder)}}

    assert "holds no sound files" in error_of(fields(tmp_path))
    assert "is no folder" in error_of(fields(tmp_path / "nowhere"))
    assert "folder is not given" in error_of(fields(None))
    soundfile.write(tmp_path / "a.wav", np.ones(100) / 2, RATE)
    assert "kinds are white" in error_of(fields(tmp_path, ["white"]))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "broken.wav").write_bytes(b"RIFF, or not")
    assert "broken.wav cannot be read" in error_of({"reverberation": {"folder": str(tmp_path)}})


@pytest.mark.parametrize("kind", [kind for kind in SWEEP_SOUNDS if kind != "files"])
def test_a_sweep_mixes_one_noise_at_every_ratio(kind, clips):
    copies = noisy_copies(clips[4], kind, seed=2, index=4, corpus=clips)
    assert list(copies) == list(SWEEP_SNRS)
    assert np.array_equal(copies[CLEAN], clips[4])
    # At 10 dB there is the noise of 20 dB, times the square root of 10.
    weak, strong = copies[20.0] - clips[4], copies[10.0] - clips[4]
    assert np.allclose(strong, weak * 10**0.5, atol=1e-6) and weak.any()
    again = noisy_copies(clips[4], kind, seed=2, index=4, corpus=clips)
    assert np.array_equal(copies[0.0], again[0.0])
    assert not np.array_equal(copies[0.0], noisy_copies(clips[4], kind, (0.0,), 3, 4, corpus=clips)[0.0])


def test_a_sweep_refuses_what_it_cannot_mix(clips):
    with pytest.raises(ValueError, match="did you mean 'babble'"):
        noisy_copies(clips[0], "bable")
    with pytest.raises(ValueError, match="a sane ratio"):
        noisy_copies(clips[0], "white", [-40])
    with pytest.raises(ValueError, match="corpus of at least 2; none"):
        noisy_copies(clips[0], "competing_speech")
    with pytest.raises(ValueError, match="there is no folder"):
        noisy_copies(clips[0], "files")


def test_spec_augment_masks_each_row_within_its_length_whatever_the_batch():
    torch.manual_seed(0)
    augment = build_augmentation({"spec_augment": {"time_share": 0.5}}, 5)
    features, lengths = torch.randn(3, 80, 60), torch.tensor([60, 30, 0])
    masked = augment.features(features, lengths, [7, 8, 9], 2)
    assert torch.equal(masked[1, :, 30:], features[1, :, 30:]) and torch.equal(masked[2], features[2])
    changed = masked != features
    assert changed[0].any() and changed[1].any() and not changed[:2].all()
    assert torch.allclose(masked[0][changed[0]], features[0].mean())
    # Whole bands and whole stretches, no wider than asked for.
    bands, stretches = changed[0].all(dim=1), changed[0].all(dim=0)
    assert torch.equal(changed[0], bands[:, None] | stretches[None, :])
    assert bands.sum() <= 2 * 27 and stretches.sum() <= 2 * 30
    alone = augment.features(features[1:2, :, :30], lengths[1:2], [8], 2)
    assert torch.equal(alone[0], masked[1, :, :30])
    assert not torch.equal(augment.features(features, lengths, [7, 8, 9], 3), masked)
    with pytest.raises(ValueError, match=r"\[B, mel, T\]"):
        augment.features(features[0], lengths, [7, 8, 9], 2)
