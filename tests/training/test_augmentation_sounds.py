"""What the effects sound like, in numbers: ratios, spectra, decay, bands, codecs."""

import math

import numpy as np
import pytest
import soundfile
from speechllm.training.augmentation.augmentation import build_augmentation
from speechllm.training.augmentation.effects_channel import CODECS
from speechllm.training.augmentation.effects_room import Room
from speechllm.training.augmentation.levels import active_power, measured_snr

RATE = 16000
ALWAYS = {"probability": 1.0}


def power_db(waveform) -> float:
    return 10 * math.log10(np.square(waveform, dtype=np.float64).mean())


def spectrum_db(waveform) -> np.ndarray:
    """[n // 2 + 1], one value a Hz for a second of sound."""
    return 10 * np.log10(np.square(np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))) + 1e-12)


@pytest.fixture
def steady(clips) -> np.ndarray:
    """Sound without pauses: its active level is its level."""
    return clips[5] * np.float32(0.5)


@pytest.mark.parametrize("kind", ["white", "pink", "brown", "hum", "babble"])
@pytest.mark.parametrize("snr_db", [-5, 0, 20, 40])
def test_the_measured_ratio_is_the_one_that_was_asked_for(kind, snr_db, steady, clips):
    augment = build_augmentation({"noise": {**ALWAYS, "kinds": [kind], "snr_db": snr_db}}, 1, clips)
    mixed = augment.mix(steady, RATE, 5, 0)
    # Measured anew, from what came out, over the whole clip.
    tolerance = 0.1 if kind != "babble" else 0.5  # voices pause
    assert power_db(mixed.waveform - mixed.noise) - power_db(mixed.noise) == pytest.approx(
        snr_db, abs=tolerance
    )
    assert mixed.snr_db == pytest.approx(snr_db, abs=0.01)


def test_silence_around_speech_does_not_change_the_noise_on_it(steady):
    augment = build_augmentation({"noise": {**ALWAYS, "kinds": ["white"], "snr_db": 10}}, 1)
    surrounded = np.pad(steady, (3 * RATE, 5 * RATE))
    levels = [power_db(augment.mix(clip, RATE, 0, 0).noise) for clip in (steady, surrounded)]
    assert levels[0] == pytest.approx(levels[1], abs=0.1)


def test_a_click_is_no_measure_of_how_loud_speech_is(steady):
    clicked = steady.copy()
    clicked[1000] = 1.0
    assert 10 * math.log10(active_power(clicked, RATE) / active_power(steady, RATE)) < 0.5


def test_a_mix_that_would_leave_full_scale_is_turned_down_as_a_whole(steady):
    loud = steady / np.abs(steady).max()
    mixed = build_augmentation({"noise": {**ALWAYS, "snr_db": -10}}, 1).mix(loud, RATE, 0, 0)
    assert 0.99 < np.abs(mixed.waveform).max() <= 1
    assert measured_snr(mixed.waveform - mixed.noise, mixed.noise, RATE) == pytest.approx(-10, abs=0.01)
    # Nothing flattened: the speech in it is the speech that went in, at another level.
    speech = mixed.waveform - mixed.noise
    assert np.corrcoef(speech, loud)[0, 1] > 0.99999


def test_noise_on_silence_is_as_loud_as_under_ordinary_speech():
    mixed = build_augmentation({"noise": {**ALWAYS, "kinds": ["white"], "snr_db": 14}}, 1).mix(
        np.zeros(RATE, np.float32), RATE, 0, 0
    )
    assert power_db(mixed.waveform) == pytest.approx(-40, abs=0.1)
    assert mixed.snr_db == -math.inf and np.array_equal(mixed.noise, mixed.waveform)


def test_what_is_mixed_says_so_and_what_is_not_too(steady, clips):
    fields = {"noise": {**ALWAYS, "snr_db": 5}, "competing_speech": {**ALWAYS, "sir_db": 5}}
    both = build_augmentation({**fields, "gain": ALWAYS, "band_limit": ALWAYS}, 1, clips).mix(
        steady, RATE, 5, 0
    )
    assert 1 < both.snr_db < 4.9  # two sources, each 5 dB under the speech
    # Linear effects keep the books: speech alone, put through the same, is the difference.
    alone = build_augmentation({"gain": ALWAYS, "band_limit": ALWAYS}, 1).mix(steady, RATE, 5, 0)
    assert np.allclose(both.waveform - both.noise, alone.waveform, atol=1e-5)
    assert alone.snr_db == math.inf and not alone.noise.any()


def test_competing_speech_is_another_clip_at_its_ratio(steady, clips):
    augment = build_augmentation({"competing_speech": {**ALWAYS, "sir_db": 3}}, 1, clips)
    # Of two clips one is its own; the index, which tells nothing of places in the corpus, is the other's.
    two = build_augmentation({"competing_speech": {**ALWAYS, "sir_db": 3}}, 1, [clips[4], steady])
    for mixer, index, epoch in [(augment, 5, 0), *((two, 0, epoch) for epoch in range(6))]:
        mixed = mixer.mix(steady, RATE, index, epoch)
        assert measured_snr(steady, mixed.noise, RATE) == pytest.approx(3, abs=0.01)
        with_itself = np.corrcoef(mixed.noise, steady)[0, 1]
        assert abs(with_itself) < 0.5


def test_clips_that_cannot_be_read_are_passed_over(steady, clips):
    class Corpus(list):
        def __getitem__(self, index):
            if index != 2:
                raise ValueError("unreadable")
            return {"audio": clips[2]}

    fields = {"competing_speech": ALWAYS}
    augment = build_augmentation(fields, 1, Corpus(range(3)))
    heard = [augment(steady, RATE, 0, epoch) for epoch in range(5)]
    assert all(np.isfinite(one).all() for one in heard)
    broken = build_augmentation(fields, 1, Corpus(range(2)))
    with pytest.raises(ValueError, match="8 clips of the corpus in turn are of no use; the last: unreadable"):
        broken(steady, RATE, 0, 0)


@pytest.mark.parametrize("kind, slope", [("white", 0), ("pink", -3), ("brown", -6)])
def test_noise_falls_with_frequency_as_its_colour_says(kind, slope):
    augment = build_augmentation({"noise": {**ALWAYS, "kinds": [kind]}}, 1)
    spectrum = np.square(np.abs(np.fft.rfft(augment.mix(np.zeros(RATE * 20, np.float32), RATE, 0, 0).noise)))
    low, high = (spectrum[20 * hz : 40 * hz].mean() for hz in (125, 2000))  # an octave each, four apart
    assert 10 * math.log10(high / low) / 4 == pytest.approx(slope, abs=0.2)


def test_hum_is_mains_and_its_harmonics():
    spectrum = spectrum_db(
        build_augmentation({"noise": {**ALWAYS, "kinds": ["hum"]}}, 1)(np.zeros(RATE, np.float32), RATE, 0, 0)
    )
    mains = max((50, 60), key=lambda hz: spectrum[hz])
    assert spectrum[mains] > spectrum[mains + mains // 2] + 40
    assert spectrum[2 * mains] > spectrum[2 * mains + mains // 2] + 30
    assert spectrum[1000:].max() < spectrum[mains] - 60


def test_noise_from_files_comes_from_anywhere_in_them(tmp_path, steady):
    # At another rate, in two channels, under a sub-folder.
    (tmp_path / "street").mkdir()
    tones = np.sin(2 * np.pi * 500 * np.arange(44100) / 44100)
    soundfile.write(tmp_path / "street" / "tone.flac", np.stack([tones, tones], 1) / 2, 44100)
    fields = {"noise": {**ALWAYS, "kinds": ["files"], "folder": str(tmp_path), "snr_db": 5}}
    augment = build_augmentation(fields, 1)
    mixed = augment.mix(steady[: RATE // 2], RATE, 0, 0)
    assert np.abs(np.fft.rfft(mixed.noise)).argmax() == 250
    assert mixed.snr_db == pytest.approx(5, abs=0.01)
    assert len(augment(steady, RATE, 0, 0)) == len(steady)  # four times as long as the file


@pytest.mark.parametrize("decay", [0.3, 0.6, 1.0])
def test_rooms_decay_as_fast_as_they_were_asked_to(decay):
    room = Room(np.array([5.0, 4.0, 2.8]), np.array([1.0, 1.0, 1.5]), np.array([3.0, 2.5, 1.2]), decay)
    response = room.response(RATE, np.random.default_rng(0)).astype(np.float64)
    remaining = np.cumsum(np.square(response)[::-1])[::-1]
    level = 10 * np.log10(remaining / remaining[0])
    five, twenty_five = (int((level < -drop).argmax()) for drop in (5, 25))
    assert 3 * (twenty_five - five) / RATE == pytest.approx(decay, rel=0.15)
    # The tail sets in at the level at which single reflections end.
    join = round(0.06 * RATE)
    step = power_db(response[join - 480 : join]) - power_db(response[join : join + 480])
    assert step == pytest.approx(60 * 480 / RATE / decay, abs=3)
    # The direct sound comes when it must, and not all of the energy is a thump below hearing.
    distance = math.dist([1, 1, 1.5], [3, 2.5, 1.2])
    assert np.abs(response).argmax() == pytest.approx(distance / 343 * RATE, abs=1)
    spectrum = np.square(np.abs(np.fft.rfft(response)))
    assert spectrum[: len(spectrum) // 400].mean() < 10 * spectrum.mean()


def test_reverberation_keeps_level_and_time(steady):
    burst = np.zeros(RATE, np.float32)
    burst[4000:6000] = steady[:2000]
    augment = build_augmentation({"reverberation": {**ALWAYS, "decay_seconds": 0.6}}, 1)
    heard = augment(burst, RATE, 0, 0)
    assert not np.abs(heard[:3900]).max() > 1e-3 and np.abs(heard[4000:4200]).max() > 0.01
    assert np.square(heard[6500:9000]).sum() > 1e-3 * np.square(heard).sum()
    level = 10 * math.log10(active_power(heard, RATE) / active_power(burst, RATE))
    assert level == pytest.approx(0, abs=0.1)


def test_given_impulse_responses_are_used(tmp_path, steady):
    response = np.zeros(2000)
    response[[100, 900]] = 0.5, 0.25
    soundfile.write(tmp_path / "room.wav", response, RATE)
    augment = build_augmentation({"reverberation": {**ALWAYS, "folder": str(tmp_path)}}, 1)
    heard = augment(steady, RATE, 0, 0)
    echoed = steady.copy()
    echoed[800:] += 0.5 * steady[:-800]
    assert np.corrcoef(heard, echoed)[0, 1] > 0.9999


def test_a_narrow_band_keeps_what_is_in_it_and_nothing_else():
    noise = (0.1 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)
    heard = build_augmentation({"band_limit": {**ALWAYS, "low_hz": 300, "high_hz": 3400}}, 1)(
        noise, RATE, 0, 0
    )
    before, after = spectrum_db(noise), spectrum_db(heard)
    assert np.abs(after - before)[320:3350].max() < 1
    assert (after - before)[:200].mean() < -40 and (after - before)[4200:].mean() < -40


def test_clipping_cuts_where_it_should(steady):
    heard = build_augmentation({"clipping": {**ALWAYS, "depth_db": 6}}, 1)(steady, RATE, 0, 0)
    ceiling = np.abs(steady).max() * 10 ** (-6 / 20)
    assert np.abs(heard).max() == pytest.approx(ceiling, rel=1e-4)
    assert np.array_equal(heard[np.abs(steady) < ceiling], steady[np.abs(steady) < ceiling])


@pytest.mark.parametrize(
    "kind, least_db", [("mu_law", 30), ("a_law", 30), ("g711", 25), ("mp3", 8), ("opus", 5)]
)
def test_codecs_lose_something_but_neither_time_nor_speech(kind, least_db):
    seconds = np.arange(RATE * 2) / RATE
    tone = (0.2 * np.sin(2 * np.pi * (300 * seconds + 200 * seconds**2))).astype(np.float32)
    heard = CODECS[kind](tone, RATE)
    assert len(heard) == len(tone)
    ratio = power_db(tone) - power_db(heard - tone)
    assert least_db < ratio < 60


def test_gain_is_held_at_full_scale(steady):
    quiet = build_augmentation({"gain": {**ALWAYS, "gain_db": -20}}, 1)(steady, RATE, 0, 0)
    assert np.allclose(quiet, steady / 10, rtol=1e-5)
    loud = build_augmentation({"gain": {**ALWAYS, "gain_db": 30}}, 1)(steady, RATE, 0, 0)
    assert np.corrcoef(loud, steady)[0, 1] > 0.99999 and 0.99 < np.abs(loud).max() <= 1


def test_speed_changes_length_and_pitch():
    tone = np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE).astype(np.float32) / 2
    faster = build_augmentation({"speed": {**ALWAYS, "factors": [1.1]}}, 1)(tone, RATE, 0, 0)
    assert len(faster) == math.ceil(RATE / 1.1)
    assert np.abs(np.fft.rfft(faster)).argmax() * RATE / len(faster) == pytest.approx(550, abs=2)


def test_speed_makes_no_clip_longer_than_an_encoder_hears():
    slower = build_augmentation({"speed": {**ALWAYS, "factors": [0.9], "max_seconds": 2}}, 1)
    longest_slowed = int(1.8 * RATE)
    for samples, expected in [(longest_slowed, 2 * RATE), (longest_slowed + 1, longest_slowed + 1)]:
        assert len(slower(np.full(samples, 0.1, np.float32), RATE, 0, 0)) == expected
    # A clip of 28 s under the recipes' own fields, which would last 31 s and end a run of Whisper.
    long = np.zeros(28 * RATE, np.float32)
    speed = build_augmentation({"speed": ALWAYS}, 1)
    assert {len(speed(long, RATE, index, 0)) <= 30 * RATE for index in range(8)} == {True}
