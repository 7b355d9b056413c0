"""Recorded answers of a language model, served again on 127.0.0.1 by an OpenAI-compatible endpoint, in the order they came.

What a recorded answer amounted to is served, the whole policy: the parents that edits were written against differ from run to run.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple


class Recorded(NamedTuple):
    """One call: the answer as it came, the policy it led to (empty if to none), and its tokens."""

    answer: str
    policy: str
    prompt_tokens: int
    completion_tokens: int


def read(path: Path) -> list[Recorded]:
    """Raises FileNotFoundError where nothing was recorded."""
    return [Recorded(**json.loads(line)) for line in path.read_text().splitlines()]


def write(path: Path, calls: Sequence[Recorded]) -> None:
    path.write_text("".join(json.dumps(call._asdict()) + "\n" for call in calls))


@contextmanager
def answering(calls: Sequence[Recorded]) -> Iterator[str]:
    """The URL of an endpoint that gives each recorded policy once, then 503."""
    left = iter([call for call in calls if call.policy])
    mutex = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            with mutex:
                call = next(left, None)
            body = json.dumps(
                {"error": {"message": "no more answers"}} if call is None else _completion(call)
            )
            self.send_response(503 if call is None else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()


def _completion(call: Recorded) -> dict[str, object]:
    text = f"{call.answer.partition(chr(10))[0]}\n```python\n{call.policy}```"
    return {
        "id": "recorded",
        "object": "chat.completion",
        "created": 0,
        "model": "recorded",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {
            "prompt_tokens": call.prompt_tokens,
            "completion_tokens": call.completion_tokens,
            "total_tokens": call.prompt_tokens + call.completion_tokens,
        },
    }
