"""Closed-loop load over raw sockets, so that the generator is not what is measured.

`python load.py --url URL --concurrency 16 --seconds 3 [--stream]` prints a `Result` as JSON. With `--output-tokens N` every answer
has exactly N tokens, from engines that know `ignore_eos`, and its first token and pace are told too.
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
    """Times of streams' first events and mean pauses between tokens are 0 where they are not known."""

    requests: int
    failed: int
    seconds: float
    p50_s: float
    p99_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p50_s: float


def bodies(
    model: str, prompt_tokens: int, stream: bool, output_tokens: int = 0, seed: int = 1
) -> list[bytes]:
    """Request bodies of about `prompt_tokens` tokens at four bytes; the first half of a prompt is shared by its group."""
    rng = random.Random(seed)
    options: dict[str, object] = {"stream": True} if stream else {}
    if output_tokens:
        options |= {"max_tokens": output_tokens, "ignore_eos": True}
        options |= {"stream_options": {"include_usage": True}} if stream else {}

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
        found.append(json.dumps(body | options).encode())
    return found


class Client(asyncio.Protocol):
    """One connection that asks again as soon as it was answered."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self._parts: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._began = self._first = 0.0
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
        self._began, self._first = time.perf_counter(), 0.0
        self._transport.write(self.load.next_request())

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        if not self._first and self.load.stream and b"data:" in data:
            self._first = time.perf_counter()
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
        now, load = time.perf_counter(), self.load
        well = answer.startswith(b"HTTP/1.1 200") and (not load.stream or b"[DONE]" in answer)
        if load.output_tokens:
            well = well and b'"completion_tokens":%d' % load.output_tokens in answer
        self._answers += 1
        if not well:
            load.failed += 1
        elif self._answers > WARM_UP:
            load.latencies.append(now - self._began)
            if self._first:
                load.firsts.append(self._first - self._began)
            if self._first and load.output_tokens > 1:
                load.paces.append((now - self._first) / (load.output_tokens - 1))
        load.answered += 1
        self.ask()


class Load:
    """`concurrency` connections against `url` for `seconds`."""

    def __init__(
        self, url: str, requests: list[bytes], *, stream: bool, seconds: float, output_tokens: int = 0
    ) -> None:
        self.stream = stream
        self.output_tokens = output_tokens
        self.answered = self.failed = 0
        self.latencies: list[float] = []
        self.firsts: list[float] = []
        self.paces: list[float] = []
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
        return Result(
            requests=self.answered,
            failed=self.failed,
            seconds=time.perf_counter() - began,
            p50_s=quantile(self.latencies, 0.5),
            p99_s=quantile(self.latencies, 0.99),
            ttft_p50_s=quantile(self.firsts, 0.5),
            ttft_p99_s=quantile(self.firsts, 0.99),
            tpot_p50_s=quantile(self.paces, 0.5),
        )


def quantile(values: list[float], share: float) -> float:
    """0 of no values."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0


def requests(
    url: str, model: str, key: str, *, prompt_tokens: int, stream: bool, output_tokens: int = 0, seed: int = 1
) -> list[bytes]:
    """Whole HTTP requests, made before the clock runs."""
    host = urlsplit(url).netloc
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n"
        "content-type: application/json\r\naccept: */*\r\nuser-agent: load\r\ncontent-length: %d\r\n\r\n"
    )
    made = bodies(model, prompt_tokens, stream, output_tokens, seed)
    return [(head % len(body)).encode() + body for body in made]


async def main(arguments: argparse.Namespace) -> None:
    made = requests(
        arguments.url,
        arguments.model,
        arguments.key,
        prompt_tokens=arguments.prompt_tokens,
        stream=arguments.stream,
        output_tokens=arguments.output_tokens,
        seed=arguments.seed,
    )
    load = Load(
        arguments.url,
        made,
        stream=arguments.stream,
        seconds=arguments.seconds,
        output_tokens=arguments.output_tokens,
    )
    sys.stdout.write(json.dumps(asdict(await load.run(arguments.concurrency))) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", default="mock")
    parser.add_argument("--key", default="sk-benchmark-key-0123456789abcdef")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--prompt-tokens", type=int, default=1000)
    parser.add_argument("--output-tokens", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stream", action="store_true")
    uvloop.run(main(parser.parse_args()))
