"""OpenAI-compatible servers that cost next to nothing: one process, many ports, no model.

A whole answer comes at once. A stream brings 16 tokens, one per engine step, and all streams of the process step together,
as an engine's batch does. `python engines.py --count 8` prints its URLs as one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Final, cast

import httptools
import uvloop

TOKENS: Final = 16
MODEL: Final = "mock"

_JSON: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
_EVENTS: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_HEAD: Final = (
    '{"id":"chatcmpl-1","object":"chat.completion%s","created":1700000000,"model":"mock","choices":[%s]%s}'
)
_USAGE: Final = ',"usage":{"prompt_tokens":1000,"completion_tokens":16,"total_tokens":1016}'


def _event(delta: str, reason: str = "null") -> bytes:
    choice = f'{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{reason}}}'
    return _chunked(("data: " + _HEAD % (".chunk", choice, "") + "\n\n").encode())


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_FIRST: Final = _event('{"role":"assistant","content":""}')
_TOKEN: Final = [_event(f'{{"content":"word{number:02d} "}}') for number in range(TOKENS)]
_LAST: Final = _event("{}", '"stop"')
_COUNTS: Final = _chunked(("data: " + _HEAD % (".chunk", "", _USAGE) + "\n\n").encode())
_DONE: Final = _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"
_MESSAGE: Final = '{"role":"assistant","content":"' + "word " * TOKENS + '"}'
_WHOLE: Final = (
    _HEAD % ("", f'{{"index":0,"message":{_MESSAGE},"logprobs":null,"finish_reason":"stop"}}', _USAGE)
).encode()
_METRICS: Final = b"""vllm:num_requests_running{model_name="mock"} 1
vllm:num_requests_waiting{model_name="mock"} 0
vllm:kv_cache_usage_perc{model_name="mock"} 0.1
vllm:cache_config_info{block_size="16",num_gpu_blocks="25000"} 1
"""
WHOLE: Final = _JSON % (len(_WHOLE), _WHOLE)
"""An answer as it is on the wire; of a stream `HEAD`, events of tokens and `END`."""
HEAD: Final = _EVENTS + _FIRST
TOKEN_EVENTS: Final = _TOKEN
END: Final = _LAST + _COUNTS + _DONE
_PLAIN: Final = {
    b"/health": b"",
    b"/v1/models": b'{"object":"list","data":[{"id":"mock","object":"model","owned_by":"mock"}]}',
    b"/metrics": _METRICS,
}


class Steps:
    """The engine's loop: every `step_s` seconds one token for every stream. Whole answers take `whole_s` seconds."""

    def __init__(self, step_s: float, whole_s: float = 0.0) -> None:
        self.step_s = step_s
        self.whole_s = whole_s
        self.streams: dict[Server, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, server: Server) -> None:
        self.streams[server] = 0
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.step_s, self._step)

    def _step(self) -> None:
        self._timer = None
        for server, token in list(self.streams.items()):
            server.token(token)
            if token + 1 == TOKENS:
                del self.streams[server]
            else:
                self.streams[server] = token + 1
        if self.streams:
            self._timer = asyncio.get_running_loop().call_later(self.step_s, self._step)


class Server(asyncio.Protocol):
    """One connection. Counts what is asked of all connections in `steps`."""

    transport: asyncio.Transport

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body: list[bytes] = []
        self._usage = False
        self._whole: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        stream = self._steps.streams.pop(self, None)
        if stream is not None or self._whole is not None:
            sys.stdout.write("left\n")
            sys.stdout.flush()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url
        self._body = []

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body = b"".join(self._body)
        if self._url in _PLAIN or not self._url.endswith(b"/completions"):
            answer = _PLAIN.get(self._url, b"{}")
            self.transport.write(_JSON % (len(answer), answer))
        elif b'"stream":true' in body or b'"stream": true' in body:
            self._usage = b"include_usage" in body
            self.transport.write(_EVENTS + _FIRST)
            self._steps.begin(self)
        elif self._steps.whole_s:
            self._whole = asyncio.get_running_loop().call_later(self._steps.whole_s, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        self._whole = None
        self.transport.write(_JSON % (len(_WHOLE), _WHOLE))

    def token(self, number: int) -> None:
        if number + 1 < TOKENS:
            self.transport.write(_TOKEN[number])
        else:
            self.transport.write(_TOKEN[number] + _LAST + (_COUNTS if self._usage else b"") + _DONE)


async def serve(count: int, step_s: float, whole_s: float) -> None:
    """Print the URLs of `count` servers, serve until killed, and say `left` for each client that leaves in the middle."""
    loop, steps = asyncio.get_running_loop(), Steps(step_s, whole_s)
    servers = [await loop.create_server(lambda: Server(steps), "127.0.0.1", 0) for _ in range(count)]
    urls = [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers]
    sys.stdout.write(json.dumps({"urls": urls}) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--step-s", type=float, default=0.002)
    parser.add_argument("--whole-s", type=float, default=0.0)
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.count, arguments.step_s, arguments.whole_s))
