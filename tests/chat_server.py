"""A server on the loopback that speaks chat completions as real ones do, well or badly.

    with ChatServer() as server:
        server.reply = lambda body, n: (200, {}, said("yes"))          # to the n-th request, counted from 1: status, headers, text
        UrlJudge(server.url, "m").ask(["a"]); server.requests          # (body, headers) of each

What real servers refuse it refuses too: another path, a request without model and messages, and streaming is not spoken.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

Reply = tuple[int, dict[str, str], str]


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((body, dict(self.headers)))
        wrong = self._wrong(body)
        status, headers, text = failed(400, wrong) if wrong else self.server.reply(body, len(self.server.requests))
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(text.encode())), **headers}.items():
            self.send_header(name, value)
        with contextlib.suppress(OSError):
            self.end_headers()
            self.wfile.write(text.encode())

    def _wrong(self, body: dict[str, Any]) -> str:
        if self.path != "/v1/chat/completions" or not body.get("model"):
            return "no such address or model"
        if not body["messages"] or any(set(one) != {"role", "content"} or not isinstance(one["content"], str) for one in body["messages"]):
            return "messages are {role, content}"
        return "streaming was asked for" if body.get("stream") is not False else ""

    def log_message(self, *_: Any) -> None:
        pass


class ChatServer(ThreadingHTTPServer):
    """See the module; answers with the prompt in capitals unless told otherwise."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.reply: Callable[[dict[str, Any], int], Reply] = lambda body, n: (200, {}, said(prompt_of(body).upper()))
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> ChatServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


def prompt_of(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def said(content: Any, *, message: dict[str, Any] | None = None, **choice: Any) -> str:
    """A whole reply; `message` and `choice` put fields into these parts of it."""
    told = {"role": "assistant", "content": content, "refusal": None, **(message or {})}
    usage = {"prompt_tokens": 31, "completion_tokens": 2, "total_tokens": 33, "prompt_tokens_details": {"cached_tokens": 0}}
    found = {"index": 0, "message": told, "logprobs": None, "finish_reason": "stop", **choice}
    whole = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m-2025", "choices": [found], "usage": usage}
    return json.dumps({**whole, "service_tier": "default", "system_fingerprint": "fp_1"})


def failed(status: int, message: str, headers: dict[str, str] | None = None, **error: Any) -> Reply:
    """An error with the object that servers put behind it."""
    told = {"message": message, "type": "invalid_request_error", "param": None, "code": None, **error}
    return status, headers or {}, json.dumps({"error": told})
