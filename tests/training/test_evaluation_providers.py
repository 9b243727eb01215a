"""Services are asked as they want to be asked, keys stay secret, and what fails is told clip by clip."""

import io
import json
import re
import threading
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import soundfile
from evaluation_corpus import evaluated, write_corpus
from hub_http import LoopbackServer, Reply, json_reply
from speechllm.training.evaluation import http_requests
from speechllm.training.evaluation.http_requests import check_url, pause
from speechllm.training.evaluation.provider_base import SpeechClip
from speechllm.training.evaluation.provider_table import PROVIDERS
from speechllm.training.evaluation.systems import System, system_from

KEY = "sk-secret-1234567890"
CLIPS = [
    SpeechClip(np.linspace(-0.5, 0.5, length, dtype=np.float32), language)
    for length, language in ((1600, "it"), (3200, "fr"), (4800, None))
]


@contextmanager
def service(answer):
    """The address of a server that gives each request to `answer`, and the requests so far."""
    requests = []

    def noted(method, target, headers, body):
        requests.append((method, target, headers, body))
        return answer(method, target, headers, body)

    server = LoopbackServer(noted)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "DEEPGRAM_API_KEY", "ASSEMBLYAI_API_KEY"):
        monkeypatch.setenv(name, KEY)
    # Services ask for minutes of patience, tests have none.
    monkeypatch.setattr(http_requests, "FIRST_PAUSE_SECONDS", 0.01)


def provider(kind, url, model="some-model", **options):
    return System("x", kind, model, {"url": url, **options}).provider()


def frames_of(body: bytes) -> int:
    """Samples of the WAV file somewhere in a body."""
    samples, rate = soundfile.read(io.BytesIO(body[body.index(b"RIFF") :]))
    assert rate == 16000
    return len(samples)


def test_an_openai_server_gets_a_form_with_the_sound_and_the_language_told():
    def answer(method, target, headers, body):
        assert (method, target) == ("POST", "/v1/audio/transcriptions")
        assert headers["Authorization"] == f"Bearer {KEY}"
        told = re.search(rb'name="language"\r\n\r\n(\w+)\r\n', body)
        return json_reply({"text": f" {frames_of(body)} {told.group(1).decode() if told else '-'} "})

    with service(answer) as (url, requests):
        heard = provider("openai", f"{url}/v1/", language="given").transcribe(CLIPS)
    assert [one.text for one in heard] == ["1600 it", "3200 fr", "4800 -"]
    assert all(b'name="model"\r\n\r\nsome-model\r\n' in body for *_, body in requests)


def test_a_language_that_was_found_is_noted_and_one_that_was_told_is_not():
    with service(lambda *_: json_reply({"text": "ciao", "language": "italian"})) as (url, _):
        asked = {"response_format": "verbose_json"}
        found = provider("openai", url, **asked).transcribe(CLIPS[:1])
        told = provider("openai", url, language="it", **asked).transcribe(CLIPS[:1])
    assert found[0].language == "it" and told[0].language is None


def test_deepgram_gets_the_sound_alone_and_the_rest_in_the_address():
    def answer(method, target, headers, body):
        query = parse_qs(urlsplit(target).query)
        assert urlsplit(target).path == "/v1/listen" and headers["Authorization"] == f"Token {KEY}"
        assert headers["Content-Type"] == "audio/wav" and body.startswith(b"RIFF")
        language = query.get("language", ["none"])[0]
        channel = {"alternatives": [{"transcript": f"{query['model'][0]} {language} {frames_of(body)}"}]}
        if "detect_language" in query:
            channel["detected_language"] = "pt-BR"
        return json_reply({"results": {"channels": [channel]}})

    with service(answer) as (url, _):
        told = provider("deepgram", url, "nova", language="given").transcribe(CLIPS)
        found = provider("deepgram", url, "nova").transcribe(CLIPS[:1])
    assert [one.text for one in told] == ["nova it 1600", "nova fr 3200", "nova none 4800"]
    assert [one.language for one in told] == [None, None, "pt"] and found[0].language == "pt"


def test_assemblyai_is_sent_the_sound_asked_for_a_transcript_and_waited_for():
    polls = {}

    def answer(method, target, headers, body):
        assert headers["Authorization"] == KEY
        if target == "/v2/upload":
            return json_reply({"upload_url": f"https://cdn/{frames_of(body)}"})
        if target == "/v2/transcript":
            order = json.loads(body)
            assert order["speech_models"] == ["first", "second"]
            job = order["audio_url"].rsplit("/", 1)[1]
            polls[job] = [order, 0]
            return json_reply({"id": job, "status": "queued"})
        job = target.rsplit("/", 1)[1]
        order, polls[job][1] = polls[job][0], polls[job][1] + 1
        if polls[job][1] < 3:
            return json_reply({"id": job, "status": "processing"})
        if job == "3200":
            return json_reply({"id": job, "status": "error", "error": "no speech\nfound"})
        return json_reply({"id": job, "status": "completed", "text": f"text {job}", "language_code": "en_us"})

    with service(answer) as (url, _):
        heard = provider("assemblyai", url, "first+second", poll_seconds="0.01").transcribe(CLIPS)
        told = provider("assemblyai", url, "first+second", language="it", poll_seconds="0.01")
        told.transcribe(CLIPS[:1])
    assert [one.text for one in heard] == ["text 1600", "", "text 4800"]
    assert heard[0].language == "en" and heard[1].error == "the service gave up: no speech found"
    assert polls["1600"][0]["language_code"] == "it" and "language_detection" not in polls["1600"][0]


def test_a_busy_service_is_asked_again_and_a_failing_one_fails_that_clip_alone():
    tries = {}

    def answer(method, target, headers, body):
        frames = frames_of(body)
        tries[frames] = tries.get(frames, 0) + 1
        if frames == 1600 and tries[frames] < 3:
            return Reply(status=429, headers={"Retry-After": "0"})
        if frames == 3200:
            return Reply(b"the machine\nis down", 503)
        if frames == 4800:
            return Reply(f"bad request by {KEY}".encode(), 400)
        return json_reply({"text": "fine"})

    with service(answer) as (url, _):
        heard = provider("openai", url, retries="2").transcribe(CLIPS)
    assert heard[0].text == "fine" and tries == {1600: 3, 3200: 3, 4800: 1}
    assert heard[1].error == "HTTP 503 Service Unavailable the machine is down (tried 3 times)"
    assert heard[2].error == "HTTP 400 Bad Request bad request by ***"


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"other": 1}', b'{"text": null}', b""])
def test_an_answer_that_is_no_transcript_fails_its_clip(content):
    with service(lambda *_: Reply(content)) as (url, _):
        heard = provider("openai", url, retries="0").transcribe(CLIPS[:1])
    assert heard[0].text == "" and ("not JSON" in heard[0].error or "without a transcript" in heard[0].error)


def test_nobody_there_fails_the_clip_and_names_no_key():
    with service(lambda *_: Reply()) as (url, _):
        pass
    heard = provider("deepgram", url, retries="1").transcribe(CLIPS[:1])
    assert "tried 2 times" in heard[0].error and KEY not in heard[0].error and "\n" not in heard[0].error


def test_what_a_service_failed_on_is_tried_again_the_next_time_and_nothing_else(clips, tmp_path):
    state = {"down": True, "asked": []}

    def answer(method, target, headers, body):
        state["asked"].append(frames_of(body))
        if state["down"] and frames_of(body) == len(clips[2]):
            return Reply(status=500)
        return json_reply({"text": "six"})

    manifest = write_corpus(tmp_path, clips)
    with service(answer) as (url, _):
        system = System("api", "openai", "m", {"url": url, "retries": "0"})
        first = evaluated([system], manifest, tmp_path / "out").result("api", "test")
        assert first.score.failed == 1 and first.clips.heard[2].error == "HTTP 500 Internal Server Error"
        state.update(down=False, asked=[])
        again = evaluated([system], manifest, tmp_path / "out").result("api", "test")
        assert again.score.failed == 0 and state["asked"] == [len(clips[2])]
        state["asked"] = []
        assert evaluated([system], manifest, tmp_path / "out").result("api", "test").run.reused
        assert not state["asked"]


def test_a_refused_key_stops_everything_at_once_and_is_not_shown():
    with service(lambda *_: Reply(f"invalid key {KEY}".encode(), 401)) as (url, requests):
        asked = provider("deepgram", url, batch_size="1")
        with pytest.raises(ValueError, match=r"refuses the key in DEEPGRAM_API_KEY: HTTP 401") as refusal:
            asked.transcribe(CLIPS * 5)
    # One more may have been on its way.
    assert KEY not in str(refusal.value) and len(requests) <= 2


def test_a_redirect_is_not_followed_for_it_would_take_the_key_along():
    with (
        service(lambda *_: json_reply({"text": "stolen"})) as (elsewhere, stolen),
        service(lambda *_: Reply(status=307, headers={"Location": f"{elsewhere}/x"})) as (url, _),
    ):
        heard = provider("openai", url, retries="0").transcribe(CLIPS[:1])
    assert heard[0].error.startswith("HTTP 307") and not stolen


def test_a_server_without_a_key_is_asked_without_one(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with service(lambda *_: json_reply({"text": "open"})) as (url, requests):
        heard = provider("openai", url, key_variable="").transcribe(CLIPS[:1])
    assert heard[0].text == "open" and "Authorization" not in requests[0][2]


def test_no_configuration_identity_or_picture_of_a_provider_holds_the_key():
    asked = provider("assemblyai", "https://example.com")
    assert KEY not in f"{asked.configuration()} {asked.identity()} {asked.service!r}"


def test_missing_keys_and_unsafe_addresses_are_refused_before_anything_runs(monkeypatch):
    with pytest.raises(ValueError, match="key unencrypted"):
        provider("openai", "http://example.com/v1")
    assert provider("openai", "http://example.com/v1", key_variable="").options.url
    with pytest.raises(ValueError, match="a url holds no password") as refusal:
        provider("openai", f"https://me:{KEY}@example.com")
    assert KEY not in str(refusal.value)
    with pytest.raises(ValueError, match="no http"):
        provider("openai", "ftp://example.com")
    monkeypatch.delenv("ASSEMBLYAI_API_KEY")
    with pytest.raises(
        ValueError, match="assemblyai needs its key in the environment variable ASSEMBLYAI_API_KEY"
    ):
        System("x", "assemblyai", "best").provider()
    monkeypatch.setenv("OTHER", "abc\r\nX-Evil: 1")
    with pytest.raises(ValueError, match="signs that no key has"):
        System("x", "openai", "m", {"key_variable": "OTHER"}).provider()
    assert check_url("openai", "http://localhost:8000/v1/", True) == "http://localhost:8000/v1"


def test_pauses_grow_and_follow_what_the_service_asks(monkeypatch):
    monkeypatch.undo()
    assert [pause(attempt, None) for attempt in range(3)] == [1, 2, 4]
    assert pause(0, "7") == 7 and pause(0, "999") == 60 and pause(0, "Wed, 21 Oct") == 1


def test_systems_are_read_from_the_command_line(tmp_path):
    found = system_from("stock=transformers:openai/whisper-base,language=given,batch_size=4")
    assert found == System(
        "stock", "transformers", "openai/whisper-base", {"language": "given", "batch_size": "4"}
    )
    assert system_from("runs/x/model.1,routing=soft") == System(
        "model-1", "speechllm", "runs/x/model.1", {"routing": "soft"}
    )
    assert system_from("me/my-asr") == System("my-asr", "speechllm", "me/my-asr")
    odd = tmp_path / "a:b"
    odd.mkdir()
    assert system_from(f"x={odd}").kind == "speechllm"
    served = system_from("s=openai:whisper-1,url=http://127.0.0.1:8000/v1")
    assert served.options == {"url": "http://127.0.0.1:8000/v1"}


def test_a_word_list_is_looked_at_before_anything_is_loaded(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "speech_llm"}')
    (tmp_path / "words").write_text("one\n")
    ours, listed = f"x={tmp_path / 'model'}", f"word_list={tmp_path / 'words'}"
    assert system_from(f"{ours},num_beams=2,{listed}").provider().options.num_beams == 2
    with pytest.raises(ValueError, match="word_list chooses among beams: add num_beams=5"):
        system_from(f"{ours},{listed}").provider()
    with pytest.raises(ValueError, match="word list .*words2: No such file"):
        system_from(f"{ours},num_beams=2,{listed}2").provider()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("xyz:base", "unknown provider 'xyz'; there are assemblyai, deepgram, faster-whisper"),
        ("x=transformer:base", "unknown provider 'transformer'; did you mean 'transformers'"),
        (
            "transformers:openai/whisper-base,langage=it",
            "transformers has no option 'langage'; did you mean 'language'",
        ),
        ("openai:whisper-1,retries=many", "openai: retries=many is no int"),
        ("openai:whisper-1,retries=-1", "openai: retries=-1 is no int from 0 on"),
        ("openai:whisper-1,retries", "'retries' is no key=value"),
        ("faster-whisper:base,vad_filter=perhaps", "vad_filter=perhaps is no yes or no"),
        ("faster-whisper:./nowhere", "faster-whisper:./nowhere: no such folder"),
        ("runs/nowhere/model", "speechllm:runs/nowhere/model: no such folder"),
        ("transformers:./nowhere", "transformers:./nowhere: no such folder"),
        ("transformers:a/b,dtype=int8", "dtype=int8; there are float32, bfloat16, float16"),
        ("a b=openai:x", "system 'a b': a name is made of letters"),
        ("x=deepgram:", "deepgram needs a model"),
    ],
)
def test_systems_that_cannot_be_are_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        system_from(text).provider()
    assert "\n" not in str(refusal.value)


def test_every_kind_is_described_in_the_help_and_in_the_docs():
    from pathlib import Path

    from speechllm.cli import evaluate

    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    for kind, provider_class in PROVIDERS.items():
        assert kind in evaluate.__doc__ and f"`{kind}`" in page
        for option in provider_class.Options.__dataclass_fields__:
            assert f"`{option}`" in page or option in ("url", "language"), option
