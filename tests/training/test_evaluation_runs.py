"""Systems run over sets: each sound once, restartable, under exact noise."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from evaluation_corpus import evaluated, ours, save_checkpoint, write_corpus
from speechllm.training.augmentation.levels import measured_snr
from speechllm.training.data.utterances import Utterance
from speechllm.training.evaluation.evaluation_sets import (
    Condition,
    NoiseSweep,
    clean_sound,
    noisy_sound,
    read_set,
    sound_identity,
)
from speechllm.training.evaluation.evaluation_settings import EvaluationSettings
from speechllm.training.evaluation.machine import RECOGNIZING, PeakMemory, versions
from speechllm.training.evaluation.provider_base import Heard, SpeechClip
from speechllm.training.evaluation.running import Run
from speechllm.training.evaluation.system_runs import Loaded
from speechllm.training.evaluation.systems import System
from speechllm.training.evaluation.transcripts import read_run, run_key, write_run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, clips):
    return write_corpus(tmp_path_factory.mktemp("corpus"), clips)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, compose_whisper):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "ours", compose_whisper)


@pytest.fixture(scope="module")
def stock(tmp_path_factory, bases):
    """A folder of bases with a tiny stock Whisper, whose tokenizer is stock as well."""
    root = tmp_path_factory.mktemp("stock")
    folder = root / "tiny--stock"
    shutil.copytree(bases / "tiny--whisper_asr", folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "WhisperTokenizer"
    # As in bases that were converted: a batch needs a pad token all the same.
    settings.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return root


def test_stock_models_run_by_the_name_of_their_base(stock, corpus, monkeypatch):
    import transformers

    monkeypatch.setenv("SPEECHLLM_BASES", str(stock))
    options = {"language": "given", "batch_size": "3", "max_new_tokens": "4"}
    provider = System("stock", "transformers", "tiny/stock", options).provider()
    provider.load()
    sounds = [clean_sound(read_set(str(corpus)))(place) for place in range(3)]
    languages = ("it", "en", "it")
    heard = provider.transcribe([SpeechClip(*pair) for pair in zip(sounds, languages, strict=True)])
    pipeline = transformers.pipeline("automatic-speech-recognition", model=str(stock / "tiny--stock"))
    for one, sound, language in zip(heard, sounds, languages, strict=True):
        # Untold, the stock pipeline takes five beams.
        asked = {"language": language, "num_beams": 1, "do_sample": False, "max_new_tokens": 4}
        alone = pipeline({"raw": sound, "sampling_rate": 16000}, generate_kwargs=asked)
        assert one.text == alone["text"].strip() and one.language is None
    assert provider.configuration()["dtype"] == "float32" and provider.configuration()["parameters"] > 1000


def test_a_stock_model_alone_in_its_batch_tells_the_language(stock, corpus, monkeypatch):
    monkeypatch.setenv("SPEECHLLM_BASES", str(stock))
    options = {"batch_size": "1", "max_new_tokens": "4"}
    provider = System("x", "transformers", "tiny/stock", options).provider()
    provider.load()
    sound = clean_sound(read_set(str(corpus)))(5)
    assert provider.transcribe([SpeechClip(sound, None)])[0].language in ("en", "it", "fr", "be", "el")


def test_a_stock_model_hears_all_of_a_clip_of_more_than_30_seconds(stock, clips, monkeypatch):
    monkeypatch.setenv("SPEECHLLM_BASES", str(stock))
    provider = System("x", "transformers", "tiny/stock", {"language": "en", "max_new_tokens": "4"}).provider()
    provider.load()
    long = np.tile(clips[5], 9)
    heard = provider.transcribe([SpeechClip(clips[1], None), SpeechClip(long, None)])
    assert [one.error for one in heard] == [None, None]
    assert heard[0] == provider.transcribe([SpeechClip(clips[1], None)])[0]


def test_a_model_of_ctc_is_told_no_language(bases, tmp_path, corpus):
    from transformers import Wav2Vec2CTCTokenizer

    folder = tmp_path / "hubert"
    shutil.copytree(bases / "tiny--hubert_base", folder)
    letters = {
        letter: place for place, letter in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefg"])
    }
    (folder / "vocab.json").write_text(json.dumps(letters))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    provider = System("x", "transformers", str(folder)).provider()
    provider.load()
    sounds = [SpeechClip(clean_sound(read_set(str(corpus)))(place), "en") for place in (1, 2)]
    assert len(provider.transcribe(sounds)) == 2
    with pytest.raises(ValueError, match="is told no language: leave language= out"):
        System("x", "transformers", str(folder), {"language": "en"}).provider().load()


def test_faster_whisper_runs_on_converted_weights(bases, tmp_path, corpus):
    pytest.importorskip("faster_whisper")
    converters = pytest.importorskip("ctranslate2.converters")
    from transformers import AutoTokenizer

    folder = tmp_path / "converted"
    converters.TransformersConverter(str(bases / "tiny--whisper_asr")).convert(str(folder))
    AutoTokenizer.from_pretrained(bases / "tiny--whisper_asr").save_pretrained(folder)
    provider = System("x", "faster-whisper", str(folder), {"language": "given"}).provider()
    provider.load()
    sounds = [SpeechClip(clean_sound(read_set(str(corpus)))(place), "it") for place in (1, 2)]
    heard = provider.transcribe(sounds)
    assert heard == provider.transcribe(sounds) and all(one.error is None for one in heard)
    assert provider.configuration()["compute_type"].startswith(("int8", "float32"))


def test_what_is_there_is_not_computed_again(checkpoint, corpus, tmp_path):
    first = evaluated([ours(checkpoint)], corpus, tmp_path)
    path = tmp_path / "transcripts" / "ours.test.jsonl"
    rows = path.read_text(encoding="utf-8").split("\n")
    # Had it been computed again, this would be gone.
    rows[1] = json.dumps({**json.loads(rows[1]), "text": "from the file\u2028and on"}, ensure_ascii=False)
    path.write_text("\n".join(rows), encoding="utf-8")
    again = evaluated([ours(checkpoint)], corpus, tmp_path).result("ours", "test")
    assert again.run.reused and not first.result("ours", "test").run.reused
    assert again.clips.heard[0].text == "from the file\u2028and on"
    assert again.run.processing_seconds == first.result("ours", "test").run.processing_seconds
    # A text that was mended needs no new transcripts.
    mended = corpus.with_name("mended.jsonl")
    mended.write_text(corpus.read_text().replace("four five", "four five six"))
    scored = evaluated([ours(checkpoint)], f"test={mended}", tmp_path).result("ours", "test")
    assert scored.run.reused and scored.score.said_words == again.score.said_words + 1
    fresh = evaluated([ours(checkpoint)], corpus, tmp_path, fresh=True).result("ours", "test")
    assert not fresh.run.reused and fresh.clips.heard == first.result("ours", "test").clips.heard


def test_a_system_is_loaded_when_it_has_to_be_and_then_released(checkpoint, corpus, tmp_path):
    import gc
    import weakref

    settings = EvaluationSettings(folder=tmp_path)
    loaded = Loaded("ours", ours(checkpoint).provider(), settings)
    chosen = read_set(str(corpus), limit=1)
    assert loaded.provider.engine is None
    loaded.run(chosen, None)
    model = weakref.ref(loaded.provider.engine.model)
    loaded.release()
    gc.collect()
    assert model() is None
    again = Loaded("ours", ours(checkpoint).provider(), settings)
    assert again.run(chosen, None).reused and again.provider.engine is None


def key_of(system, manifest, sweep=None, condition=None, seed=0):
    """What a transcript is kept under."""
    sounds = sound_identity(read_set(str(manifest)), condition, sweep, seed)
    return run_key(system.provider().identity(), sounds, versions(RECOGNIZING))


def test_whatever_changes_what_is_heard_changes_what_a_transcript_is_kept_under(checkpoint, clips, tmp_path):
    own = tmp_path / "model"
    shutil.copytree(checkpoint, own)
    manifest = write_corpus(tmp_path / "corpus", clips)
    sweep = NoiseSweep(("white",))
    keys = [key_of(ours(own), manifest), key_of(ours(own, num_beams="2"), manifest)]
    keys += [
        key_of(ours(own), manifest, sweep, Condition("white", snr), seed)
        for snr, seed in ((0.0, 0), (5.0, 0), (0.0, 1))
    ]
    os.utime(own / "model.safetensors", ns=(1, 1))
    keys.append(key_of(ours(own), manifest))
    words = tmp_path / "words.txt"
    for listed in ("one", "one\ntwo"):
        words.write_text(listed)
        keys.append(key_of(ours(own, num_beams="2", word_list=str(words)), manifest))
    soundfile.write(tmp_path / "corpus" / "test-1.wav", clips[2], 16000)
    keys.append(key_of(ours(own), manifest))
    manifest.write_text(manifest.read_text().replace('"language": "fr"', '"language": "it"'))
    keys.append(key_of(ours(own), manifest))
    assert len({*keys}) == len(keys)
    assert key_of(ours(own), manifest) == keys[-1] == key_of(ours(own, "of another name"), manifest)


def test_what_lies_around_changes_nothing(checkpoint, clips, tmp_path, monkeypatch):
    manifest = write_corpus(tmp_path / "corpus", clips)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    key = key_of(ours(checkpoint), manifest)
    (tmp_path / "here" / "new.txt").write_text("new")
    assert key_of(ours(checkpoint), manifest) == key


def test_a_word_list_reaches_the_pipeline(checkpoint, clips, tmp_path):
    (tmp_path / "words.txt").write_text("a\n")
    provider = ours(checkpoint, num_beams="2", word_list=str(tmp_path / "words.txt")).provider()
    provider.load()
    seen, generate = [], provider.engine.model.generate
    provider.engine.model.generate = lambda **given: seen.append(given) or generate(**given)
    assert len(provider.transcribe([SpeechClip(clips[0], "it")])) == 1
    assert [(one["num_beams"], one["num_return_sequences"]) for one in seen] == [(2, 2)]


def test_damaged_and_foreign_transcripts_are_no_transcripts(tmp_path):
    path = tmp_path / "x.jsonl"
    items = tuple(Utterance(f"{name}.wav", "text") for name in "ab")
    run = Run((Heard("one"), Heard(error="gone")), (1.0, 2.0), 3.0, {"kind": "x"}, {})
    write_run(path, "key", run, items)
    assert read_run(path, "key", 2) == replace(run, reused=True)
    assert read_run(path, "other", 2) is None and read_run(path, "key", 3) is None
    whole = path.read_text()
    for damaged in (whole[:-30], "", "[]", "not json", whole.replace('"seconds"', '"second"')):
        path.write_text(damaged)
        assert read_run(path, "key", 2) is None
    assert read_run(tmp_path / "none.jsonl", "key", 2) is None


def test_noise_lies_exactly_so_far_below_and_is_the_same_every_time(corpus):
    chosen, sweep = read_set(str(corpus)), NoiseSweep(kinds=("white", "babble"))
    for kind in sweep.kinds:
        loud = noisy_sound(chosen, Condition(kind, -5.0), sweep, seed=1)
        quiet = noisy_sound(chosen, Condition(kind, 20.0), sweep, seed=1)
        speech, noise = clean_sound(chosen)(4), quiet(4) - clean_sound(chosen)(4)
        assert measured_snr(speech, noise, 16000) == pytest.approx(20.0, abs=0.05)
        assert np.array_equal(loud(4), noisy_sound(chosen, Condition(kind, -5.0), sweep, seed=1)(4))
        assert not np.array_equal(loud(4), noisy_sound(chosen, Condition(kind, -5.0), sweep, seed=2)(4))
        # The same stretch of noise, louder; the whole may have been turned down.
        heard = loud(4)
        scale = np.dot(heard, speech) / np.dot(speech, speech)
        correlation = np.corrcoef(heard - scale * speech, noise)[0, 1]
        assert correlation > 0.99


def test_a_clip_has_its_noise_whatever_other_clips_are_evaluated(corpus):
    whole, sweep = read_set(str(corpus)), NoiseSweep(kinds=("white", "babble"))
    italian = read_set(str(corpus), languages=["it"])
    for kind in sweep.kinds:
        condition = Condition(kind, 0.0)
        one, other = (noisy_sound(chosen, condition, sweep, 0) for chosen in (whole, italian))
        assert np.array_equal(one(3), other(1))


def test_babble_is_made_of_other_clips_and_those_are_part_of_what_was_computed(corpus, tmp_path, clips):
    voices = read_set(str(write_corpus(tmp_path, [clip[::-1].copy() for clip in clips], "voices"))).neighbours
    chosen, condition = read_set(str(corpus)), Condition("babble", 0.0)
    own, foreign = NoiseSweep(("babble",)), NoiseSweep(("babble",), babble=voices)
    assert not np.array_equal(
        noisy_sound(chosen, condition, own, 0)(5), noisy_sound(chosen, condition, foreign, 0)(5)
    )
    identities = [sound_identity(chosen, condition, sweep, 0) for sweep in (own, foreign)]
    assert identities[0] != identities[1]
    white = [sound_identity(chosen, Condition("white", 0.0), sweep, 0) for sweep in (own, foreign)]
    assert white[0] == white[1] != sound_identity(chosen, None, own, 0)


def test_peak_memory_is_counted_from_when_the_system_is_loaded():
    earlier = np.ones(60_000_000, dtype=np.uint8)
    del earlier
    memory = PeakMemory()
    held = np.ones(120_000_000, dtype=np.uint8)
    facts = memory.facts()
    assert facts["peak_bytes"] - facts["before_bytes"] > 100e6 and held.any()
    if facts["since"] == "loading the system":
        del held
        assert PeakMemory().facts()["peak_bytes"] < facts["peak_bytes"]
