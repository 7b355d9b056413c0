"""Closed-loop load over raw sockets, so that the generator is not what is measured.

`python load.py --url URL --concurrency 16 --seconds 3 [--stream]` prints `{"requests", "failed", "seconds", "p50_s", "p99_s"}`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from typing import cast
from urllib.parse import urlsplit

import uvloop

GROUPS, BODIES = 16, 256
WARM_UP = 4
"""First answers of each connection that are not counted."""


@dataclass
class Result:
    requests: int
    failed: int
    seconds: float
    p50_s: float
    p99_s: float


def bodies(model: str, prompt_tokens: int, stream: bool) -> list[bytes]:
    """Request bodies of about `prompt_tokens` tokens at four bytes; the first half of a prompt is shared by its group."""
    rng = random.Random(1)

    def text(size: int) -> str:
        return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz ", k=size))

    shared = [text(2 * prompt_tokens) for _ in range(GROUPS)]
    found = []
    for number in range(BODIES):
        content = shared[number % GROUPS] + text(2 * prompt_tokens)
        body = {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 16,
            "temperature": 0.7,
        }
        found.append(json.dumps(body | {"stream": True} if stream else body).encode())
    return found


class Client(asyncio.Protocol):
    """One connection that asks again as soon as it was answered."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self._parts: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._began = 0.0
        self._answers = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        self.load.lost(self)

    def ask(self) -> None:
        assert self._transport is not None
        if time.perf_counter() >= self.load.until:
            self._transport.close()
            return
        self._parts.clear()
        self._began = time.perf_counter()
        self._transport.write(self.load.next_request())

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        if not self.load.stream or data.endswith(b"0\r\n\r\n"):
            answer = b"".join(self._parts)
            if self._complete(answer):
                self._answered(answer)

    def _complete(self, answer: bytes) -> bool:
        head, found, body = answer.partition(b"\r\n\r\n")
        if not found:
            return False
        lower = head.lower()
        at = lower.find(b"content-length:")
        if at < 0:
            return body.endswith(b"0\r\n\r\n")
        return len(body) >= int(lower[at + 15 :].split(b"\r\n", 1)[0])

    def _answered(self, answer: bytes) -> None:
        took = time.perf_counter() - self._began
        well = answer.startswith(b"HTTP/1.1 200") and (not self.load.stream or b"[DONE]" in answer)
        self._answers += 1
        if not well:
            self.load.failed += 1
        elif self._answers > WARM_UP:
            self.load.latencies.append(took)
        self.load.answered += 1
        self.ask()


class Load:
    """`concurrency` connections against `url` for `seconds`."""

    def __init__(self, url: str, requests: list[bytes], *, stream: bool, seconds: float) -> None:
        self.stream = stream
        self.answered = self.failed = 0
        self.latencies: list[float] = []
        self._url = urlsplit(url)
        self._requests = requests
        self._next = 0
        self.until = time.perf_counter() + seconds
        self._open = 0
        self._over = asyncio.Event()

    def next_request(self) -> bytes:
        self._next = (self._next + 1) % len(self._requests)
        return self._requests[self._next]

    def lost(self, client: Client) -> None:
        self._open -= 1
        if not self._open:
            self._over.set()

    async def run(self, concurrency: int) -> Result:
        loop, began = asyncio.get_running_loop(), time.perf_counter()
        self._open = concurrency
        for _ in range(concurrency):
            await loop.create_connection(
                lambda: Client(self), self._url.hostname or "127.0.0.1", self._url.port or 80
            )
        await self._over.wait()
        seconds = time.perf_counter() - began
        spread = sorted(self.latencies) or [0.0]
        return Result(
            self.answered,
            self.failed,
            seconds,
            spread[len(spread) // 2],
            spread[min(len(spread) - 1, int(len(spread) * 0.99))],
        )


def requests(url: str, model: str, key: str, *, prompt_tokens: int, stream: bool) -> list[bytes]:
    """Whole HTTP requests, made before the clock runs."""
    host = urlsplit(url).netloc
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n"
        "content-type: application/json\r\naccept: */*\r\nuser-agent: load\r\ncontent-length: %d\r\n\r\n"
    )
    return [(head % len(body)).encode() + body for body in bodies(model, prompt_tokens, stream)]


async def main(arguments: argparse.Namespace) -> None:
    made = requests(
        arguments.url,
        arguments.model,
        arguments.key,
        prompt_tokens=arguments.prompt_tokens,
        stream=arguments.stream,
    )
    load = Load(arguments.url, made, stream=arguments.stream, seconds=arguments.seconds)
    sys.stdout.write(json.dumps(asdict(await load.run(arguments.concurrency))) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", default="mock")
    parser.add_argument("--key", default="sk-benchmark-key-0123456789abcdef")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--prompt-tokens", type=int, default=1000)
    parser.add_argument("--stream", action="store_true")
    uvloop.run(main(parser.parse_args()))
