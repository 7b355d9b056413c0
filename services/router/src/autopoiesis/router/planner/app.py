"""Wires one planner: the only place that knows which parts there are."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Final

import structlog

from autopoiesis.contracts.subjects import (
    DESIRED_STATE,
    HEARTBEAT,
    NODE,
    PROMOTED,
    REQUEST_TELEMETRY,
    ROLLED_BACK,
    slug,
)
from autopoiesis.policy import library
from autopoiesis.router.planner.planner import Planner
from autopoiesis.router.planner.settings import PlannerSettings
from autopoiesis.runtime.bus import Bus, BusError
from autopoiesis.runtime.errors import OperatorError
from autopoiesis.runtime.lifecycle import Service
from autopoiesis.runtime.settings import BusSettings, General, Settings, TelemetrySettings
from autopoiesis.runtime.telemetry import configure

log = structlog.get_logger(__name__)

RETRY_S: Final = 5.0


async def main(settings: Settings, service: Service) -> None:
    """The process: telemetry around `serve`."""
    instance = f"planner-{secrets.token_hex(4)}"
    telemetry = configure("planner", settings[TelemetrySettings], instance=instance)
    try:
        await serve(settings, service, instance)
    finally:
        telemetry.shutdown()


async def serve(settings: Settings, service: Service, instance: str) -> None:
    """Plan until stopped. Raises OperatorError for settings that cannot be."""
    own, scope = settings[PlannerSettings], settings[General].scope
    if own.policy not in library.names("plan", every=True):
        known = ", ".join(library.names("plan", every=True))
        raise OperatorError(f"planner.policy: no shipped plan policy {own.policy!r}; there are {known}")
    bus = await Bus.open(
        settings[BusSettings],
        "planner",
        instance=instance,
        on_closed=lambda: service.fail("the connection to NATS closed for good"),
    )
    service.on_exit(bus.drain)
    planner = Planner(bus, own, scope=scope, instance=instance)
    service.on_exit(planner.close)
    await listen(bus, planner, scope)
    service.spawn(planner.keep_lease(), name="lease")
    service.spawn(planner.run(), name="monitoring")
    service.ready(planner=instance)
    await service.until_stopped()


async def listen(bus: Bus, planner: Planner, scope: str) -> None:
    """Hear nodes, replicas, requests, other planners and activations. Waits until JetStream answers."""
    now = time.monotonic
    bus.on_reconnect(lambda: planner.fleet.resume(now()))
    await bus.subscribe(HEARTBEAT, lambda item: planner.fleet.on_heartbeat(item.message, now()))
    await bus.subscribe(NODE, lambda item: planner.fleet.on_inventory(item.message, now()))
    await bus.subscribe(
        REQUEST_TELEMETRY, lambda item: planner.demand.on_records(item.message.records, now())
    )
    await _ensure_streams(bus)
    await bus.watch_last(DESIRED_STATE, lambda item: planner.on_desired(item.message))
    for governing in sorted({scope, f"{scope.partition('/')[0]}/*"}):
        for subject in (PROMOTED, ROLLED_BACK):
            await bus.watch_last(
                subject, lambda item: planner.hear(item.message), scope=slug(governing), kind="plan"
            )


async def _ensure_streams(bus: Bus) -> None:
    while True:
        try:
            await bus.ensure_streams()
        except BusError as error:
            log.warning("JetStream is not usable; plans cannot be told", error=str(error))
            await asyncio.sleep(RETRY_S)
        else:
            return
