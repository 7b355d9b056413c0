"""What end-to-end tests use to drive an installation, to hurt it, and to see what became of each request."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import json
import re
import signal
import sys
import time
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Self

import httpx
import psutil
import pytest

from autopoiesis.cli import app as cli
from autopoiesis.cli.installation import Installation
from autopoiesis.cli.load import LoadResult, Progress, run_load
from autopoiesis.runtime.embedded import Supervisor
from autopoiesis.runtime.embedded.child import Command, Ready
from autopoiesis.simulator.workload import Trace
from autopoiesis.simulator.workload.generate import Lengths, Mix, poisson
from autopoiesis.store import Store, StoreError

MODEL = "llama-3.1-8b"
SHORT = Mix(prompt=Lengths(150, 0.5, high=600), output=Lengths(25, 0.5, high=80))


async def until(condition: Callable[[], Any], timeout: float = 30.0, *, every: float = 0.05) -> None:
    """Wait for a (sync or async) condition, polling `every` s; fails after `timeout` s."""
    deadline = time.monotonic() + timeout
    while True:
        outcome = condition()
        if inspect.isawaitable(outcome):
            outcome = await outcome
        if outcome:
            return
        if time.monotonic() > deadline:
            pytest.fail(f"not true within {timeout} s: {inspect.getsource(condition).strip()}")
        await asyncio.sleep(every)


class Traffic(AbstractAsyncContextManager[Any]):
    """Open-loop load on one router for as long as the block lasts; then `result` holds every request's end."""

    def __init__(self, url: str, *, rate: float = 12.0, seed: int = 0) -> None:
        self._url = url
        self._trace: Trace = poisson(rate, 150.0, mix=(SHORT,), seed=seed)
        self._stop = asyncio.Event()
        self._state = Progress(0, 0, 0, 0, 0.0)
        self._task: asyncio.Task[LoadResult] | None = None
        self.result: LoadResult

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(
            run_load(
                self._url,
                self._trace,
                model=MODEL,
                timeout=60.0,
                progress=self._note,
                stop=self._stop,
            )
        )
        await self.goes_on(5)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._stop.set()
        self.result = await self._task

    def _note(self, state: Progress) -> None:
        self._state = state

    async def goes_on(self, requests: int = 15) -> None:
        """Wait until so many more requests were answered well."""
        wanted = self._answered + requests
        await until(lambda: self._answered >= wanted, 60)

    @property
    def _answered(self) -> int:
        return self._state.ended - self._state.failed

    def errors(self, *, besides: str = "$^") -> set[str]:
        """What clients were told of requests that were not answered whole, without what fits the pattern `besides`."""
        assert self.result.records
        return {error for error in self.result.errors() if not re.search(besides, error)}


class Probe:
    """One request of a known length, whose replica and end are known too."""

    def __init__(self, http: httpx.AsyncClient, url: str, *, tokens: int, stream: bool = True) -> None:
        self.tokens = tokens
        self.stream = stream
        self.replica = self.policy = ""
        """Who answers, and the beginning of the hash of the policy that chose it."""
        self.epoch = -1
        """Of that policy."""
        self.began = False
        """Whether text has come."""
        self.output_tokens = 0
        self.error: dict[str, Any] | None = None
        """OpenAI's error object, however it came."""
        self.done = False
        """The end was announced: `[DONE]`, or a whole body."""
        self.task = asyncio.create_task(self._run(http, f"{url}/v1/chat/completions"))

    @property
    def finished(self) -> bool:
        return self.done and self.error is None and self.output_tokens == self.tokens

    def __repr__(self) -> str:
        return f"Probe({self.replica}: {self.output_tokens} of {self.tokens} tokens, done={self.done}, error={self.error})"

    async def _run(self, http: httpx.AsyncClient, url: str) -> None:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "tell me a long story"}],
            "max_tokens": 4096,
            "stream": self.stream,
            "simulate": {"output_tokens": self.tokens},
        }
        if self.stream:
            body["stream_options"] = {"include_usage": True}
        async with http.stream("POST", url, json=body) as response:
            self._explained(response.headers)
            if response.status_code != 200 or not self.stream:
                answer = json.loads(await response.aread())
                self.error, self.done = answer.get("error"), True
                self._count(answer)
                return
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    self._event(line.removeprefix("data: "))

    def _explained(self, headers: httpx.Headers) -> None:
        if "x-autopoiesis-replica" in headers:
            self.replica = headers["x-autopoiesis-replica"]
            self.policy = headers["x-autopoiesis-policy"]
            self.epoch = int(headers["x-autopoiesis-epoch"])

    def _event(self, data: str) -> None:
        if data == "[DONE]":
            self.done = True
            return
        event = json.loads(data)
        self.error = event.get("error") or self.error
        self.began = self.began or any(choice["delta"].get("content") for choice in event.get("choices", ()))
        self._count(event)

    def _count(self, answer: dict[str, Any]) -> None:
        usage = answer.get("usage")
        if usage:
            self.output_tokens = usage["completion_tokens"]


async def state(http: httpx.AsyncClient, router: str) -> dict[str, Any]:
    """What `/admin/state` of a router says."""
    answer = await http.get(f"{router}/admin/state")
    answer.raise_for_status()
    plain: dict[str, Any] = answer.json()
    return plain


async def replicas(http: httpx.AsyncClient, router: str) -> set[str]:
    """Names of all replicas that a router knows."""
    return {row["replica"] for row in (await state(http, router))["fleet"]}


async def serves_on_every_replica(http: httpx.AsyncClient, router: str) -> None:
    """Send short requests until each replica has answered one whole."""
    missing = await replicas(http, router)

    async def ask() -> bool:
        probe = Probe(http, router, tokens=3)
        await probe.task
        if probe.finished:
            missing.discard(probe.replica)
        return not missing

    await until(ask)


def command(*arguments: str) -> str:
    """Run an `autopoiesis` command in this process; returns what it printed. Fails unless it exits with 0."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = cli.run(arguments)
    assert code == 0, f"autopoiesis {' '.join(arguments)} ended with {code}: {printed.getvalue()}"
    return printed.getvalue()


async def shell(*arguments: str) -> str:
    """`command`, as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "autopoiesis.cli", *arguments), stdout=PIPE, stderr=STDOUT
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    return printed.decode()


async def promote(installation: Installation, http: httpx.AsyncClient, policy: str) -> None:
    """`autopoiesis policy promote`, and wait until the router decides with it: through PostgreSQL, promoter and NATS."""
    router = installation.running.router
    before = (await state(http, router))["policy"]["epoch"]
    await asyncio.to_thread(command, "policy", "promote", policy, "--data", str(installation.data_dir))

    async def active() -> bool:
        return bool((await state(http, router))["policy"]["epoch"] > before)

    await until(active)


def family(pid: int) -> list[psutil.Process]:
    """A process and all its descendants."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        process.send_signal(number)


def revive(supervisor: Supervisor, command: Command, *, ready: Ready = "notify") -> None:
    """Start again what was killed for good, and wait until it is ready."""
    supervisor.start(
        command.name,
        command.argv,
        env=command.env,
        cwd=command.cwd,
        ready=ready,
        timeout=60.0,
        restart=True,
        stop_signal=command.stop_signal,
        layer=command.layer,
    )


def accepts(database: str) -> bool:
    """Whether PostgreSQL takes connections again: it listens before it has recovered."""

    async def ping() -> None:
        async with await Store.open(database, pool_size=1):
            pass

    try:
        asyncio.run(ping())
    except StoreError:
        return False
    return True


class Durable(NamedTuple):
    """A durable consumer: sequences of its stream."""

    last: int
    """Newest message of the stream."""
    done: int
    """Acknowledged up to here."""
    held: int
    """Messages delivered and not yet acknowledged."""


async def durables(http: httpx.AsyncClient, monitor: str) -> dict[str, Durable]:
    """Every durable consumer, by name, as the NATS server's monitor has it."""
    answer = await http.get(f"{monitor}/jsz", params={"streams": "true", "consumers": "true"})
    return {
        consumer["name"]: Durable(
            stream["state"]["last_seq"], consumer["ack_floor"]["stream_seq"], consumer["num_ack_pending"]
        )
        for account in answer.json().get("account_details", [])
        for stream in account["stream_detail"]
        for consumer in stream.get("consumer_detail") or ()
    }


async def catches_up(http: httpx.AsyncClient, monitor: str, name: str) -> None:
    """Wait until a consumer has acknowledged something published after this call (under load)."""
    mark = 0

    async def beyond() -> bool:
        nonlocal mark
        consumer = (await durables(http, monitor)).get(name)
        if consumer is None:  # the server has only just come back
            return False
        mark = mark or consumer.last
        return consumer.done > mark

    await until(beyond, every=0.1)
