"""Shared by the tests of this folder: a model and its pipeline, sound files, a server of files."""

import http.server
import threading
from pathlib import Path

import pytest
import soundfile as sf
from sounds import RATE, tone
from speechllm import SpeechLLMPipeline


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


@pytest.fixture
def wav(tmp_path) -> Path:
    path = tmp_path / "talk.wav"
    sf.write(path, tone(), RATE)
    return path


@pytest.fixture
def mp3(tmp_path) -> Path:
    path = tmp_path / "talk.mp3"
    sf.write(path, tone(10, 44100), 44100, format="MP3")
    return path


@pytest.fixture
def server(tmp_path):
    """A web server on the loopback interface that serves `tmp_path`; `/short` breaks its promise."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def do_GET(self):
            if self.path != "/short":
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"RIFF")

        def log_message(self, *_):
            """Keep the test's output clean."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
