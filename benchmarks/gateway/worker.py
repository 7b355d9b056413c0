"""One of our worker processes whose engines are mocks in the same process: `python worker.py --bus URL --count 8`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator

import uvloop
from engines import MODEL, TOKENS

from autopoiesis.contracts.messages.infer import FailureCode, Generate
from autopoiesis.contracts.messages.telemetry import StepRecord
from autopoiesis.runtime.bus import Bus, Responders
from autopoiesis.worker.engines.base import Broken, Ended, EngineStats, Output, Piece
from autopoiesis.worker.layout import ReplicaSpec
from autopoiesis.worker.serving import Place, ServedReplica

TEXT = [f"word{number:02d} " for number in range(TOKENS)]


class MockEngine:
    """`engines.base.Engine`: as `engines.Server`, a token per step or all at once."""

    def __init__(self, steps: Steps, whole_s: float) -> None:
        self.model = MODEL
        self.changed = asyncio.Event()
        self._steps = steps
        self._whole_s = whole_s
        self._left: set[str] = set()

    async def start(self) -> None: ...

    def generate(self, request: Generate) -> AsyncIterator[Output]:
        return self._stream(request) if request.stream else self._whole(request)

    async def _whole(self, request: Generate) -> AsyncIterator[Output]:
        until = time.monotonic() + self._whole_s
        while time.monotonic() < until and request.request_id not in self._left:
            await self._steps.next()
        yield Piece("".join(TEXT), TOKENS)
        yield self._end(request)

    async def _stream(self, request: Generate) -> AsyncIterator[Output]:
        for number in range(len(request.resume_token_ids), TOKENS):
            await self._steps.next()
            if request.request_id in self._left:
                break
            yield Piece(TEXT[number], 1, token_ids=(number,))
        yield self._end(request)

    def _end(self, request: Generate) -> Ended | Broken:
        if request.request_id in self._left:
            self._left.discard(request.request_id)
            return Broken(code="cancelled", message="the request was cancelled")
        return Ended(finish_reason="stop", prompt_tokens=1000, output_tokens=TOKENS, first_token_s=0.001)

    def cancel(self, request_id: str, reason: FailureCode) -> None:
        self._left.add(request_id)
        sys.stdout.write("left\n")
        sys.stdout.flush()

    def stats(self) -> EngineStats:
        return EngineStats(state="ready", kv_capacity_tokens=400_000, max_running=256)

    def steps(self) -> list[StepRecord]:
        return []

    async def drain(self) -> None: ...

    async def stop(self) -> None: ...


class Steps:
    """Wakes all streams of the process together, every `step_s` seconds."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._next: asyncio.Future[None] | None = None

    async def next(self) -> None:
        if self._next is None:
            loop = asyncio.get_running_loop()
            self._next = loop.create_future()
            loop.call_later(self._step_s, self._wake)
        await self._next

    def _wake(self) -> None:
        waited, self._next = self._next, None
        if waited is not None:
            waited.set_result(None)


async def serve(arguments: argparse.Namespace) -> None:
    bus = await Bus.connect(arguments.bus, name="mock worker", inbox_prefix="_INBOX.worker")
    responders = await Responders.start(bus, arguments.name, coalesce=0.0)
    steps = Steps(arguments.step_s)
    for number in range(arguments.count):
        name = f"{arguments.name}-{number}"
        spec, place = ReplicaSpec(name=name, model=MODEL, gpu="H100"), Place(node=name)
        await ServedReplica(bus, responders, spec, place, MockEngine(steps, arguments.whole_s)).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bus", required=True)
    parser.add_argument("--name", default="mock")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--step-s", type=float, default=0.002)
    parser.add_argument("--whole-s", type=float, default=0.0)
    uvloop.run(serve(parser.parse_args()))
