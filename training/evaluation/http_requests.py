"""Requests to services: a key that is never shown, patience where a service is busy, failures in one line."""

from __future__ import annotations

import http.client
import io
import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import soundfile

LOOPBACK = ("localhost", "127.0.0.1", "::1")
REFUSED = (401, 403)
# Too many requests, and what passes by itself.
BUSY = (408, 409, 425, 429, 500, 502, 503, 504)
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
LONGEST_REASON = 200
MOST_BYTES = 16 << 20


class RequestError(Exception):
    """One request came to nothing; the message is one line."""


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to wherever it points."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class Service:
    """Where requests go, and what they carry. `secret` is kept out of every message."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    secret: str = field(repr=False)
    secret_name: str
    timeout: float
    retries: int

    def request(self, path: str, body: bytes | None = None, content_type: str | None = None) -> Any:
        """The JSON that the service answers with; a POST where there is a body."""
        headers = {**self.headers, **({"Content-Type": content_type} if content_type else {})}
        for attempt in range(self.retries + 1):
            try:
                return self._answer(urllib.request.Request(f"{self.url}{path}", body, headers))
            except urllib.error.HTTPError as error:
                reason, wait = self._reason(error), error.headers.get("Retry-After")
                if error.code in REFUSED:
                    raise ValueError(
                        f"{self._host} refuses the key in {self.secret_name}: {reason}"
                    ) from None
                if error.code not in BUSY:
                    raise RequestError(reason) from None
            except (OSError, http.client.HTTPException) as error:
                reason, wait = self._hidden(str(error) or type(error).__name__), None
            if attempt < self.retries:
                time.sleep(pause(attempt, wait))
        raise RequestError(f"{reason} (tried {self.retries + 1} times)" if self.retries else reason)

    def _answer(self, request: urllib.request.Request) -> Any:
        opener = urllib.request.build_opener(NoRedirects)
        with opener.open(request, timeout=self.timeout) as reply:
            content = reply.read(MOST_BYTES)
        try:
            return json.loads(content)
        except ValueError:
            raise RequestError(f"{self._host} answered with something that is not JSON") from None

    def _reason(self, error: urllib.error.HTTPError) -> str:
        with error:
            content = error.read(MOST_BYTES).decode("utf-8", errors="replace")
        return self._hidden(f"HTTP {error.code} {error.reason} {content}")

    def _hidden(self, message: str) -> str:
        """One short line without the key, which some services repeat in their answers."""
        shown = message.replace(self.secret, "***") if self.secret else message
        return " ".join(shown.split())[:LONGEST_REASON]

    @property
    def _host(self) -> str:
        return urlsplit(self.url).netloc


def pause(attempt: int, retry_after: str | None) -> float:
    """Seconds before the next try: as the service asks, or twice as long each time."""
    asked = float(retry_after) if retry_after and retry_after.isdecimal() else 0.0
    return min(max(asked, FIRST_PAUSE_SECONDS * 2**attempt), LONGEST_PAUSE_SECONDS)


def check_url(kind: str, url: str, has_secret: bool) -> str:
    """The URL without a slash at its end; a key goes to another machine only encrypted."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{kind}: url={url} is no http(s) address")
    if parts.username or parts.password:
        raise ValueError(f"{kind}: a url holds no password; name the key's variable, key_variable=")
    if has_secret and parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ValueError(f"{kind}: url={url} would send the key unencrypted; use https, or key_variable=")
    return url.rstrip("/")


def wave_bytes(waveform: np.ndarray, sampling_rate: int) -> bytes:
    """A WAV file of 16 bits."""
    file = io.BytesIO()
    soundfile.write(file, waveform, sampling_rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def multipart(fields: Mapping[str, str], file_name: str, content: bytes) -> tuple[bytes, str]:
    """A form with one file: its body, and its content type."""
    border = uuid.uuid4().hex
    parts = [
        f'--{border}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'--{border}\r\nContent-Disposition: form-data; name="file"; filename="{file_name}"\r\n'
    parts += [head.encode(), b"Content-Type: audio/wav\r\n\r\n", content, f"\r\n--{border}--\r\n".encode()]
    return b"".join(parts), f"multipart/form-data; boundary={border}"
