"""What clients see when an engine is killed or clients leave: ours beside other routers, over two mock engines each.

`python benchmarks/faults/gateway.py [--json FILE] [--only NAME …]`

- *killed*: eight streams run, then one engine gets SIGKILL. Each stream is `finished` (every token exactly once, then
  `[DONE]`), ends with a typed `error`, or is `truncated` without a word.
- *dead*: eight requests right after. Those not answered with 200 are `lost`.
- *gone*: a client leaves a stream, another a whole answer; whether the engine is told, within ten seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parent.parent / "gateway"))

import contenders
from contenders import Running, Skipped, Stage
from engines import MODEL, TOKENS
from run import PEERS, await_ready

STREAMS = 8
STEP_S, WHOLE_S = 0.15, 1.5
GONE_S = 10.0
ENGINE = ("--count", "1", "--step-s", str(STEP_S), "--whole-s", str(WHOLE_S))
TURNS = {"AUTOPOIESIS_ROUTER_POLICY": "round_robin"}
Row = dict[str, Any]


class Engine:
    """One engine process; counts the clients that it was told had left."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        self.first = process.stdout.readline()
        self.left = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.left += line.strip() == "left"


def http_engines(stage: Stage, start: Callable[[Stage], Running]) -> tuple[Running, list[Engine]]:
    engines = [Engine(stage.python("engines.py", *ENGINE, pipe=True)) for _ in range(2)]
    stage.urls = [json.loads(engine.first)["urls"][0] for engine in engines]
    return start(stage), engines


def our_direct(stage: Stage) -> Running:
    """Taking turns, so that half of the streams run on the engine that is killed."""
    _, bus = contenders.nats(stage, "ours-direct")
    attach = {"AUTOPOIESIS_ROUTER_ATTACH": json.dumps(stage.urls)}
    return contenders.router(stage, "ours-direct", bus, attach | TURNS)


def our_workers(stage: Stage) -> tuple[Running, list[Engine]]:
    _, bus = contenders.nats(stage, "ours-over-nats")
    running = contenders.router(stage, "ours-over-nats", bus, TURNS)
    engines = [
        Engine(stage.python("worker.py", "--bus", bus, "--name", name, *ENGINE, pipe=True))
        for name in ("first", "second")
    ]
    return running, engines


def ask(running: Running, **fields: Any) -> Row:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], **fields}
    headers = {"authorization": f"Bearer {running.key or 'none'}"}
    return {"url": f"{running.url}/v1/chat/completions", "json": body, "headers": headers}


class Stream:
    """One client of a stream."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.outcome = "truncated"

    async def run(self, client: httpx.AsyncClient, running: Running) -> None:
        try:
            async with client.stream("POST", **ask(running, stream=True)) as answer:
                if answer.status_code != 200:
                    self.outcome = "error"
                    return
                async for line in answer.aiter_lines():
                    self._read(line)
        except httpx.HTTPError:
            return

    def _read(self, line: str) -> None:
        if not line.startswith("data:"):
            return
        data = line[5:].strip()
        if data == "[DONE]":
            if self.outcome == "truncated":
                whole = self.words == [f"word{number:02d}" for number in range(TOKENS)]
                self.outcome = "finished" if whole else "wrong"
            return
        event = json.loads(data)
        if event.get("error"):
            self.outcome = "error"
        for choice in event.get("choices") or ():
            self.words += ((choice.get("delta") or {}).get("content") or "").split()


async def until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.02)
    return True


async def client_gone(
    client: httpx.AsyncClient, running: Running, engines: list[Engine], stream: bool
) -> bool:
    before = sum(engine.left for engine in engines)
    if stream:
        reader = Stream()
        call: asyncio.Task[object] = asyncio.create_task(reader.run(client, running))
        await until(lambda: len(reader.words) >= 2, 30.0)
    else:
        call = asyncio.create_task(_post(client, running))
        await asyncio.sleep(WHOLE_S / 3)  # nothing tells a client that its request has reached the engine
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    return await until(lambda: sum(engine.left for engine in engines) > before, GONE_S)


async def _post(client: httpx.AsyncClient, running: Running) -> int:
    try:
        return (await client.post(**ask(running))).status_code
    except httpx.HTTPError:
        return 0


async def scenario(running: Running, engines: list[Engine]) -> Row:
    async with httpx.AsyncClient(timeout=60.0, limits=httpx.Limits(max_connections=None)) as client:
        told = {
            f"gone_{name}": await client_gone(client, running, engines, name == "stream")
            for name in ("stream", "whole")
        }
        await _post(client, running)
        streams = [Stream() for _ in range(STREAMS)]
        tasks = [asyncio.create_task(stream.run(client, running)) for stream in streams]
        if not await until(lambda: all(len(stream.words) >= 2 for stream in streams), 60.0):
            raise Skipped("its streams did not begin")
        os.kill(engines[0].process.pid, signal.SIGKILL)
        statuses = await asyncio.gather(*(_post(client, running) for _ in range(STREAMS)))
        await asyncio.gather(*tasks)
    outcomes = Counter(stream.outcome for stream in streams)
    killed = {name: outcomes[name] for name in ("finished", "error", "truncated", "wrong")}
    return {**killed, "lost": sum(status != 200 for status in statuses), **told}


def one(name: str, peers: Path) -> Row:
    with tempfile.TemporaryDirectory(prefix="faults-") as directory:
        stage = Stage(Path(directory), peers)
        try:
            start = our_direct if name == "ours-direct" else contenders.ALL[name]
            running, engines = our_workers(stage) if name == "ours-over-nats" else http_engines(stage, start)
            await_ready(running)
            return {"name": name, "peer": running.peer, **asyncio.run(scenario(running, engines))}
        finally:
            stage.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(contenders.ALL))
    parser.add_argument("--peers", type=Path, default=PEERS)
    options = parser.parse_args()
    rows = []
    for name in options.only or [name for name in contenders.ALL if name != "floor"]:
        try:
            rows.append(one(name, options.peers))
        except Skipped as reason:
            print(f"skipped: {name}: {reason}", file=sys.stderr)
    columns = ("finished", "error", "truncated", "wrong", "lost", "gone_stream", "gone_whole")
    print(f"{'':28}" + "".join(f"{column:>12}" for column in columns))
    for row in rows:
        cells = ("yes" if row[key] is True else "no" if row[key] is False else row[key] for key in columns)
        print(f"{row['name']:28}" + "".join(f"{cell!s:>12}" for cell in cells))
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
