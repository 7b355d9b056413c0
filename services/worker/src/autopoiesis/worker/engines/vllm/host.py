"""Serves a loaded vLLM to the node's worker: requests in, outputs and load out."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Final

from autopoiesis.contracts.messages.infer import Generate
from autopoiesis.worker.engines import frames
from autopoiesis.worker.engines.base import Output
from autopoiesis.worker.engines.frames import Link, ToEngine
from autopoiesis.worker.engines.vllm.answer import Answer
from autopoiesis.worker.engines.vllm.engine import Loaded

log = logging.getLogger(__name__)

TELL_S: Final = 0.1
"""Between two reports of the load."""
OK: Final = 0
DEAD: Final = 1


class Host:
    def __init__(self, link: Link[ToEngine], loaded: Loaded) -> None:
        self._link = link
        self._loaded = loaded
        self._answers: dict[str, Answer] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> int:
        """Until the node's worker hangs up or the engine dies; the exit code."""
        telling = asyncio.create_task(self._tell(), name="load")
        listening = asyncio.create_task(self._listen(), name="frames")
        done, _ = await asyncio.wait((telling, listening), return_when=asyncio.FIRST_COMPLETED)
        for task in (telling, listening, *self._tasks):
            task.cancel()
        await asyncio.gather(telling, listening, *self._tasks, return_exceptions=True)
        if telling in done:
            return DEAD
        if (error := listening.exception()) is not None:
            log.error("the node's worker cannot be understood: %s", error)
            return DEAD
        return OK

    async def _listen(self) -> None:
        while (frame := await self._link.receive()) is not None:
            match frame:
                case frames.Run(request):
                    self._run(request)
                case frames.Abort(request_id):
                    if request_id in self._answers:
                        self._answers[request_id].abort()
                case frames.Sleep() | frames.Wake():
                    await self._turn(frame)

    def _run(self, request: Generate) -> None:
        answer = Answer(request, partial(self._say, request.request_id))
        self._answers[request.request_id] = answer
        task = asyncio.create_task(answer.run(self._loaded.app), name=request.request_id)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._answers.pop(request.request_id, None))

    def _say(self, request_id: str, output: Output) -> None:
        self._link.send(frames.Said(request_id, output))

    async def _turn(self, frame: frames.Sleep | frames.Wake) -> None:
        llm = self._loaded.llm
        asleep = isinstance(frame, frames.Sleep)
        try:
            if isinstance(frame, frames.Sleep):
                await llm.sleep(frame.level)
                self._loaded.ledger.cleared()
            else:
                await llm.wake_up()
        except Exception as error:
            log.exception("the engine cannot %s", "sleep" if asleep else "wake")
            self._link.send(frames.Slept(asleep=not asleep, error=str(error)))
        else:
            self._link.send(frames.Slept(asleep=asleep))

    async def _tell(self) -> None:
        """Report the load, until vLLM's core is dead."""
        llm = self._loaded.llm
        while not llm.errored:
            self.tell()
            await self._link.flush()
            await asyncio.sleep(TELL_S)
        log.error("vLLM's core died: %s", llm.dead_error)

    def tell(self) -> None:
        """Report the load now."""
        loaded = self._loaded
        stats = loaded.observer.stats(
            adapters=loaded.adapters,
            evictions=loaded.ledger.evictions,
            evicted=loaded.ledger.recent(),
        )
        self._link.send(frames.Seen(stats=stats, steps=loaded.observer.steps.take()))
