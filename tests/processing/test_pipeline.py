"""The pipeline: whatever holds sound goes in, the same text comes out, in order and in bounded memory."""

import functools
import http.server
import io
import itertools
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from speechllm import SpeechLLMPipeline, SpeechLLMProcessor
from speechllm.processing import pipeline_speechllm
from speechllm.processing.audio_reading import read_audio
from speechllm.processing.pipeline_speechllm import is_single, joined, token_confidence
from transformers import GenerationConfig, pipeline
from transformers.pipelines.pt_utils import KeyDataset

RATE = 16000


@pytest.fixture(scope="module")
def parts(compose):
    """A tiny `(model, processor)`."""
    return compose()


@pytest.fixture(scope="module")
def asr(parts):
    model, processor = parts
    return SpeechLLMPipeline(model=model, processor=processor, device="cpu", max_new_tokens=12)


@pytest.fixture(scope="module")
def texts(asr, clips):
    """What each clip says by itself."""
    return [asr(clip)["text"] for clip in clips]


@pytest.fixture(scope="module")
def long_clip(clips) -> np.ndarray:
    """All six clips, one after the other: 12.2 s."""
    return np.concatenate(clips)


def wav_bytes(waveform: np.ndarray, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


@pytest.fixture(scope="module")
def wav(clips, tmp_path_factory) -> Path:
    """The fourth clip as a file of 32-bit floats: nothing is lost in it."""
    path = tmp_path_factory.mktemp("audio") / "four th.wav"
    path.write_bytes(wav_bytes(clips[3]))
    return path


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        """Requests are not news."""


@pytest.fixture()
def server(wav):
    """The address of a server of the folder that holds `wav`."""
    handler = functools.partial(Quiet, directory=str(wav.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


class Decoded:
    """Like a decoder of `datasets`: samples `[channels, n]` on demand."""

    def __init__(self, waveform: np.ndarray, rate: int = RATE):
        self.data, self.sample_rate = torch.tensor(waveform)[None], rate

    def get_all_samples(self):
        return self

    def __getitem__(self, key):
        raise AssertionError("a decoder is one source, not a collection")


# --- what goes in ---------------------------------------------------------------------------------------


def test_clips_say_different_things(texts):
    assert all(texts)
    assert len(set(texts)) >= 4


FORMS = {
    "path": lambda clip, wav: wav,
    "path as text": lambda clip, wav: str(wav),
    "file address": lambda clip, wav: wav.as_uri(),
    "bytes": lambda clip, wav: wav.read_bytes(),
    "bytearray": lambda clip, wav: bytearray(wav.read_bytes()),
    "memoryview": lambda clip, wav: memoryview(wav.read_bytes()),
    "binary file": lambda clip, wav: io.BytesIO(wav.read_bytes()),
    "array": lambda clip, wav: clip,
    "float64": lambda clip, wav: clip.astype(np.float64),
    "(n, 2)": lambda clip, wav: np.stack([clip, clip], axis=1),
    "(2, n)": lambda clip, wav: np.stack([clip, clip]),
    "tensor": lambda clip, wav: torch.tensor(clip),
    "list of samples": lambda clip, wav: clip.tolist(),
    "list of numpy's samples": lambda clip, wav: list(clip),
    "array in a dict": lambda clip, wav: {"array": clip, "sampling_rate": RATE},
    "raw in a dict": lambda clip, wav: {"raw": clip, "sampling_rate": RATE},
    "undecoded, in memory": lambda clip, wav: {"path": None, "bytes": wav.read_bytes()},
    "undecoded, on disk": lambda clip, wav: {"path": str(wav), "bytes": None},
    "decoder": lambda clip, wav: Decoded(clip),
}


@pytest.mark.parametrize("form", FORMS)
def test_text_does_not_depend_on_the_form_of_the_source(asr, clips, texts, wav, form):
    assert asr(FORMS[form](clips[3], wav)) == {"text": texts[3]}


def test_addresses_are_fetched(asr, texts, server):
    assert asr(f"{server}/four%20th.wav")["text"] == texts[3]
    with pytest.raises(ValueError, match="404"):
        asr(f"{server}/fifth.wav")


def test_integers_are_scaled(asr, clips):
    integers = (clips[3] * 2**15).round().astype(np.int16)
    assert asr(integers) == asr((integers / 2**15).astype(np.float32))


@pytest.mark.parametrize("key", ["array", "raw"])
def test_other_sampling_rates_are_converted(asr, clips, tmp_path, key):
    narrow = clips[3][::2].copy()
    expected = asr(read_audio({"array": narrow, "sampling_rate": 8000}, RATE))
    assert asr({key: narrow, "sampling_rate": 8000}) == expected
    assert asr(narrow, sampling_rate=8000) == expected
    (tmp_path / "narrow.wav").write_bytes(wav_bytes(narrow, 8000))
    assert asr(tmp_path / "narrow.wav") == expected


def test_dataset_columns_are_transcribed_one_by_one(asr, clips, texts):
    datasets = pytest.importorskip("datasets", reason="it comes with speechllm[train]")
    rows = {"audio": [{"path": None, "bytes": wav_bytes(clip)} for clip in clips]}
    dataset = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))
    for column in (KeyDataset(dataset, "audio"), dataset["audio"]):
        results = asr(column, batch_size=2)
        assert iter(results) is results
        assert [result["text"] for result in results] == texts


def test_lists_and_tuples_give_lists(asr, clips, texts):
    assert [result["text"] for result in asr(list(clips))] == texts
    assert [result["text"] for result in asr(tuple(clips[:2]))] == texts[:2]
    assert asr([]) == []
    assert asr(clips[:1]) == [{"text": texts[0]}]


@pytest.mark.parametrize(("batch_size", "taken_first"), [(1, 1), (2, 4)])
def test_generators_are_read_as_their_results_are_taken(
    asr, clips, texts, monkeypatch, batch_size, taken_first
):
    monkeypatch.setattr(pipeline_speechllm, "WINDOW_BATCHES", 2)
    taken = []

    def sources():
        for number in itertools.count():
            taken.append(number)
            yield clips[number % len(clips)]

    results = asr(sources(), batch_size=batch_size)
    assert taken == []
    assert next(results)["text"] == texts[0]
    assert len(taken) == taken_first
    assert [next(results)["text"] for _ in range(7)] == (texts * 2)[1:8]
    assert len(taken) <= 8 + taken_first
    results.close()


def test_what_is_one_source_and_what_are_many(tmp_path):
    for source in (
        "a.wav",
        tmp_path,
        b"",
        {},
        np.zeros((2, 9)),
        torch.zeros(3),
        [0.1, 0.2],
        io.BytesIO(),
        5,
        None,
    ):
        assert is_single(source), source
    for source in ([], ["a"], [np.zeros(2)], (b"",), iter([]), [[0.1], [0.2]], range(2)):
        assert not is_single(source), source


# --- batches, long audio, memory ------------------------------------------------------------------------


@pytest.mark.parametrize("window_batches", [1, 2, 8])
def test_results_do_not_depend_on_batches_and_windows(
    asr, clips, long_clip, texts, monkeypatch, window_batches
):
    sources = [long_clip, clips[0], clips[5], long_clip[::-1].copy(), clips[2], clips[1]]
    options = {"chunk_length_s": 2.5, "return_timestamps": True, "return_confidence": True}
    one_by_one = [asr(source, batch_size=1, **options) for source in sources]
    assert one_by_one[1]["text"] == texts[0]
    assert len(one_by_one[0]["chunks"]) > 4
    monkeypatch.setattr(pipeline_speechllm, "WINDOW_BATCHES", window_batches)
    for batch_size in (1, 2, 3, 8):
        results = asr(sources, batch_size=batch_size, **options)
        for result, expected in zip(results, one_by_one, strict=True):
            assert result["text"] == expected["text"]
            assert [c["timestamp"] for c in result["chunks"]] == [c["timestamp"] for c in expected["chunks"]]
            assert result["confidence"] == pytest.approx(expected["confidence"], rel=1e-3)


def test_long_audio_is_the_text_of_its_parts_with_their_true_times(asr, long_clip):
    result = asr(long_clip, chunk_length_s=2.5, return_timestamps=True)
    chunks = result["chunks"]
    times = [chunk["timestamp"] for chunk in chunks]
    assert times[0][0] == 0
    assert times[-1][1] == pytest.approx(len(long_clip) / RATE, abs=1e-3)
    for before, after in itertools.pairwise(times):
        assert before[1] == after[0]
    assert all(0 < end - start <= 2.5 for start, end in times)
    assert result["text"] == " ".join(chunk["text"] for chunk in chunks)
    for (start, end), chunk in zip(times, chunks, strict=True):
        # Times are rounded to milliseconds, of 16 samples each.
        part = long_clip[round(start * RATE) : round(end * RATE)]
        assert abs(len(part) / RATE - (end - start)) < 1e-3
        assert isinstance(chunk["text"], str)


def test_parts_of_long_audio_are_heard_as_if_they_were_alone(asr, long_clip):
    segments = list(asr.preprocess(long_clip, pipeline_speechllm.TranscriptionOptions(chunk_length_s=2.5)))
    alone = [asr(segment.waveform)["text"] for segment in segments]
    assert asr(long_clip, chunk_length_s=2.5)["text"] == " ".join(alone)


@pytest.mark.parametrize(
    ("texts", "whole"),
    [
        ([], ""),
        (["one"], "one"),
        (["one", "two", "three"], "one two three"),
        (["\u4f60\u597d\u3002", "\u5929\u6c14"], "\u4f60\u597d\u3002\u5929\u6c14"),
        (["\u4f60\u597d", "hello", "\u5929"], "\u4f60\u597d hello \u5929"),
        (["\uc548\ub155", "\uc138\uacc4"], "\uc548\ub155 \uc138\uacc4"),
    ],
)
def test_parts_are_joined_as_their_script_is_written(texts, whole):
    assert joined(texts) == whole


@pytest.fixture()
def alive(monkeypatch):
    """Counts segments whose sound is in memory: `{"now": ..., "most": ...}`."""
    count = {"now": 0, "most": 0, "all": 0}
    split = pipeline_speechllm.split_audio

    def gone():
        count["now"] -= 1

    def counted(*args):
        for segment in split(*args):
            weakref.finalize(segment.waveform, gone)
            count["now"] += 1
            count["all"] += 1
            count["most"] = max(count["most"], count["now"])
            yield segment

    monkeypatch.setattr(pipeline_speechllm, "split_audio", counted)
    return count


def test_long_audio_is_never_whole_in_memory(asr, alive, monkeypatch):
    monkeypatch.setattr(pipeline_speechllm, "WINDOW_BATCHES", 2)
    noise = 0.1 * np.random.default_rng(0).standard_normal(20 * RATE).astype(np.float32)
    result = asr(noise, batch_size=4, chunk_length_s=0.5, max_new_tokens=2, return_timestamps=True)
    assert alive["all"] == len(result["chunks"]) >= 40
    # A window of 8, and the one that was read when it was full.
    assert 8 <= alive["most"] <= 9
    assert alive["now"] == 0


def test_windows_are_bounded_in_seconds_but_hold_whole_batches(asr, alive, monkeypatch):
    monkeypatch.setattr(pipeline_speechllm, "WINDOW_SECONDS", 1.0)
    noise = 0.1 * np.random.default_rng(0).standard_normal(10 * RATE).astype(np.float32)
    sizes = []
    forward = asr._forward
    monkeypatch.setattr(
        asr, "_forward", lambda batch, options: sizes.append(len(batch)) or forward(batch, options)
    )
    asr(noise, batch_size=4, chunk_length_s=0.5, max_new_tokens=2)
    assert set(sizes[:-1]) == {4}
    assert alive["most"] <= 5


def test_what_shares_a_batch_is_of_about_one_length(asr, clips, monkeypatch):
    seconds = []
    forward = asr._forward

    def watched(batch, options):
        seconds.append([piece.segment.duration for piece in batch])
        forward(batch, options)

    monkeypatch.setattr(asr, "_forward", watched)
    asr([clips[number] for number in (0, 5, 2, 4, 1, 3)], batch_size=2)
    assert seconds == [pytest.approx([4.0, 3.1]), pytest.approx([2.2, 1.7]), pytest.approx([0.9, 0.3])]


def test_an_hour_of_silence_is_not_kept(asr, alive):
    result = asr(np.zeros(3600 * 100, np.float32), sampling_rate=100, chunk_length_s=30)
    assert result["text"] == ""
    assert alive["all"] >= 120
    assert alive["most"] <= 2


def test_results_of_silent_and_empty_sources_do_not_wait_for_others(asr, clips):
    taken = []

    def sources():
        for source in (np.zeros(RATE, np.float32), np.zeros(RATE, np.float32), clips[0]):
            taken.append(0)
            yield source

    results = asr(sources())
    assert next(results)["text"] == ""
    assert len(taken) == 1


# --- options --------------------------------------------------------------------------------------------


def test_confidence_is_a_probability(asr, clips):
    for result in asr(clips, return_confidence=True, return_timestamps=True):
        assert 0 < result["confidence"] <= 1
        assert [chunk["confidence"] for chunk in result["chunks"]] == [result["confidence"]]
    assert asr(clips[0], return_confidence=True, num_beams=2)["confidence"] is None
    assert asr(np.zeros(RATE, np.float32), return_confidence=True)["confidence"] is None


def test_certain_tokens_count_and_padding_does_not():
    ids = torch.tensor([[5, 6, 7, 0, 0], [5, 6, 7, 8, 0]])
    # Row 0 ends after its padding token, which is its end token too; row 1 is cut at 4.
    logprobs = torch.tensor([[0.0, 0.0, -2.0, -2.0, 0.0], [-1.0, 0.0, -1.0, 0.0, 0.0]])
    confidence = token_confidence({"token_logprobs": logprobs}, ids, pad=0)
    assert confidence == pytest.approx([np.exp(-1.0), np.exp(-0.5)])
    assert token_confidence({}, ids, pad=0) == [None, None]


def test_language_is_returned_as_given(asr, clips):
    assert asr(clips[0], language="it", return_language=True)["language"] == "it"
    assert asr(clips[0], return_language=True)["language"] is None


def test_language_task_and_prompt_reach_the_decoder(asr, clips, monkeypatch):
    seen = []
    ask = SpeechLLMProcessor.apply_transcription_request
    monkeypatch.setattr(
        SpeechLLMProcessor,
        "apply_transcription_request",
        lambda self, *args: seen.append(ask(self, *args)) or seen[-1],
    )
    asr(clips[0], language="it", task="translate", prompt="Kubernetes, etcd")
    text = asr.processor.tokenizer.decode(seen[0]["input_ids"][0])
    assert "Translate the speech in Italian into English." in text
    assert "Kubernetes, etcd" in text


def test_options_of_the_call_come_before_those_of_the_construction(parts, clips):
    model, processor = parts
    own = SpeechLLMPipeline(
        model=model, processor=processor, device="cpu", language="it", return_language=True, batch_size=3,
        chunk_length_s=1.0, max_new_tokens=3, generate_kwargs={"num_beams": 2},
    )  # fmt: skip
    assert own._chosen({}).batch_size == 3
    assert own._chosen({}).generate_kwargs == {"max_new_tokens": 3, "num_beams": 2}
    assert own._chosen({"batch_size": 5, "chunk_length_s": 2}).batch_size == 5
    assert own(clips[0])["language"] == "it"
    assert own(clips[0], language="fr")["language"] == "fr"
    assert own(clips[0], language=None)["language"] == "it"
    chosen = own._chosen(own._sanitize_parameters(num_beams=1, generate_kwargs={"top_k": 3})[1])
    assert chosen.generate_kwargs == {"max_new_tokens": 3, "num_beams": 1, "top_k": 3}
    assert len(own(clips[3], return_timestamps=True)["chunks"]) > 1


def test_generation_settings_are_taken_bare_and_in_a_dict(asr, clips, texts):
    shorter = asr(clips[5], max_new_tokens=3)["text"]
    assert len(shorter) < len(texts[5])
    assert asr(clips[5], generate_kwargs={"max_new_tokens": 3})["text"] == shorter
    assert asr(clips[5], generate_kwargs=None)["text"] == texts[5]
    assert asr(clips[5], generation_config=GenerationConfig(max_new_tokens=3))["text"] != ""
    beams = asr(clips[:3], num_beams=2, max_new_tokens=5)
    assert [r["text"] for r in beams] == [asr(c, num_beams=2, max_new_tokens=5)["text"] for c in clips[:3]]
    torch.manual_seed(0)
    sampled = {asr(clips[5], do_sample=True, temperature=5.0)["text"] for _ in range(3)}
    assert len(sampled) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"return_timestamps": "word"}, "no source of word alignment; return_timestamps=True"),
        ({"return_timestamps": "char"}, "return_timestamps is True, False or 'word', not 'char'"),
        ({"langage": "it"}, "no option 'langage'; did you mean 'language'"),
        ({"num_beam": 2}, "no option 'num_beam'; did you mean 'num_beams'"),
        ({"zzzz": 2}, "no option 'zzzz'; there are batch_size, chunk_length_s"),
        ({"save_pretrained": 2}, "no option 'save_pretrained'"),
        ({"chunk_length_s": 31}, "more than 0 and at most 30 for this encoder, not 31"),
        ({"chunk_length_s": 0}, "more than 0 and at most 30"),
        ({"chunk_length_s": -1.0}, "more than 0 and at most 30"),
        ({"chunk_length_s": float("nan")}, "more than 0 and at most 30"),
        ({"chunk_length_s": "10"}, "not '10'"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1 on, not 0"),
        ({"batch_size": "8"}, "not '8'"),
        ({"language": ["it", "fr"]}, "language is one text for all"),
        ({"on_error": "ignore"}, "on_error is 'raise' or 'return', not 'ignore'"),
    ],
)
def test_wrong_options_are_refused_at_once(asr, parts, clips, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        asr(clips[0], **options)
    assert "\n" not in str(caught.value)
    # A generator is not begun, and a pipeline not built.
    with pytest.raises(ValueError, match=message):
        asr(iter(clips), **options)
    model, processor = parts
    with pytest.raises(ValueError, match=message):
        SpeechLLMPipeline(model=model, processor=processor, device="cpu", **options)


def test_unknown_task_is_refused_with_the_known_ones(asr, clips):
    with pytest.raises(ValueError, match="no task 'transcribr'; did you mean 'transcribe'"):
        asr(clips[0], task="transcribr")


def test_several_texts_a_clip_are_refused(asr, clips):
    with pytest.raises(ValueError, match="set num_return_sequences to 1"):
        asr(clips[:2], num_beams=2, num_return_sequences=2)


def test_encoders_without_positions_take_any_chunk_length(compose, clips):
    model, processor = compose("hubert_base")
    own = SpeechLLMPipeline(
        model=model, processor=processor, device="cpu", chunk_length_s=45, max_new_tokens=3
    )
    assert own(np.concatenate([clips[5]] * 8))["text"]
    with pytest.raises(ValueError, match="chunk_length_s must be more than 0 for this encoder, not inf"):
        own(clips[0], chunk_length_s=float("inf"))


def test_silence_is_left_out_and_reported(asr, clips, texts):
    quiet = np.zeros(2 * RATE, np.float32)
    assert asr(quiet) == {"text": "", "guarded": [{"timestamp": (0.0, 2.0), "reason": "silence"}]}
    batch = asr([quiet, clips[3], quiet + 1e-5], batch_size=3)
    assert [result["text"] for result in batch] == ["", texts[3], ""]
    assert "guarded" not in batch[1]
    assert batch[2]["guarded"][0]["reason"] == "silence"
    mixed = asr(np.concatenate([clips[5][: 2 * RATE], quiet]), chunk_length_s=2, return_timestamps=True)
    assert [part["reason"] for part in mixed["guarded"]] == ["silence"]
    assert mixed["guarded"][0]["timestamp"] == mixed["chunks"][-1]["timestamp"]


def test_repetition_is_cut_and_reported(asr, clips):
    letter = asr.processor.tokenizer.convert_tokens_to_ids("h")
    others = [token for token in range(len(asr.processor.tokenizer)) if token != letter]
    result = asr(clips[5], suppress_tokens=others, max_new_tokens=40)
    assert result["guarded"] == [{"timestamp": (0.0, 4.0), "reason": "repetition"}]
    assert 1 <= result["text"].count("h") == len(result["text"]) < 12
    freely = asr(clips[5], suppress_tokens=others, max_new_tokens=40, generate_kwargs={"stop_loops": False})
    assert freely == {"text": "h" * 40}


# --- bad input ------------------------------------------------------------------------------------------


@pytest.fixture()
def bad(tmp_path):
    """Sources that cannot be read, by what is wrong, and what must be said."""
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "letter.wav").write_text("Dear Sir or Madam,\n" * 20)
    (tmp_path / "silent.wav").write_bytes(wav_bytes(np.zeros(0, np.float32)))
    (tmp_path / "nan.wav").write_bytes(wav_bytes(np.full(RATE, np.nan, np.float32)))
    return {
        "empty file": (tmp_path / "empty.wav", r"empty\.wav: empty file"),
        "no samples": (tmp_path / "silent.wav", r"silent\.wav: holds no samples"),
        "empty array": (np.zeros(0, np.float32), "array: holds no samples"),
        "nan file": (tmp_path / "nan.wav", r"nan\.wav: its samples are not a number"),
        "nan array": ({"array": np.full(9, np.nan), "sampling_rate": RATE}, "not a number"),
        "text": (tmp_path / "letter.wav", r"letter\.wav: text, not audio"),
        "missing": (tmp_path / "nowhere.wav", r"nowhere\.wav: no such file"),
        "folder": (tmp_path, "is a directory"),
        "number": (5, "int: is no audio"),
        "nothing": (None, "NoneType: is no audio"),
        "other keys": ({"sound": 1}, r"has keys \['sound'\]"),
    }


BAD = ["empty file", "no samples", "empty array", "nan file", "nan array", "text", "missing", "folder"]
BAD += ["number", "nothing", "other keys"]


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_named_in_one_line(asr, bad, clips, kind):
    source, message = bad[kind]
    with pytest.raises(ValueError, match=message) as caught:
        asr(source)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=message):
        asr([clips[0], source])


def test_all_bad_inputs_are_tried(bad):
    assert set(bad) == set(BAD)


def test_errors_may_be_returned_among_the_results(asr, bad, clips, texts):
    sources = [clips[0], *(source for source, _ in bad.values()), clips[3]]
    results = asr(sources, on_error="return", batch_size=2)
    assert results[0] == {"text": texts[0]}
    assert results[-1] == {"text": texts[3]}
    assert all(set(result) == {"error"} for result in results[1:-1])


def test_one_sample_is_little_but_not_an_error(asr, texts, clips):
    results = asr([{"array": np.full(1, 0.5, np.float32), "sampling_rate": 48000}, clips[0]])
    assert [set(result) for result in results] == [{"text"}, {"text"}]
    assert results[1]["text"] == texts[0]


def test_processor_of_another_model_is_refused_with_both_numbers(parts, compose):
    model, _ = parts
    for other, numbers in (
        (compose(stack_factor=5)[1], "100 .* 125"),
        (compose("hubert_base")[1], r"\d+ .* 125"),
    ):
        with pytest.raises(ValueError, match=f"{numbers}: they are not of one checkpoint") as caught:
            SpeechLLMPipeline(model=model, processor=other)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="needs processor="):
        SpeechLLMPipeline(model=model)


# --- construction ---------------------------------------------------------------------------------------


def test_stock_factory_takes_the_objects(parts, clips, texts):
    model, processor = parts
    made = pipeline(
        "automatic-speech-recognition", model=model, processor=processor, pipeline_class=SpeechLLMPipeline,
        device="cpu", batch_size=2, max_new_tokens=12,
    )  # fmt: skip
    assert isinstance(made, SpeechLLMPipeline)
    assert [result["text"] for result in made(clips)] == texts
    assert made._chosen({}).batch_size == 2


@pytest.fixture()
def checkpoint(asr, bases, tmp_path, monkeypatch):
    """A checkpoint as the pipeline saves it; its code is loaded into a cache of its own."""
    asr.save_pretrained(tmp_path / "checkpoint", include_bases=False)
    monkeypatch.setenv("SPEECHLLM_BASES", str(bases))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return str(tmp_path / "checkpoint")


def test_stock_factory_takes_a_saved_pipeline(checkpoint, clips, texts):
    trusted = pipeline("automatic-speech-recognition", model=checkpoint, trust_remote_code=True, device="cpu")
    assert type(trusted).__name__ == "SpeechLLMPipeline"
    assert [result["text"] for result in trusted(clips, max_new_tokens=12)] == texts
    own = pipeline(
        "automatic-speech-recognition", model=checkpoint, pipeline_class=SpeechLLMPipeline, device="cpu"
    )
    assert type(own) is SpeechLLMPipeline
    assert [result["text"] for result in own(clips, max_new_tokens=12)] == texts


def test_stock_factory_honours_dtype(checkpoint, clips):
    half = pipeline(
        "automatic-speech-recognition", model=checkpoint, trust_remote_code=True, device="cpu",
        dtype=torch.bfloat16,
    )  # fmt: skip
    assert half.model.dtype == torch.bfloat16
    assert half(clips[5], max_new_tokens=4)["text"]


def test_model_trains_after_the_pipeline_used_it(compose, clips):
    model, processor = compose()
    # Bases cache tables while they run (rotary frequencies of long inputs): those of inference mode could
    # not be trained with.
    cached = []
    hook = model.model.language_model.register_forward_hook(
        lambda module, args, outputs: cached.append(outputs.last_hidden_state.is_inference())
    )
    SpeechLLMPipeline(model=model, processor=processor, device="cpu")(clips[5], max_new_tokens=2)
    hook.remove()
    assert set(cached) == {False}
    model.train()
    model(**processor.apply_training_request(clips[:2], ["a", "b"])).loss.backward()
    assert all(p.grad is not None for p in model.model.adapter.parameters())
