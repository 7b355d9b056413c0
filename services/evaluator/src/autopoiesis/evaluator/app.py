"""Wires one evaluator: the only place that knows which parts there are."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from autopoiesis.contracts.messages.policy import Proposed
from autopoiesis.contracts.subjects import (
    ACTIVATIONS,
    POLICY_EVENTS,
    PROPOSALS,
    PROPOSED,
    SNAPSHOT,
    TELEMETRY,
)
from autopoiesis.evaluator.ahead import Ahead
from autopoiesis.evaluator.gates import gates
from autopoiesis.evaluator.guard import Guard
from autopoiesis.evaluator.jailed import MODULES, SIMULATOR, JailedSimulation
from autopoiesis.evaluator.judge import Judge
from autopoiesis.evaluator.metrics import Metrics
from autopoiesis.evaluator.promoter import Promoter
from autopoiesis.evaluator.replays import Replays
from autopoiesis.evaluator.settings import EvaluatorSettings
from autopoiesis.evaluator.shipped import in_force, initials, keep_shipped
from autopoiesis.policy.jail import Jail, JailError, Limits
from autopoiesis.runtime.bus import Bus, Delivered
from autopoiesis.runtime.errors import OperatorError
from autopoiesis.runtime.lifecycle import Service
from autopoiesis.runtime.probes import Probes, application
from autopoiesis.runtime.settings import (
    BlobSettings,
    BusSettings,
    DatabaseSettings,
    General,
    Settings,
    TelemetrySettings,
)
from autopoiesis.runtime.telemetry import configure
from autopoiesis.store import BlobStore, Store, StoreError

log = logging.getLogger(__name__)

DURABLE = "evaluators"
"""All evaluators share the proposals."""
ACK_WAIT_S = 10.0
"""Held proposals are extended all the time; one whose evaluator died is delivered again after this."""


async def main(settings: Settings, service: Service) -> None:
    """Judge, promote and guard until stopped. Raises OperatorError for settings that cannot be."""
    own = settings[EvaluatorSettings]
    telemetry = configure("evaluator", settings[TelemetrySettings])
    os.nice(own.nice)
    try:
        store = await open_store(settings, own)
        service.on_exit(store.close)
        bus = await Bus.open(
            settings[BusSettings],
            "evaluator",
            on_closed=lambda: service.fail("the connection to NATS closed for good"),
        )
        service.on_exit(bus.drain)
        await bus.ensure_streams((PROPOSALS, POLICY_EVENTS, ACTIVATIONS, TELEMETRY))
        jail = await _jail(own)
        service.on_exit(lambda: asyncio.to_thread(jail.close))
        promoter = Promoter(store, bus, Guard(store, own, configured=settings[General].mode))
        replays = Replays(JailedSimulation(jail), store, BlobStore(Path(settings[BlobSettings].dir)), own)
        judge = _judge(settings, store, jail, replays)
        ahead = Ahead(store, replays, first=initials(own), configured=settings[General].mode)
        service.on_exit(_stopper(service.spawn(promoter.run(), name="promoter")))
        service.on_exit(ahead.stop)
        await bus.subscribe(SNAPSHOT, ahead.on_snapshot)
        proposals = await bus.consume(PROPOSED, DURABLE, _handler(judge), batch=1, ack_wait=ACK_WAIT_S)
        service.on_exit(proposals.cancel)

        def state() -> dict[str, Any]:
            return {"leading": promoter.leading, "isolation": list(jail.isolation)}

        probes = Probes(
            state=state,
            not_ready=lambda: "" if bus.connected else "not connected to NATS",
            metrics=lambda: (telemetry.exposition(), telemetry.content_type),
        )
        server = await service.serve(
            telemetry.instrument(application("evaluator", probes)), host=own.host, port=own.port
        )
        service.ready(http=server.url)
        await service.until_stopped()
    finally:
        telemetry.shutdown()


async def open_store(settings: Settings, own: EvaluatorSettings) -> Store:
    """The store with the shipped policies in it and something in force. Raises OperatorError."""
    url = settings[DatabaseSettings].url
    if not url:
        raise OperatorError("database.url is empty; set it to postgresql://…, the evaluator's role")
    try:
        first = initials(own)
        store = await Store.open(url, pool_size=own.parallel + 4)
        await keep_shipped(store)
        await in_force(store, settings[General].scope, "dispatch", first=first["dispatch"])
    except StoreError as error:
        raise OperatorError(str(error)) from error
    return store


async def _jail(own: EvaluatorSettings) -> Jail:
    jail = Jail(MODULES, workers=own.parallel, limits=Limits(wall_s=own.replay_s, cpu_s=own.replay_s))
    try:
        await asyncio.to_thread(jail.start)
    except JailError as error:
        raise OperatorError(f"the jail for candidates cannot be built: {error.detail}") from error
    log.info("candidates run in: %s", "; ".join(jail.isolation))
    return jail


def _judge(settings: Settings, store: Store, jail: Jail, replays: Replays) -> Judge:
    own = settings[EvaluatorSettings]
    return Judge(
        store,
        gates(store, jail, replays, own),
        first=initials(own),
        configured=settings[General].mode,
        simulator=SIMULATOR,
        metrics=Metrics(),
    )


def _stopper(task: asyncio.Task[None]) -> Callable[[], Awaitable[object]]:
    """Ends `task` before what it uses is closed."""

    async def stop() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    return stop


def _handler(judge: Judge) -> Callable[[Delivered[Proposed]], Awaitable[None]]:
    async def handle(delivered: Delivered[Proposed]) -> None:
        await judge.judge(delivered.message)

    return handle
