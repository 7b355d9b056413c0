"""The bus as this router uses it: there from the start, or later where attached servers are served without it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import structlog

from autopoiesis.contracts.messages.fleet import Heartbeat
from autopoiesis.contracts.messages.policy import Activation, Faulted
from autopoiesis.contracts.messages.telemetry import RequestBatch
from autopoiesis.contracts.subjects import (
    FAULTED,
    HEARTBEAT,
    PROMOTED,
    REQUEST_TELEMETRY,
    ROLLED_BACK,
    slug,
)
from autopoiesis.router.transports.bus import BusTransport
from autopoiesis.runtime.bus import Bus, BusUnavailableError, DisconnectedError, RequestStreams
from autopoiesis.runtime.lifecycle import Service
from autopoiesis.runtime.settings import BusSettings

log = structlog.get_logger(__name__)

STREAMS_S: Final = 3.0
"""How long the start waits for JetStream; serving does not need it."""
RETRY_S: Final = 5.0
FIRST_TRY_S: Final = 2.0
"""How long the start waits for a bus that this router can do without."""
FLUSH_S: Final = 3.0


class Link:
    """What this router hears and says on the bus; until `join` has succeeded, nothing."""

    def __init__(self, instance: str, scope: str, transport: BusTransport, stall_s: float) -> None:
        self._instance = instance
        self._scope = scope
        self._transport = transport
        self._stall_s = stall_s
        self._bus: Bus | None = None
        self._listen: Callable[[Bus], Awaitable[None]] | None = None

    @property
    def max_payload(self) -> int | None:
        """Bytes that one message may have; none while that is not known."""
        return self._bus.max_payload if self._bus else None

    async def join(self, settings: BusSettings, service: Service, *, needed: bool) -> None:
        """Connect. Where the bus is not `needed` and does not answer soon, go on without, and keep trying beside.

        Raises BusUnavailableError where it is needed.
        """
        opened = partial(
            Bus.open,
            settings,
            "router",
            instance=self._instance,
            on_closed=lambda: service.fail("the connection to NATS closed for good"),
        )
        try:
            bus = await (opened() if needed else opened(timeout=FIRST_TRY_S))
        except BusUnavailableError as error:
            if needed:
                raise
            log.warning("attached servers are served without the bus", reason=str(error))
            if settings.url:
                service.spawn(self._join_later(opened, service), name="bus")
        else:
            await self._joined(bus, service)

    async def listen(
        self,
        service: Service,
        beat: Callable[[Heartbeat], None],
        hear: Callable[[Activation], None],
        scopes: list[str],
    ) -> None:
        """Hear of the fleet and of activations; with the bus away, as soon as there is one."""
        self._listen = partial(self._subscribe, service, beat, hear, scopes)
        if self._bus is not None:
            await self._listen(self._bus)

    async def ship(self, batch: RequestBatch, msg_id: str) -> None:
        router = self._instance.rpartition("-")[0]
        await self._there().publish_event(
            REQUEST_TELEMETRY, batch, msg_id=msg_id, timeout=FLUSH_S, router=router
        )

    async def report(self, event: Faulted, msg_id: str) -> None:
        await self._there().publish_event(
            FAULTED, event, msg_id=msg_id, scope=slug(self._scope), kind="dispatch"
        )

    async def announce(self, heartbeat: Heartbeat) -> None:
        """Tell the observer of an attached server; nothing where the bus is away."""
        if self._bus is not None and self._bus.connected:
            try:
                await self._bus.publish(
                    HEARTBEAT, heartbeat, node=slug(heartbeat.node), replica=slug(heartbeat.replica)
                )
            except DisconnectedError as error:
                log.debug("no heartbeat of an attached server", error=str(error))

    def _there(self) -> Bus:
        if self._bus is None:
            raise DisconnectedError("not connected to NATS yet")
        return self._bus

    async def _join_later(self, opened: Callable[..., Awaitable[Bus]], service: Service) -> None:
        bus = await opened(timeout=None)
        await self._joined(bus, service)
        if self._listen is not None:
            await self._listen(bus)
        log.info("the bus is there")

    async def _joined(self, bus: Bus, service: Service) -> None:
        service.on_exit(bus.drain)
        self._transport.join(
            bus, await RequestStreams.start(bus, self._instance, stall_timeout=self._stall_s)
        )
        service.on_exit(self._transport.aclose)
        self._bus = bus

    async def _subscribe(
        self,
        service: Service,
        beat: Callable[[Heartbeat], None],
        hear: Callable[[Activation], None],
        scopes: list[str],
        bus: Bus,
    ) -> None:
        def heard(heartbeat: Heartbeat) -> None:
            if not heartbeat.via:  # others' attached servers do not listen on the bus
                beat(heartbeat)

        await bus.subscribe(HEARTBEAT, lambda item: heard(item.message))
        if not await _ensure_streams(bus):
            service.spawn(_keep_ensuring_streams(bus), name="streams")
        watches = [
            bus.watch_last(
                subject,
                lambda item: hear(item.message),
                timeout=STREAMS_S,
                scope=slug(scope),
                kind="dispatch",
            )
            for scope in scopes
            for subject in (PROMOTED, ROLLED_BACK)
        ]
        await asyncio.gather(*watches)


async def _ensure_streams(bus: Bus) -> bool:
    try:
        async with asyncio.timeout(STREAMS_S):
            await bus.ensure_streams()
    except Exception as error:
        log.warning("JetStream is not usable; serving goes on without it", error=repr(error))
        return False
    return True


async def _keep_ensuring_streams(bus: Bus) -> None:
    while True:
        await asyncio.sleep(RETRY_S)
        if await _ensure_streams(bus):
            return
