"""The HTTP side of the stand-in for the Hub: requests and replies as values, a server to carry them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hub_repository import Repository


@dataclass
class Request:
    """`args`: the parts of the path that the route names; `authenticated`: the right token came with it."""

    args: dict[str, str]
    query: dict[str, list[str]]
    headers: Message
    body: bytes
    authenticated: bool
    repo: Repository = field(init=False)  # set on the routes that name one

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def type_prefix(self) -> str:
        """What stands before the id of a data set or Space in a URL or folder; empty for a model."""
        kind = self.args.get("kind", "models")
        return "" if kind == "models" else f"{kind}/"


@dataclass
class Reply:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def json_reply(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    return Reply(
        json.dumps(content).encode(), status, {"Content-Type": "application/json", **(headers or {})}
    )


class Connection(BaseHTTPRequestHandler):
    server: "LoopbackServer"
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave in one packet; apart, each answer waits for an acknowledgement

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        reply = self.server.answer(self.command, self.path, self.headers, body)
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def log_message(self, *_: Any) -> None:
        """Stay quiet: `HubStandIn.requests` is the log."""


for _method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
    setattr(Connection, f"do_{_method}", Connection.answer)


class LoopbackServer(ThreadingHTTPServer):
    """Gives each request, as (method, target, headers, body), to `answer`."""

    daemon_threads = True

    def __init__(self, answer: Callable[[str, str, Message, bytes], Reply]):
        super().__init__(("127.0.0.1", 0), Connection)
        self.answer = answer
