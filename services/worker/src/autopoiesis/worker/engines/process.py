"""An engine in a process of its own: supervised, restarted when it dies, its requests ended with a type when they are lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping
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


class ProcessEngine:
    """`base.Engine`. `on_freed` is called once, when the process and its memory have gone for good."""

    def __init__(
        self, program: Program, *, chunk_interval_s: float, on_freed: Callable[[], None] = lambda: None
    ) -> None:
        self.model = program.configure.model
        self.changed = asyncio.Event()
        self._program = program
        self._chunk_interval_s = chunk_interval_s
        self._on_freed = on_freed
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

    async def start(self) -> None:
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
        self._stopping.set()
        self._become("stopped")
        self._lose("the engine was stopped")
        if self._child is not None:
            self._child.ask_to_stop()
        if self._supervising is not None:
            await self._supervising
            self._supervising = None
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
            if self._stopping.is_set() or self._refused:
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
        answer = await self._slept
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
