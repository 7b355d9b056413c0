"""A router's side of the bus for tests of workers: sends requests, collects answers and heartbeats."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import msgspec

from autopoiesis.contracts.messages.fleet import Heartbeat
from autopoiesis.contracts.messages.infer import Chunk, Failed, Finished, Generate, Reply
from autopoiesis.contracts.subjects import HEARTBEAT, slug
from autopoiesis.runtime.bus import Bus, Received, ReplyStream, RequestStreams


@dataclass
class Answer:
    chunks: list[Chunk] = field(default_factory=list)
    end: Finished | Failed | None = None

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def tokens(self) -> int:
        return sum(chunk.tokens for chunk in self.chunks)

    def add(self, reply: Reply) -> None:
        if isinstance(reply, Chunk):
            self.chunks.append(reply)
        else:
            self.end = reply


class Router:
    def __init__(self, bus: Bus, streams: RequestStreams, name: str) -> None:
        self.bus = bus
        self.streams = streams
        self.name = name
        self.beats: dict[str, list[Heartbeat]] = {}
        self._sent = 0

    @classmethod
    async def start(cls, bus: Bus, name: str = "router-1") -> Router:
        router = cls(bus, await RequestStreams.start(bus, name), name)
        await bus.subscribe(HEARTBEAT, router._on_beat)
        await bus.flush()
        return router

    def _on_beat(self, item: Received[Heartbeat]) -> None:
        self.beats.setdefault(item.message.replica, []).append(item.message)

    def last(self, replica: str) -> Heartbeat | None:
        beats = self.beats.get(replica)
        return beats[-1] if beats else None

    def state(self, replica: str) -> str | None:
        beat = self.last(replica)
        return beat.state if beat else None

    async def send(
        self,
        replica: str,
        *,
        output: int = 5,
        stream: bool = True,
        deadline_s: float | None = None,
        headers: dict[str, str] | None = None,
        **body: object,
    ) -> ReplyStream:
        self._sent += 1
        content = {
            "model": "m",
            "messages": [{"role": "user", "content": "hello there"}],
            "stream": stream,
            "simulate": {"output_tokens": output},
            **body,
        }
        generate = Generate(
            request_id=f"{self.name}-{self._sent}",
            router=self.name,
            nth=self._sent,
            model="m",
            endpoint="chat",
            body=msgspec.Raw(msgspec.json.encode(content)),
            stream=stream,
            prompt_tokens=3,
            max_tokens=100_000,
            deadline_s=deadline_s,
        )
        return await self.streams.open(slug(replica), generate, headers=headers)

    async def ask(self, replica: str, **options: object) -> Answer:
        return await read(await self.send(replica, **options))  # type: ignore[arg-type]


async def read(stream: ReplyStream, timeout: float = 20.0) -> Answer:
    """The whole answer. Raises the `ReplyError` that broke it."""
    answer = Answer()
    async with asyncio.timeout(timeout):
        async for batch in stream:
            for reply in batch:
                answer.add(reply)
    return answer


async def first_chunk(stream: ReplyStream, timeout: float = 20.0) -> Answer:
    """What came up to the first token."""
    answer = Answer()
    async with asyncio.timeout(timeout):
        while not answer.tokens and answer.end is None:
            for reply in await stream.next_batch():
                answer.add(reply)
    return answer
