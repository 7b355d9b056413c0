"""One replica on the bus: requests in, chunks out, heartbeats."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import uuid4

from opentelemetry.trace import Span, StatusCode

from autopoiesis.contracts.messages.fleet import Heartbeat, ReplicaState
from autopoiesis.contracts.messages.infer import Cancel, Generate
from autopoiesis.contracts.messages.telemetry import StepBatch, StepRecord
from autopoiesis.contracts.subjects import CANCEL, GENERATE, HEARTBEAT, STEP_TELEMETRY, slug
from autopoiesis.runtime.bus import Bus, BusError, Received, Responder, Responders, Subscription, processing
from autopoiesis.runtime.telemetry import genai
from autopoiesis.worker.acknowledged import Acknowledged
from autopoiesis.worker.dialects.asking import ask
from autopoiesis.worker.engines.base import Broken, Ended, Engine, EngineStartError, Output, Piece
from autopoiesis.worker.layout import ReplicaSpec

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 0.25
STEP_BATCH_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a replica runs and what it costs, as heartbeats say it."""

    node: str
    zone: str = ""
    preemptible: bool = False
    price: float = 0.0


class ServedReplica:
    """Connects one engine to the bus from `start` to `stop`. All on the event loop."""

    def __init__(
        self, bus: Bus, responders: Responders, spec: ReplicaSpec, place: Place, engine: Engine
    ) -> None:
        self.spec = spec
        self.incarnation = uuid4().hex[:12]
        self.draining = False
        self.lease_epoch = 0
        """Of the desired state that the node has reached."""
        self._bus = bus
        self._responders = responders
        self._place = place
        self._engine = engine
        self._token = slug(spec.name)
        self._began = time.monotonic()
        self._beat = 0
        self._acknowledged = Acknowledged()
        self._answers: set[asyncio.Task[None]] = set()
        self._subscriptions: list[Subscription[Generate] | Subscription[Cancel]] = []
        self._background: list[asyncio.Task[None]] = []
        self._steps: list[StepRecord] = []
        self._step_batch = 0
        self._shipped = self._began

    @property
    def state(self) -> ReplicaState:
        state = self._engine.stats().state
        return "draining" if self.draining and state == "ready" else state

    @property
    def active(self) -> int:
        """Requests that have not been answered to the end."""
        return len(self._answers)

    async def start(self) -> None:
        """Listen and announce the replica; its engine goes on loading in the background."""
        self._subscriptions = [
            await self._bus.subscribe(GENERATE, self._on_generate, replica=self._token),
            await self._bus.subscribe(CANCEL, self._on_cancel, replica=self._token),
        ]
        await self._bus.flush()
        self._background = [
            asyncio.create_task(self._load(), name=f"{self.spec.name} load"),
            asyncio.create_task(self._heartbeats(), name=f"{self.spec.name} heartbeats"),
        ]

    async def drain(self, deadline_s: float) -> None:
        """Say that no more is wanted, refuse what still comes, and wait until all is answered, at most `deadline_s` seconds."""
        self.draining = True
        await self._announce()
        try:
            async with asyncio.timeout(deadline_s):
                await self._engine.drain()
                await self._settle()
        except TimeoutError:
            log.warning(
                "%s: %d requests did not end within %g s of draining", self.spec.name, self.active, deadline_s
            )

    async def stop(self) -> None:
        """End what still runs, with typed failures, say goodbye and stop listening."""
        self.draining = True
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._engine.stop()
        await self._settle()
        for subscription in self._subscriptions:
            await subscription.drain()
        await self._settle()
        await self._announce()

    async def _settle(self) -> None:
        while self._answers:
            await asyncio.wait(set(self._answers))

    async def _load(self) -> None:
        try:
            await self._engine.start()
        except EngineStartError as error:
            log.error("%s: %s", self.spec.name, error)
        except Exception:
            log.exception("%s: the engine failed to start", self.spec.name)
        else:
            log.info("%s: ready", self.spec.name)

    # -- requests

    def _on_generate(self, item: Received[Generate]) -> None:
        request = item.message
        self._acknowledged.note(request.router, request.nth)
        if not item.reply:
            log.warning("%s: request %s names no inbox for its answer", self.spec.name, request.request_id)
            return
        responder = self._responders.respond(
            item, partial(self._engine.cancel, request.request_id, "cancelled")
        )
        outputs = self._refused() if self.draining else ask(self._engine, request)
        task = asyncio.create_task(self._answer(item, responder, outputs))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    def _on_cancel(self, item: Received[Cancel]) -> None:
        self._engine.cancel(item.message.request_id, item.message.reason)

    async def _refused(self) -> AsyncIterator[Output]:
        yield Broken(code="unavailable", message=f"replica {self.spec.name} is draining")

    async def _answer(
        self, item: Received[Generate], responder: Responder, outputs: AsyncIterator[Output]
    ) -> None:
        request = item.message
        deadline = None
        if request.deadline_s is not None:
            loop = asyncio.get_running_loop()
            deadline = loop.call_later(
                request.deadline_s, self._engine.cancel, request.request_id, "deadline"
            )
        try:
            with processing(item) as span:
                span.set_attribute(genai.REQUEST_MODEL, request.model)
                span.set_attribute("autopoiesis.replica", self.spec.name)
                await _relay(request, responder, outputs, span, leaving=lambda: self.draining)
        except Exception:
            log.exception("%s: answering request %s failed", self.spec.name, request.request_id)
            self._engine.cancel(request.request_id, "internal")
            if not responder.ended:
                await responder.fail("internal", f"replica {self.spec.name} failed; its log says why")
        finally:
            if deadline is not None:
                deadline.cancel()

    # -- what it says of itself

    async def _heartbeats(self) -> None:
        while True:
            self._engine.changed.clear()
            try:
                await self._announce()
                await self._ship_steps()
            except Exception:
                log.exception("%s: a heartbeat failed", self.spec.name)
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._engine.changed.wait()
            except TimeoutError:
                continue

    async def _announce(self) -> None:
        try:
            await self._bus.publish(
                HEARTBEAT, self.heartbeat(), node=slug(self._place.node), replica=self._token
            )
        except BusError as error:
            log.debug("%s: no heartbeat: %s", self.spec.name, error)

    def heartbeat(self) -> Heartbeat:
        seen, spec, place = self._engine.stats(), self.spec, self._place
        self._beat += 1
        return Heartbeat(
            node=place.node,
            replica=spec.name,
            incarnation=f"{self.incarnation}.{seen.restarts}" if seen.restarts else self.incarnation,
            beat=self._beat,
            state="draining" if self.draining and seen.state == "ready" else seen.state,
            model=self._engine.model,
            gpu=spec.gpu,
            tp=spec.tp,
            role=spec.role,
            zone=place.zone,
            preemptible=place.preemptible,
            price=place.price,
            uptime_s=time.monotonic() - self._began,
            progress=seen.progress,
            running=seen.running,
            waiting=seen.waiting,
            queued_prefill_tokens=seen.queued_prefill_tokens,
            kv_used_tokens=seen.kv_used_tokens,
            kv_capacity_tokens=seen.kv_capacity_tokens,
            kv_token_bytes=seen.kv_token_bytes,
            link_bandwidth=seen.link_bandwidth,
            network_bandwidth=seen.network_bandwidth,
            max_running=seen.max_running,
            step_time_s=seen.step_time_s,
            step_model=seen.step_model,
            prefix_queries=seen.prefix_queries,
            prefix_hits=seen.prefix_hits,
            adapters=seen.adapters,
            evictions=seen.evictions,
            evicted=seen.evicted,
            received=self._acknowledged.snapshot(),
            lease_epoch=self.lease_epoch,
        )

    async def _ship_steps(self) -> None:
        self._steps += self._engine.steps()
        now = time.monotonic()
        if not self._steps or now - self._shipped < STEP_BATCH_S:
            return
        records, self._steps = tuple(self._steps), []
        self._shipped = now
        self._step_batch += 1
        batch = StepBatch(
            replica=self.spec.name,
            incarnation=self.incarnation,
            batch=self._step_batch,
            model=self._engine.model,
            gpu=self.spec.gpu,
            tp=self.spec.tp,
            records=records,
        )
        await self._bus.publish_nowait(STEP_TELEMETRY, batch, replica=self._token)


async def _relay(
    request: Generate,
    responder: Responder,
    outputs: AsyncIterator[Output],
    span: Span,
    *,
    leaving: Callable[[], bool],
) -> None:
    """Send an engine's outputs to the router; without streaming only the end, with the whole text."""
    texts: list[str] = []
    first = True
    async for output in outputs:
        match output:
            case Piece():
                if first:
                    span.add_event(genai.FIRST_TOKEN_EVENT)
                    first = False
                if request.prefill_only:
                    continue
                if not request.stream:
                    texts.append(output.text)
                elif output.merges:
                    responder.write(
                        output.text, tokens=output.tokens, token_ids=output.token_ids, index=output.index
                    )
                else:
                    await responder.chunk(
                        text=output.text,
                        tokens=output.tokens,
                        token_ids=output.token_ids,
                        index=output.index,
                        delta=output.delta,
                        choice=output.choice,
                        finish_reason=output.finish_reason,
                    )
            case Ended():
                span.set_attribute(genai.INPUT_TOKENS, output.prompt_tokens)
                span.set_attribute(genai.OUTPUT_TOKENS, output.output_tokens)
                span.add_event("finish", {genai.FINISH_REASONS: output.finish_reason})
                await responder.finish(
                    output.finish_reason,
                    prompt_tokens=output.prompt_tokens,
                    output_tokens=output.output_tokens,
                    cached_tokens=output.cached_tokens,
                    first_token_s=output.first_token_s,
                    text="".join(texts),
                    body=output.body,
                    content=output.content,
                    content_type=output.content_type,
                    kv_transfer=output.kv_transfer,
                )
            case Broken():
                span.set_attribute("error.type", output.code)
                if output.code != "cancelled":
                    span.set_status(StatusCode.ERROR, output.message)
                await responder.fail(
                    output.code,
                    output.message,
                    param=output.param,
                    output_tokens=output.output_tokens,
                    status=output.status,
                    leaving=leaving(),
                )
