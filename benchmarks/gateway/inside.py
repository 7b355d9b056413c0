"""What a request costs inside the router, without kernel and bus: every byte is handed over in this process.

`python benchmarks/gateway/inside.py whole|stream [--profile 40]` prints microseconds of thread time per request, the least over
rounds, and where `make compiled` has made an environment of today's sources those of compiled modules as well; with `--profile` the
parts and functions that take them, and how often each is called for one request (interpreted ones: compiled ones are not seen).
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pstats
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn
import uvloop
from prometheus_client import CollectorRegistry
from uvicorn.server import ServerState

sys.path.insert(0, str(Path(__file__).parent))

import contenders
import engines
import load

from autopoiesis.router import app, keys, passthrough, serving
from autopoiesis.router.http.front import Front
from autopoiesis.router.link import Link
from autopoiesis.router.settings import RouterSettings
from autopoiesis.router.transports import client
from autopoiesis.router.transports.both import Transports
from autopoiesis.router.transports.bus import BusTransport
from autopoiesis.router.transports.direct import DirectTransport
from autopoiesis.runtime.http import Cork
from autopoiesis.runtime.settings import Settings
from autopoiesis.runtime.telemetry import Telemetry

SERVERS, CLIENTS, ROUNDS = 8, 16, 20
REQUESTS = {"whole": 960, "stream": 480}
BEATS = 64
"""Requests between two heartbeats of all servers."""
ANSWERS = {
    "whole": [engines.WHOLE],
    "stream": [engines.HEAD, *engines.TOKEN_EVENTS[:-1], engines.TOKEN_EVENTS[-1] + engines.END],
}


class Wire:
    """An `asyncio.Transport` that tells `written` of what is written."""

    def __init__(self, written: Callable[[bytes], object]) -> None:
        self.write = written

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str) -> None:
        return None


class Inside:
    """One router with its clients and servers. `waiting`: connections to servers on which a request came."""

    def __init__(self, directory: Path) -> None:
        key, self.key = keys.create("benchmark", scopes=("inference",))
        keys.save(directory / "keys.json", [key])
        flags = {
            "router.attach": [f"http://127.0.0.1:{9000 + number}" for number in range(SERVERS)],
            "router.policy": "least_predicted_ttft",
            "router.keys": str(directory / "keys.json"),
        }
        settings = Settings.load(RouterSettings, env={}, flags=flags)
        own = settings[RouterSettings]
        self.servers = app.attached_servers(own, "router-1")
        transport = Transports(BusTransport(), DirectTransport(self.servers))
        link = Link("router-1", "local/*", transport.bus, own.stall_s)
        telemetry = Telemetry(CollectorRegistry(), [], tracing=False)
        self.router = app.assemble(settings, link, transport, telemetry, "router-1")
        self.waiting: list[client.Connection] = []
        for server in self.servers:
            server.models, server.state = {engines.MODEL: server.name}, "ready"
            for _ in range(CLIENTS):
                server.pool.release(self._connection(server.pool))
        wanted = partial(passthrough.wanted, own.passthrough, True)
        config = uvicorn.Config(self.router.app, lifespan="off", log_config=None)
        config.load()
        make = partial(
            Front,
            config=config,
            server_state=ServerState(),
            app_state={},
            desk=self.router.desk,
            wanted=wanted,
        )
        self.written: list[bytes] = []
        cork = Cork(asyncio.get_running_loop())
        self.clients = [make(cork=cork) for _ in range(CLIENTS)]
        for one in self.clients:
            one.connection_made(cast("Any", Wire(self.written.append)))

    def _connection(self, pool: client.Pool) -> client.Connection:
        connection = client.Connection(pool)
        connection.connection_made(cast("Any", Wire(lambda _: self.waiting.append(connection))))
        return connection

    async def serve(self, requests: list[bytes], answer: list[bytes], count: int) -> None:
        """`count` requests, always `CLIENTS` of them in step."""
        for first in range(0, count, CLIENTS):
            if first % BEATS == 0:
                for server in self.servers:
                    for heartbeat in server.heartbeats():
                        self.router.serving.beat(heartbeat)
            for number, one in enumerate(self.clients):
                one.data_received(requests[(first + number) % len(requests)])
            await asyncio.sleep(0)
            asked, self.waiting[:] = list(self.waiting), []
            assert len(asked) == CLIENTS, "every request is at a server"
            for piece in answer:
                for connection in asked:
                    connection.data_received(piece)
                await asyncio.sleep(0)
        self.written.clear()


def is_compiled() -> bool:
    return not serving.__file__.endswith(".py")


async def main(kind: str, functions: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        inside = Inside(Path(directory))
    stream, count = kind == "stream", REQUESTS[kind]
    requests = load.requests(
        "http://127.0.0.1:8000", engines.MODEL, inside.key, prompt_tokens=1000, stream=stream
    )
    serve = partial(inside.serve, requests, ANSWERS[kind], count)
    await serve()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    least = float("inf")
    for _ in range(ROUNDS):
        began = time.thread_time()
        await serve()
        least = min(least, (time.thread_time() - began) / count)
    modules = "compiled" if is_compiled() else "interpreted"
    print(f"{kind}: {least * 1e6:.1f} µs of CPU per request, {modules}", flush=True)
    if functions:
        with cProfile.Profile(time.thread_time) as profile:
            await serve()
        show(pstats.Stats(profile), count, functions)


PARTS = {
    "the policy, and what it reads": ("<views>", "<policy>"),
    "dispatcher": ("autopoiesis/dispatch/",),
    "HTTP to clients": ("autopoiesis/router/http/", "runtime/http.py", "uvicorn/"),
    "HTTP to servers": ("autopoiesis/router/transports/",),
    "body, headers, key": tuple(
        f"router/{name}.py" for name in ("intake", "identity", "prompts", "admission", "auth")
    ),
    "metrics, traces, records": tuple(
        f"router/{name}.py"
        for name in ("reporting", "metrics", "histogram", "records", "tracing", "shipping")
    ),
    "the core between them": ("autopoiesis/router/",),
}
"""By where a function is written, the first that fits."""


def part_of(file: str) -> str:
    return next((name for name, marks in PARTS.items() if any(mark in file for mark in marks)), "the rest")


def by_part(rows: dict[Any, Any]) -> dict[str, float]:
    """Own seconds of each part's functions, and of the built-in ones that these call."""
    spent: dict[str, float] = defaultdict(float)
    for (file, _, _), (_, _, own, _, callers) in rows.items():
        if file == "~":
            for (caller, _, _), (_, _, seconds, _) in callers.items():
                spent[part_of(caller)] += seconds
        else:
            spent[part_of(file)] += own
    return spent


def show(stats: pstats.Stats, count: int, functions: int) -> None:
    """Shares rather than times, for the profiler slows down what it counts."""
    rows = cast("Any", stats).stats
    total = sum(own for _, _, own, _, _ in rows.values())
    print(f"{cast('Any', stats).total_calls / count:.0f} calls per request")
    for part, seconds in sorted(by_part(rows).items(), key=lambda item: -item[1]):
        print(f"{seconds / total:7.1%}  {part}")
    print("  own %  with callees %  calls")
    by_own = sorted(rows.items(), key=lambda item: item[1][2], reverse=True)
    for (file, line, name), (_, calls, own, cumulative, _) in by_own[:functions]:
        where = f"{Path(file).name}:{line} {name}"
        print(f"{own / total:7.1%}  {cumulative / total:14.1%}  {calls / count:5.1f}  {where}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=list(REQUESTS))
    parser.add_argument("--profile", type=int, default=0, metavar="FUNCTIONS")
    arguments = parser.parse_args()
    uvloop.run(main(arguments.kind, arguments.profile))
    if not arguments.profile and not is_compiled() and contenders.is_compiled_current():
        subprocess.run([str(contenders.COMPILED), *sys.argv], check=True)
