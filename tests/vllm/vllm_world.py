"""What these tests say to the installation, and what they hear of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from autopoiesis.contracts.messages.fleet import Heartbeat
from autopoiesis.contracts.subjects import HEARTBEAT
from autopoiesis.runtime.bus import Bus, Received

A, B = "tiny-a", "tiny-b"
REPLICAS = ("n1-cpu-0", "n1-cpu-1")


@dataclass(frozen=True)
class World:
    router: str
    worker: psutil.Process
    nats: str

    def engines(self) -> dict[str, psutil.Process]:
        """The engines' own processes by replica, as their environment-free command lines and order of start tell."""
        found = [child for child in self.worker.children(recursive=True) if _is_engine(child)]
        return {str(child.pid): child for child in sorted(found, key=lambda child: child.create_time())}


def _is_engine(process: psutil.Process) -> bool:
    try:
        line = process.cmdline()
    except psutil.NoSuchProcess:
        return False
    return "autopoiesis.worker.engines.vllm" in line and "-m" in line


@dataclass
class Fleet:
    """Heartbeats as they come."""

    last: dict[str, Heartbeat] = field(default_factory=dict)
    beats: list[Heartbeat] = field(default_factory=list)

    @classmethod
    async def listen(cls, bus: Bus) -> Fleet:
        fleet = cls()
        await bus.subscribe(HEARTBEAT, fleet._note)
        await bus.flush()
        return fleet

    def _note(self, item: Received[Heartbeat]) -> None:
        self.last[item.message.replica] = item.message
        self.beats.append(item.message)

    async def until(self, condition: Callable[[dict[str, Heartbeat]], bool], timeout: float = 240.0) -> None:
        async with asyncio.timeout(timeout):
            while not condition(self.last):  # noqa: ASYNC110 - heartbeats come several times a second
                await asyncio.sleep(0.02)

    async def ready(self, *replicas: str) -> None:
        await self.until(
            lambda last: all(name in last and last[name].state == "ready" for name in replicas or REPLICAS)
        )


@dataclass
class Streamed:
    """A streamed answer as a client sees it."""

    text: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    replica: str = ""
    error: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    finish_reason: str | None = None
    done: bool = False

    def take(self, data: str) -> None:
        if data == "[DONE]":
            self.done = True
            return
        event = json.loads(data)
        self.events.append(event)
        self.error = event.get("error") or self.error
        self.usage = event.get("usage") or self.usage
        for choice in event.get("choices", ()):
            self.text += choice.get("delta", {}).get("content") or choice.get("text") or ""
            self.finish_reason = choice.get("finish_reason") or self.finish_reason


def chat(content: str = "the quick brown fox", *, model: str = A, **body: Any) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": 16,
        **body,
    }


async def whole(http: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    return said


async def stream(
    http: httpx.AsyncClient,
    body: dict[str, Any],
    on_event: Callable[[Streamed], Any] = lambda so_far: None,
    headers: dict[str, str] | None = None,
) -> Streamed:
    """The whole stream; `on_event` is called after each event, and ends it by raising `StopAsyncIteration`."""
    got = Streamed()
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    async with http.stream("POST", "/v1/chat/completions", json=asked, headers=headers) as response:
        got.replica = response.headers.get("x-autopoiesis-replica", "")
        if response.status_code != 200:
            got.error = json.loads(await response.aread())["error"]
            return got
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                got.take(line.removeprefix("data: "))
                try:
                    on_event(got)
                except StopAsyncIteration:
                    return got
    return got
