"""Recognizers that are asked by HTTP: AssemblyAI, Deepgram, and whatever speaks as OpenAI does."""

from __future__ import annotations

import json
import os
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from speechllm.training.data.sounds import SAMPLING_RATE

from .http_requests import RequestError, Service, check_url, multipart, wave_bytes
from .provider_base import Heard, Provider, ProviderOptions, SpeechClip, short_language


@dataclass(frozen=True)
class ServiceOptions(ProviderOptions):
    """`batch_size`: requests at once. `key_variable`: the environment's variable with the key; none where
    it is left empty."""

    batch_size: int = 4
    url: str = ""
    key_variable: str = ""
    timeout: float = 120.0
    retries: int = 4


class ServiceProvider(Provider):
    """One clip a request. A clip whose requests fail, again and again, is a failed clip."""

    local = False
    options: ServiceOptions
    service: Service

    def check(self) -> None:
        variable = self.options.key_variable
        secret = os.environ.get(variable, "") if variable else ""
        if variable and not secret:
            raise ValueError(f"{self.kind} needs its key in the environment variable {variable}")
        if not secret.isascii() or not secret.isprintable():
            raise ValueError(f"the key in {variable} holds signs that no key has")
        url = check_url(self.kind, self.options.url, bool(secret))
        headers = {"Authorization": self.authorization(secret)} if secret else {}
        self.service = Service(url, headers, secret, variable, self.options.timeout, self.options.retries)

    def load(self) -> None:
        """Nothing: it is loaded elsewhere."""

    def transcribe(self, clips: Sequence[SpeechClip]) -> list[Heard]:
        with ThreadPoolExecutor(self.options.batch_size or 1) as pool:
            return list(pool.map(self._heard, clips))

    def _heard(self, clip: SpeechClip) -> Heard:
        try:
            return self.ask(wave_bytes(clip.waveform, SAMPLING_RATE), self.told(clip))
        except RequestError as error:
            return Heard(error=str(error))
        except (KeyError, IndexError, TypeError, AttributeError):
            return Heard(error="the service answered without a transcript")

    def authorization(self, secret: str) -> str:
        """The header that carries the key."""
        return f"Bearer {secret}"

    @abstractmethod
    def ask(self, sound: bytes, language: str | None) -> Heard:
        """What the service hears in a WAV file."""


@dataclass(frozen=True)
class OpenAIOptions(ServiceOptions):
    """`response_format=verbose_json` asks for the language too, which not every model tells."""

    url: str = "https://api.openai.com/v1"
    key_variable: str = "OPENAI_API_KEY"
    response_format: str = "json"


class OpenAIProvider(ServiceProvider):
    """`POST /audio/transcriptions`: OpenAI, and the many servers that took its form over."""

    Options = OpenAIOptions
    options: OpenAIOptions

    def ask(self, sound: bytes, language: str | None) -> Heard:
        fields = {"model": self.model, "response_format": self.options.response_format, "temperature": "0"}
        told = {} if language is None else {"language": language}
        body, content_type = multipart(fields | told, "clip.wav", sound)
        answer = self.service.request("/audio/transcriptions", body, content_type)
        found = short_language(answer.get("language")) if language is None else None
        return Heard(answer["text"].strip(), found)


@dataclass(frozen=True)
class DeepgramOptions(ServiceOptions):
    url: str = "https://api.deepgram.com"
    key_variable: str = "DEEPGRAM_API_KEY"


class DeepgramProvider(ServiceProvider):
    """`POST /v1/listen`."""

    Options = DeepgramOptions
    options: DeepgramOptions

    def authorization(self, secret: str) -> str:
        return f"Token {secret}"

    def ask(self, sound: bytes, language: str | None) -> Heard:
        spoken = {"detect_language": "true"} if language is None else {"language": language}
        query = urlencode({"model": self.model, **spoken})
        channel = self.service.request(f"/v1/listen?{query}", sound, "audio/wav")["results"]["channels"][0]
        text = channel["alternatives"][0]["transcript"].strip()
        return Heard(text, short_language(channel.get("detected_language")) if language is None else None)


@dataclass(frozen=True)
class AssemblyAIOptions(ServiceOptions):
    """`poll_seconds`: between two questions whether a transcript is done."""

    url: str = "https://api.assemblyai.com"
    key_variable: str = "ASSEMBLYAI_API_KEY"
    poll_seconds: float = 1.0


class AssemblyAIProvider(ServiceProvider):
    """Upload, order, ask until it is done. MODEL names one model or several, `first+second`."""

    Options = AssemblyAIOptions
    options: AssemblyAIOptions

    def authorization(self, secret: str) -> str:
        return secret

    def ask(self, sound: bytes, language: str | None) -> Heard:
        uploaded = self.service.request("/v2/upload", sound, "application/octet-stream")["upload_url"]
        spoken: dict[str, Any] = {"language_detection": True}
        if language is not None:
            spoken = {"language_code": language}
        order = {"audio_url": uploaded, "speech_models": self.model.split("+"), **spoken}
        job = self.service.request("/v2/transcript", json.dumps(order).encode(), "application/json")
        done = self._finished(job)
        found = short_language(done.get("language_code")) if language is None else None
        return Heard((done["text"] or "").strip(), found)

    def _finished(self, job: Mapping[str, Any]) -> Mapping[str, Any]:
        """The job once it is done."""
        path, latest = f"/v2/transcript/{quote(str(job['id']), safe='')}", time.monotonic()
        while job["status"] not in ("completed", "error"):
            if time.monotonic() - latest > self.options.timeout:
                raise RequestError(f"no transcript after {self.options.timeout:g} s")
            time.sleep(self.options.poll_seconds)
            job = self.service.request(path)
        if job["status"] == "error":
            raise RequestError(f"the service gave up: {' '.join(str(job.get('error')).split())}")
        return job
