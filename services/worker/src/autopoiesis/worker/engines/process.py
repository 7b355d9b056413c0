"""An engine in a process of its own: supervised, restarted when it dies, its requests ended with a type when they are lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from autopoiesis.contracts.messages.fleet import ReplicaState
from autopoiesis.contracts.messages.infer import FailureCode, Generate
from autopoiesis.contracts.messages.telemetry import StepRecord
from autopoiesis.worker.engines import frames
from autopoiesis.worker.engines.base import Broken, EngineStartError, EngineStats, Output, Piece
from autopoiesis.worker.engines.child import Child
from autopoiesis.worker.engines.outputs import Outputs

log = logging.getLogger(__name__)

BACKOFF_MIN_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0
HEALTHY_S: Final = 30.0
"""An engine that was ready for so long is restarted at once."""

TURN_S: Final = 120.0
"""Longest time to fall asleep or to wake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to start, and what to tell it first."""

    argv: tuple[str, ...]
    configure: frames.Configure
    env: Mapping[str, str] = field(default_factory=dict)


class _Request:
    __slots__ = ("outputs", "produced", "prompt_tokens", "started")

    def __init__(self, request: Generate, outputs: Outputs) -> None:
        self.outputs = outputs
        self.prompt_tokens = request.prompt_tokens
        self.produced = len(request.resume_token_ids)
        self.started = False


async def _never(engine: ProcessEngine) -> bool:
    return False


class ProcessEngine:
    """`base.Engine`. One that was stopped asleep may be started again, which wakes it."""

    def __init__(
        self,
        program: Program,
        *,
        chunk_interval_s: float,
        on_freed: Callable[[], None] = lambda: None,
        may_sleep: Callable[[ProcessEngine], Awaitable[bool]] = _never,
    ) -> None:
        """`on_freed` is called each time it has given its accelerators back: asleep, or with its process gone for good.

        `may_sleep` is asked when it is stopped: whether its process shall sleep instead of ending, if it can.
        """
        self.model = program.configure.model
        self.changed = asyncio.Event()
        self._program = program
        self._chunk_interval_s = chunk_interval_s
        self._on_freed = on_freed
        self._may_sleep = may_sleep
        self._sleeps = False
        self._asleep = False
        self._holds = True
        self._state: ReplicaState = "loading"
        self._seen = EngineStats(state="loading", progress=0.0)
        self._progress = 0.0
        self._restarts = 0
        self._ready_at = math.inf
        self._refused = ""
        self._child: Child | None = None
        self._requests: dict[str, _Request] = {}
        self._steps: list[StepRecord] = []
        self._settled = asyncio.Event()
        self._slept: asyncio.Future[frames.Slept] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = asyncio.Event()
        self._supervising: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the engine's process, none while there is none."""
        return self._child.pid if self._child is not None else None

    @property
    def sleeps(self) -> bool:
        """It was stopped, and its process still lives."""
        return self._asleep and self._child is not None

    async def start(self) -> None:
        if self._asleep and await self._woken():
            return
        self._supervising = asyncio.create_task(self._supervise(), name=f"supervise {self._name}")
        await self._settled.wait()
        if self._state != "ready":
            raise EngineStartError(self._refused or "its process ended while it loaded; it is started again")

    def generate(self, request: Generate) -> Outputs:
        outputs = Outputs(interval_s=self._chunk_interval_s, whole=not request.stream)
        if self._state != "ready" or self._child is None:
            outputs.end(Broken(code="unavailable", message=f"the engine of {self._name} is {self._state}"))
            return outputs
        self._requests[request.request_id] = _Request(request, outputs)
        self._idle.clear()
        self._child.link.send(frames.Run(request))
        return outputs

    def knows(self, path: str) -> bool:
        """Whatever the engine's own application answers: it is the one to say no."""
        return True

    def cancel(self, request_id: str, reason: FailureCode) -> None:
        held = self._requests.get(request_id)
        if held is None:
            return
        message = "the deadline passed" if reason == "deadline" else "the request was cancelled"
        self._end(request_id, Broken(code=reason, message=message, output_tokens=held.produced))
        if self._child is not None:
            self._child.link.send(frames.Abort(request_id))

    def stats(self) -> EngineStats:
        """The engine's own figures lag, so whatever is in flight from here counts at least."""
        seen = self._seen
        total = max(len(self._requests), seen.running + seen.waiting)
        return replace(
            seen,
            state=self._state,
            progress=1.0 if self._state == "ready" else self._progress,
            running=total - min(total, seen.waiting),
            waiting=min(total, seen.waiting),
            queued_prefill_tokens=sum(r.prompt_tokens for r in self._requests.values() if not r.started),
            restarts=self._restarts,
        )

    def steps(self) -> list[StepRecord]:
        taken, self._steps = self._steps, []
        return taken

    async def drain(self) -> None:
        await self._idle.wait()

    async def sleep(self, level: int = 1) -> None:
        """Free the accelerator's memory; ready again after `wake`. Raises `RuntimeError` where the engine cannot."""
        await self._ask(frames.Sleep(level))

    async def wake(self) -> None:
        await self._ask(frames.Wake())

    async def stop(self) -> None:
        ready = self._state == "ready"
        self._become("stopped")
        if self._child is not None:
            for request_id in self._requests:
                self._child.link.send(frames.Abort(request_id))
        self._lose("the engine was stopped")
        if not (ready and self._sleeps and await self._may_sleep(self) and await self._fell_asleep()):
            await self.end()

    async def end(self) -> None:
        """End its process, whether it sleeps or not."""
        self._asleep = False
        await self._end_process()
        self._free()

    async def _end_process(self) -> None:
        self._stopping.set()
        if self._child is not None:
            self._child.ask_to_stop()
        if self._supervising is not None:
            await self._supervising
            self._supervising = None

    async def _fell_asleep(self) -> bool:
        try:
            await self.sleep()
        except RuntimeError as error:
            log.warning("%s: it cannot sleep, so it ends: %s", self._name, error)
            return False
        self._asleep = True
        self._free()
        return True

    async def _woken(self) -> bool:
        """Whether it runs again; if not, its process has ended."""
        self._asleep, self._holds, self._state = False, True, "loading"
        try:
            await self.wake()
        except RuntimeError as error:
            log.warning("%s: it does not wake, so it is started anew: %s", self._name, error)
            await self._end_process()
            self._stopping.clear()
            self._settled.clear()
            return False
        return True

    def _free(self) -> None:
        """Its accelerators are others' to take."""
        if self._holds:
            self._holds = False
            self._on_freed()

    # -- the process

    @property
    def _name(self) -> str:
        return self._program.configure.replica

    async def _supervise(self) -> None:
        backoff = BACKOFF_MIN_S
        while not self._stopping.is_set():
            self._ready_at = math.inf
            code = await self._live_once()
            self._settled.set()
            if self._stopping.is_set() or self._refused or self._asleep:
                break
            healthy = time.monotonic() - self._ready_at > HEALTHY_S
            backoff = BACKOFF_MIN_S if healthy else min(2 * backoff, BACKOFF_MAX_S)
            log.error(
                "%s: the engine's process ended (%s); started again in %g s", self._name, _said(code), backoff
            )
            self._restarts += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff)

    async def _live_once(self) -> int | None:
        """Run the process until it ends, which ends every request in it; its exit code."""
        self._progress = 0.0
        child = self._child = await Child.start(self._program.argv, self._program.env)
        child.link.send(self._program.configure)
        if self._stopping.is_set():
            child.ask_to_stop()
        try:
            while (frame := await child.link.receive()) is not None:
                self._on_frame(frame)
        except Exception:
            log.exception("%s: the engine's process cannot be understood", self._name)
        self._child = None
        self._become("failed" if self._refused else "loading")
        self._lose("the engine's process died")
        child.ask_to_stop()
        return await child.ended()

    def _on_frame(self, frame: frames.ToNode) -> None:
        match frame:
            case frames.Said(request_id, output):
                self._on_output(request_id, output)
            case frames.Seen():
                self._seen = frame.stats
                self._steps.extend(frame.steps)
            case frames.Progress(share):
                self._progress = share
                self.changed.set()
            case frames.Ready():
                self._ready_at = time.monotonic()
                self._sleeps = frame.sleeps
                log.info("%s: %s is ready", self._name, frame.version)
                if self._state == "loading":
                    self._become("ready")
                self._settled.set()
            case frames.Refused(message):
                self._refused = message
            case frames.Slept():
                if self._slept is not None and not self._slept.done():
                    self._slept.set_result(frame)

    def _on_output(self, request_id: str, output: Output) -> None:
        held = self._requests.get(request_id)
        if held is None:
            return
        if isinstance(output, Piece):
            held.started = True
            held.produced += output.tokens
            held.outputs.push(output)
        else:
            self._end(request_id, output)

    def _end(self, request_id: str, output: Output) -> None:
        held = self._requests.pop(request_id)
        assert not isinstance(output, Piece)
        held.outputs.end(output)
        if not self._requests:
            self._idle.set()

    def _lose(self, why: str) -> None:
        self._seen = EngineStats(state=self._state)
        if self._slept is not None and not self._slept.done():
            self._slept.set_result(frames.Slept(asleep=False, error=why))
        for request_id, held in list(self._requests.items()):
            self._end(request_id, Broken(code="unavailable", message=why, output_tokens=held.produced))

    async def _ask(self, frame: frames.Sleep | frames.Wake) -> None:
        if self._child is None:
            raise RuntimeError(f"the engine of {self._name} is {self._state}")
        self._slept = asyncio.get_running_loop().create_future()
        if isinstance(frame, frames.Sleep):
            self._become("loading")
        self._child.link.send(frame)
        try:
            answer = await asyncio.wait_for(self._slept, TURN_S)
        except TimeoutError:
            raise RuntimeError(f"no answer within {TURN_S:g} s") from None
        if self.pid is not None and not answer.asleep:
            self._become("ready")
        if answer.error:
            raise RuntimeError(answer.error)

    def _become(self, state: ReplicaState) -> None:
        if self._state not in {state, "stopped"}:
            self._state = state
            self.changed.set()


def _said(code: int | None) -> str:
    if code is None:
        return "killed with its guardian"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
