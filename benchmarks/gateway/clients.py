"""What one request costs an HTTP client, in process time: ours beside libraries, against one mock engine.

`python benchmarks/gateway/clients.py`; what is not installed is skipped.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parent))

from load import bodies

from autopoiesis.router.transports.client import Pool

REQUESTS, CONCURRENCY, ROUNDS = 960, 16, 3
PATH = "/v1/chat/completions"
Ask = Callable[[bytes], Awaitable[int]]


class _Answer:
    def __init__(self) -> None:
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._status = 0

    def head(self, status: int, content_type: str) -> None:
        self._status = status

    def data(self, data: bytes) -> None: ...

    def over(self) -> None:
        self.done.set_result(self._status)

    def broken(self, reason: str, *, connected: bool) -> None:
        self.done.set_exception(ConnectionError(reason))


def ours(url: str) -> Ask:
    pool = Pool(url)

    async def ask(body: bytes) -> int:
        answer = _Answer()
        pool.post(PATH, body, answer)
        return await answer.done

    return ask


def with_httpcore(url: str) -> Ask:
    import httpcore

    pool = httpcore.AsyncConnectionPool(max_connections=CONCURRENCY)

    async def ask(body: bytes) -> int:
        return (await pool.request("POST", url + PATH, content=body)).status

    return ask


def with_httpx(url: str) -> Ask:
    import httpx

    client = httpx.AsyncClient(trust_env=False)

    async def ask(body: bytes) -> int:
        return (await client.post(url + PATH, content=body)).status_code

    return ask


def with_aiohttp(url: str) -> Ask:
    import aiohttp

    session = aiohttp.ClientSession()

    async def ask(body: bytes) -> int:
        async with session.post(url + PATH, data=body) as answer:
            await answer.read()
            return int(answer.status)

    return ask


async def cpu_us(ask: Ask) -> float:
    sent = bodies("mock", 1000, stream=False)

    async def one() -> None:
        for number in range(REQUESTS // CONCURRENCY):
            assert await ask(sent[number % len(sent)]) == 200

    await ask(sent[0])
    began = time.process_time()
    await asyncio.gather(*(one() for _ in range(CONCURRENCY)))
    return (time.process_time() - began) / REQUESTS * 1e6


async def main(url: str) -> None:
    asks = {}
    for make in (ours, with_httpcore, with_httpx, with_aiohttp):
        try:
            asks[make.__name__] = make(url)
        except ImportError as error:
            print(f"skipped: {make.__name__}: {error}")
    rounds = [{name: await cpu_us(ask) for name, ask in asks.items()} for _ in range(ROUNDS)]
    for name in asks:
        print(f"{name:16}{statistics.median(took[name] for took in rounds):8.0f} µs of CPU per request")


if __name__ == "__main__":
    engine = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "engines.py"), "--count", "1"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert engine.stdout is not None
        uvloop.run(main(json.loads(engine.stdout.readline())["urls"][0]))
    finally:
        engine.kill()
