"""`speechllm transcribe`: what is named is heard, a bad file spoils no other, and nothing is half written."""

import io
import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from speechllm import SpeechLLMConfig, device_choice
from speechllm.cli.main import main
from speechllm.cli.transcribe import MODEL_VARIABLE
from speechllm.configuration.base_resolution import MANIFEST
from speechllm.processing.pipeline_speechllm import SpeechLLMPipeline

RATE = 16000
# One for each of `clips`, in the order in which a folder is read.
GOOD = ["a.wav", "b.flac", "c.ogg", "d.WAV", "sub/a.wav", "sub/e.wav"]
# ogg is lossy; the others hold 16 bits.
EXACT = [0, 1, 3, 4, 5]


@pytest.fixture(scope="module")
def checkpoint(compose, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model, processor = compose()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected(compose, clips):
    """What the pipeline says of each clip, alone, in float32."""
    model, processor = compose()
    pipeline = SpeechLLMPipeline(model, processor, device="cpu")
    # Through 16 bits, as the files hold them.
    return [" ".join(pipeline(np.round(clip * 32768) / 32768)["text"].split()) for clip in clips]


@pytest.fixture
def talks(tmp_path, clips, monkeypatch):
    """`talks/` with six clips, two of them in a sub-folder, and what is no audio; the test runs above it."""
    for path, clip in zip(GOOD, clips, strict=True):
        file = tmp_path / "talks" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, clip, RATE)
    (tmp_path / "talks" / "notes.txt").write_text("no audio")
    (tmp_path / "talks" / "._a.wav").write_text("hidden")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "talks"


@pytest.fixture
def transcribe(checkpoint, bases, capsys):
    """`transcribe(words...)` -> (exit code, stdout, stderr)."""

    def call(*words, dtype="float32"):
        options = ["--model", checkpoint, "--bases", bases, "--device", "cpu", "--dtype", dtype]
        code = main(["transcribe", *map(str, options), *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_one_file_is_its_text(transcribe, talks, expected):
    assert transcribe("talks/a.wav") == (0, expected[0] + "\n", "")


def test_several_files_are_lines_of_path_and_text_in_their_order(transcribe, talks, expected):
    code, out, _ = transcribe("talks/d.WAV", "talks/b.flac", "talks/d.WAV")
    lines = [["talks/d.WAV", expected[3]], ["talks/b.flac", expected[1]], ["talks/d.WAV", expected[3]]]
    assert code == 0 and [line.split("\t") for line in out.splitlines()] == lines


def test_a_folder_is_its_audio_files_sorted_with_sub_folders(transcribe, talks):
    code, out, err = transcribe("talks")
    found = [line.split("\t")[0] for line in out.splitlines()]
    assert (code, found, err) == (0, [f"talks/{name}" for name in GOOD], "")


def test_a_pattern_that_no_shell_expanded_is_expanded(transcribe, talks):
    assert transcribe("talks/**/*.wav")[1].count("\n") == 3
    code, out, err = transcribe("talks/*.mp3", "talks/a.wav")
    assert code == 1 and out.startswith("talks/a.wav\t")
    assert err == "speechllm transcribe: talks/*.mp3: no such file, and none matches it as a pattern\n"


def test_a_file_whose_name_is_a_pattern_is_that_file(transcribe, talks, expected):
    (talks / "a.wav").rename(talks / "a[1].wav")
    assert transcribe("talks/a[1].wav") == (0, expected[0] + "\n", "")


def test_standard_input_is_an_audio_file(transcribe, talks, expected, monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO((talks / "b.flac").read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert transcribe("-") == (0, expected[1] + "\n", "")
    assert transcribe("-", "-")[0] == 1


def test_an_address_is_downloaded(transcribe, talks, expected):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(talks)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        assert transcribe(f"{address}/a.wav") == (0, expected[0] + "\n", "")
        code, out, err = transcribe(f"{address}/missing.wav?key=secret")
    finally:
        server.shutdown()
        server.server_close()
    assert (code, out) == (1, "") and "404" in err and "secret" not in err


def test_json_tells_times_confidence_and_what_was_left_out(transcribe, talks, expected):
    silence = np.zeros(2 * RATE, dtype=np.float32)
    soundfile.write(talks / "silence.wav", silence, RATE)
    code, out, _ = transcribe("--format", "json", "--language", "it", "talks/d.WAV", "talks/silence.wav")
    spoken, silent = map(json.loads, out.splitlines())
    assert code == 0
    assert (spoken["path"], spoken["language"], spoken["duration"]) == ("talks/d.WAV", "it", 2.2)
    assert [chunk["timestamp"] for chunk in spoken["chunks"]] == [[0.0, 2.2]]
    assert 0 < spoken["confidence"] <= 1 and 0 < spoken["chunks"][0]["confidence"] <= 1
    assert "silence" not in {part["reason"] for part in spoken["guarded"]}
    assert (silent["text"], silent["confidence"]) == ("", None)
    assert silent["guarded"] == [{"timestamp": [0.0, 2.0], "reason": "silence"}]


def test_confidence_is_a_column_of_text(transcribe, talks, expected):
    confidence, text = transcribe("--confidence", "talks/a.wav")[1].rstrip("\n").split("\t")
    assert 0 < float(confidence) <= 1 and text == expected[0]
    assert transcribe("--confidence", "--format", "srt", "talks/a.wav")[0] == 1


@pytest.mark.parametrize(
    "name, begins", [("srt", "1\n00:00:00,000 --> 00:00:0"), ("vtt", "WEBVTT\n\n00:00:00.000 -->")]
)
def test_subtitles_are_of_the_chunks(transcribe, talks, name, begins):
    code, out, _ = transcribe("--format", name, "--chunk-seconds", "1.5", "talks/sub/e.wav")
    assert code == 0 and out.startswith(begins) and out.count(" --> ") == 4
    code, out, err = transcribe("--format", name, "talks")
    assert (code, out) == (1, "") and "name a folder with --output" in err


@pytest.mark.parametrize(
    "name, suffix", [("text", ".txt"), ("json", ".json"), ("srt", ".srt"), ("vtt", ".vtt")]
)
def test_an_output_folder_gets_one_file_per_input(transcribe, talks, tmp_path, name, suffix):
    code, out, _ = transcribe("--format", name, "--output", tmp_path / "new" / "out", "talks")
    assert (code, out) == (0, "")
    written = sorted(os.listdir(tmp_path / "new" / "out"))
    names = ["b", "c", "d", "e", "sub-a.wav", "talks-a.wav"]
    assert written == [stem + suffix for stem in names]
    assert all((tmp_path / "new" / "out" / file).read_text() for file in written)


def test_files_in_an_output_folder_hold_the_text_alone(transcribe, talks, tmp_path, expected):
    assert transcribe("--output", tmp_path / "out", "talks/b.flac", "talks/d.WAV")[0] == 0
    assert (tmp_path / "out" / "b.txt").read_text() == expected[1] + "\n"


def test_an_output_file_holds_what_would_be_printed_in_the_format_of_its_suffix(transcribe, talks, tmp_path):
    printed = transcribe("--format", "json", "talks")[1]
    assert transcribe("--output", tmp_path / "all.jsonl", "talks") == (0, "", "")
    assert (tmp_path / "all.jsonl").read_text() == printed
    assert transcribe("--output", tmp_path / "one.srt", "talks/a.wav")[0] == 0
    assert " --> " in (tmp_path / "one.srt").read_text()


@pytest.fixture
def damaged(talks, clips):
    """Among the good files: an empty one, text, samples that are no numbers early and late, a cut file."""
    (talks / "b-empty.wav").write_bytes(b"")
    (talks / "b-text.wav").write_text("no audio")
    long = np.concatenate(clips)
    late, early = long.copy(), long.copy()
    late[-5], early[5] = np.nan, np.nan
    soundfile.write(talks / "b-late.wav", late, RATE, subtype="FLOAT")
    soundfile.write(talks / "b-nan.wav", early, RATE, subtype="FLOAT")
    (talks / "sub" / "cut.wav").write_bytes((talks / "sub" / "e.wav").read_bytes()[:40000])
    return {"b-empty.wav", "b-text.wav", "b-late.wav", "b-nan.wav", "sub/cut.wav"}


# With batches of one, windows are so short that the late error comes after parts of its file were computed.
@pytest.mark.parametrize("options", [[], ["--batch-size", "1", "--chunk-seconds", "1"]])
def test_bad_files_are_told_and_the_others_go_on(transcribe, talks, damaged, tmp_path, options):
    whole = dict(line.split("\t") for line in transcribe("talks", *options)[1].splitlines())
    code, out, err = transcribe("--output", tmp_path / "out", *options, "talks", "talks/missing.wav")
    assert (code, out) == (1, "")
    told = [line.removeprefix("speechllm transcribe: talks/").split(":")[0] for line in err.splitlines()]
    assert sorted(told) == sorted([*damaged, "missing.wav"])
    assert sorted(os.listdir(tmp_path / "out")) == [
        f"{stem}.txt" for stem in ("b", "c", "d", "e", "sub-a.wav", "talks-a.wav")
    ]
    assert set(whole) == {f"talks/{name}" for name in GOOD}
    assert (tmp_path / "out" / "e.txt").read_text() == whole["talks/sub/e.wav"] + "\n"


def test_words_are_told_with_their_times(transcribe, compose_whisper, talks, tmp_path):
    for part in compose_whisper():
        part.save_pretrained(tmp_path / "whisper")
    options = ["--model", tmp_path / "whisper", "--words", "--language", "it"]
    code, out, err = transcribe(*options, "--format", "json", "talks/d.WAV")
    words = json.loads(out)["chunks"]
    assert (code, err) == (0, "") and len(words) > 1
    assert all({"text", "timestamp", "confidence"} <= set(word) for word in words)
    assert words[0]["text"].startswith(" ") and " " not in words[0]["text"].strip()
    assert transcribe(*options, "--format", "srt", "talks/d.WAV")[1].count(" --> ") == len(words)


def test_a_word_list_chooses_among_beams(transcribe, compose, talks, tmp_path):
    (tmp_path / "words.txt").write_text("a\nn\no\n")
    asr = SpeechLLMPipeline(*compose(), device="cpu", word_list=tmp_path / "words.txt")
    code, out, _ = transcribe("--word-list", "words.txt", "talks/a.wav")
    assert (code, out.strip()) == (0, " ".join(asr("talks/a.wav")["text"].split()))


def test_a_good_file_says_the_same_among_bad_ones(transcribe, talks, damaged, expected):
    lines = dict(line.split("\t") for line in transcribe("talks")[1].splitlines())
    assert [lines[f"talks/{GOOD[i]}"] for i in EXACT] == [expected[i] for i in EXACT]


def test_only_bad_files_leave_no_file(transcribe, talks, damaged, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert transcribe("--output", tmp_path / "one.json", "talks/b-late.wav")[0] == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_without_audio_is_told_before_a_model_is_loaded(talks, tmp_path, capsys):
    (tmp_path / "none").mkdir()
    assert main(["transcribe", "--model", "no/model", str(tmp_path / "none")]) == 1
    assert "there are no audio files in this folder" in capsys.readouterr().err


def test_without_a_model_the_one_of_the_package_is_taken_and_named(talks, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(MODEL_VARIABLE, raising=False)
    # A base that is there is not fetched, and one of another revision is not taken for it.
    base = tmp_path / "openai--whisper-base"
    base.mkdir()
    (base / MANIFEST).write_text('{"revision": "another"}')
    assert main(["transcribe", "--bases", str(tmp_path), "--dtype", "float32", "talks"]) == 1
    told, refused = capsys.readouterr().err.splitlines()
    assert "transcribing with eleven-languages, which comes with the package; --model names another" in told
    assert "openai/whisper-base is pinned to revision" in refused


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--words"], "--words gives times, which text does not hold: choose --format json, srt or vtt"),
        (["--words", "--format", "json"], "has no source of word alignment"),
        (["--device", "gpu7"], "unknown device 'gpu7'; there are auto, cpu"),
        (["--device", "hpu"], "there is no device 'hpu' here; there are auto, cpu"),
        (["--dtype", "float8"], "unknown dtype 'float8'; there are auto, float32, bfloat16, float16"),
        (["--task", "translat"], "no task 'translat'"),
        (["--chunk-seconds", "1000"], "chunk_length_s must be more than 0 and at most 30"),
        (["--bases", "nowhere"], "--bases nowhere: no such folder"),
        (["--word-list", "nowhere"], "--word-list nowhere: no such file"),
        (["--confidence", "--word-list", "nowhere"], "chose among beams has none"),
        (["--model", "./nowhere"], "--model ./nowhere: no such folder"),
        (["--model", "talks"], "--model talks: there is no checkpoint in it"),
        (["--model", "nobody/nothing"], "--model nobody/nothing is neither a checkpoint here nor"),
    ],
)
def test_a_wrong_setting_is_one_line(transcribe, talks, options, reason):
    code, out, err = transcribe(*options, "talks/a.wav")
    assert (code, out) == (1, "") and err.count("\n") == 1 and reason in err


@pytest.mark.parametrize(
    "options", [["--format", "docx"], ["--batch-size", "0"], ["--chunk-seconds", "nan"], []]
)
def test_wrong_usage_is_exit_code_2(options, capsys):
    assert main(["transcribe", *options, *(["a.wav"] if options else [])]) == 2
    assert "usage: speechllm transcribe" in capsys.readouterr().err


def test_a_checkpoint_of_something_else_is_refused(transcribe, talks, bases):
    code, out, err = transcribe("--model", bases / "tiny--whisper", "talks/a.wav")
    assert (code, out) == (1, "") and err.endswith("a checkpoint of type whisper, not speech_llm\n")


def test_a_missing_base_says_how_to_install_it(checkpoint, talks, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("SPEECHLLM_BASES", raising=False)
    assert main(["transcribe", "--model", str(checkpoint), "--dtype", "float32", "talks/a.wav"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "speechllm bases install tiny/" in err


def test_help_names_every_format_dtype_and_the_variable(capsys):
    assert main(["transcribe", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(dtype in shown for dtype in device_choice.DTYPES)
    assert MODEL_VARIABLE in shown and "speechllm transcribe --model" in shown


def test_wrong_usage_is_told_before_torch_is_loaded():
    code = "import sys; from speechllm.cli.main import main; main(['transcribe', 'a.wav', '--format', 'x'])"
    code += "; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("speedup, dtype", [(2.0, "bfloat16"), (0.3, "float32"), (1.02, "float32")])
def test_the_faster_dtype_is_chosen_and_told(transcribe, talks, monkeypatch, speedup, dtype):
    sizes = []
    monkeypatch.setattr(device_choice, "bfloat16_speedup", lambda *size: sizes.append(size) or speedup)
    code, _, err = transcribe("talks/a.wav", dtype="auto")
    told = f"computing in {dtype}: on this CPU bfloat16 is {speedup:.1f} times as fast as float32\n"
    assert code == 0 and err == f"speechllm transcribe: {told}" and len(sizes) == 1


def test_the_measurement_is_short_and_of_the_decoders_size(bases, checkpoint):
    config = SpeechLLMConfig.from_pretrained(checkpoint)
    dtype, reason = device_choice.choose_dtype("auto", torch.device("cpu"), config)
    assert dtype in (torch.float32, torch.bfloat16) and "times as fast" in reason
    assert device_choice.MEASURED_SECONDS <= 0.1
    assert device_choice.bfloat16_speedup(4, 8, 8, seconds=0.01) > 0


@pytest.mark.parametrize("supported, dtype", [(True, torch.bfloat16), (False, torch.float16)])
def test_an_accelerator_without_bfloat16_gets_float16(monkeypatch, supported, dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    config = SimpleNamespace()
    assert device_choice.choose_dtype("auto", torch.device("cuda:0"), config)[0] == dtype
    assert device_choice.choose_dtype("float32", torch.device("cuda:0"), config) == (torch.float32, "")


def test_the_installed_command_transcribes_a_pipe_and_goes_on_after_a_bad_file(
    checkpoint, bases, talks, expected
):
    command = [sys.executable, "-m", "speechllm", "transcribe", "--dtype", "float32", "-", "talks/notes.txt"]
    environment = {**os.environ, MODEL_VARIABLE: str(checkpoint), "SPEECHLLM_BASES": str(bases)}
    with (talks / "b.flac").open("rb") as audio:
        done = subprocess.run(
            [*command, "--device", "cpu"],
            input=audio.read(),
            capture_output=True,
            env=environment,
            timeout=120,
        )
    assert done.returncode == 1
    assert done.stdout.decode() == f"-\t{expected[1]}\n"
    assert b"speechllm transcribe: talks/notes.txt: text, not audio\n" in done.stderr
    assert b"Loading weights" not in done.stderr and b"file/s" not in done.stderr
