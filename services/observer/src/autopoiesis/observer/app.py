"""Wires the observer: the only place that knows which parts there are."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from autopoiesis.contracts.messages.telemetry import RequestBatch, RequestRecord
from autopoiesis.contracts.messages.trace import Drifted
from autopoiesis.contracts.subjects import (
    DRIFTED,
    EVALUATED,
    FAULTED,
    HEARTBEAT,
    NODE,
    PLAN_CHANGED,
    PLAN_OBSERVED,
    PROMOTED,
    REJECTED,
    REQUEST_TELEMETRY,
    ROLLED_BACK,
    STEP_TELEMETRY,
    Subject,
    slug,
)
from autopoiesis.observer import metrics
from autopoiesis.observer.catalogue import Catalogue
from autopoiesis.observer.http import api
from autopoiesis.observer.ingest import Ingest
from autopoiesis.observer.observatory import Observatory
from autopoiesis.observer.rows import EventRow, FleetRow, PlanRow, StepRow, event_row, plan_row, step_rows
from autopoiesis.observer.segments import Batch, Segment, SegmentLog
from autopoiesis.observer.settings import ObserverSettings
from autopoiesis.observer.snapshots import Cut, SnapshotMaker, Sources, UnfitWindowError
from autopoiesis.runtime.bus import Bus, BusError, Consumer, Delivered
from autopoiesis.runtime.errors import OperatorError
from autopoiesis.runtime.lifecycle import Service
from autopoiesis.runtime.probes import Probes
from autopoiesis.runtime.settings import (
    BlobSettings,
    BusSettings,
    DatabaseSettings,
    Settings,
    SloSettings,
    TelemetrySettings,
)
from autopoiesis.runtime.telemetry import configure
from autopoiesis.store import BlobStore, Store, StoreError
from autopoiesis.store.relay import keep_relaying

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Seconds between looks at drift, fleet and schedule."""
PUBLISH_S = 30.0
ACK_S = 5.0
"""Seconds after which what a dead observer had not acknowledged comes again."""


class Observer:
    """The parts of one observer and the loops between them."""

    def __init__(self, settings: Settings, bus: Bus, store: Store) -> None:
        own = settings[ObserverSettings]
        self.settings, self.bus, self.store = own, bus, store
        self.observatory = Observatory(own)
        self.requests: Ingest[RequestRecord] = self._ingest(
            "requests", RequestRecord, "arrival_unix_s", self._of_requests, self._on_requests
        )
        self.steps: Ingest[StepRow] = self._ingest(
            "steps", StepRow, "at_unix_s", lambda delivered: step_rows(delivered.message)
        )
        self.events: Ingest[EventRow] = self._ingest(
            "events",
            EventRow,
            "at_unix_s",
            lambda d: event_row(d.subject, d.message),
            self._on_events,
        )
        self.fleet: Ingest[FleetRow] = self._ingest("fleet", FleetRow, "at_unix_s", _never)
        self.plans: Ingest[PlanRow] = self._ingest(
            "plans", PlanRow, "at_unix_s", lambda d: plan_row(d.subject, d.message)
        )
        self.ingests = (self.requests, self.steps, self.events, self.fleet, self.plans)
        self.catalogue = Catalogue(store, self.ingests, own)
        self.snapshots = SnapshotMaker(
            own,
            settings[SloSettings].objectives,
            Sources(self.requests, self.steps, self.fleet, self.plans),
            self.observatory,
            store,
            BlobStore(Path(settings[BlobSettings].dir)),
        )
        self._next_snapshot: dict[str, float] = {}
        self._consumers: list[Consumer[Any]] = []
        self._writers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Remember what is on disk, then follow the bus."""
        now = time.time()
        past = await asyncio.to_thread(
            self.requests.segments.between, now - self.settings.snapshot_window_s, now + 1
        )
        self.observatory.on_requests(msgspec.convert(past.to_pylist(), list[RequestRecord]))
        events = await asyncio.to_thread(self.events.segments.between, 0.0, now + 1)
        self.observatory.on_events(msgspec.convert(events.to_pylist(), list[EventRow]))
        await self.bus.ensure_streams()
        await self.bus.subscribe(HEARTBEAT, lambda received: self.observatory.fleet.heard(received.message))
        await self.bus.subscribe(NODE, lambda received: self.observatory.fleet.equipped(received.message))
        for name, subjects, ingest in (
            ("observer-requests", (REQUEST_TELEMETRY,), self.requests),
            ("observer-steps", (STEP_TELEMETRY,), self.steps),
            ("observer-verdicts", (EVALUATED, REJECTED, FAULTED), self.events),
            ("observer-activations", (PROMOTED, ROLLED_BACK), self.events),
            ("observer-plans", (PLAN_CHANGED,), self.events),
            ("observer-plan-steps", (PLAN_OBSERVED,), self.plans),
        ):
            consumer = await self.bus.consume(
                subjects, name, ingest.take, batch=256, manual_ack=True, ack_wait=ACK_S
            )
            self._consumers.append(consumer)

    def run(self, service: Service) -> None:
        """Start what runs for as long as the service does."""
        service.spawn(self.catalogue.run(), name="catalogue")
        service.spawn(keep_relaying(self.store, "observer", self._publish), name="relay")
        self._writers = [
            service.spawn(self._look(), name="look"),
            *(service.spawn(ingest.run(), name=f"ingest {ingest.segments.kind}") for ingest in self.ingests),
        ]

    async def stop(self) -> None:
        """Take no more, store what was handed over, close the files. What was not stored is delivered again."""
        for consumer in self._consumers:
            await consumer.drain()
        self._stopping.set()
        for ingest in self.ingests:
            ingest.finish()
        await asyncio.gather(*self._writers)
        for ingest in self.ingests:
            ingest.segments.close()

    async def _look(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), LOOK_S)
            changes = self.observatory.fleet.changes()
            if changes is not None:
                await self.fleet.append([changes])
            drifts = await asyncio.to_thread(self.observatory.look)
            for drift in drifts:
                await self._announce(drift)
            for scope in {drift.scope for drift in drifts}:
                await self._snapshot(scope, "drift")
            for scope in self.observatory.scopes:
                if self._is_due(scope):
                    await self._snapshot(scope, "interval")

    def _is_due(self, scope: str) -> bool:
        every = self.settings.snapshot_every_s
        now = time.monotonic()
        return every > 0 and now >= self._next_snapshot.setdefault(scope, now + every)

    async def _snapshot(self, scope: str, cause: str) -> None:
        self._next_snapshot[scope] = time.monotonic() + (self.settings.snapshot_every_s or LOOK_S)
        try:
            await self.snapshots.make(scope, Cut(cause))
        except UnfitWindowError as error:
            log.info("observer: no snapshot: %s", error)
        except StoreError as error:
            log.warning("observer: no snapshot: %s", error)

    async def _publish(self, subject: Subject[Any], message: Any, *, msg_id: str, **tokens: str) -> None:
        await self.bus.publish_event(subject, message, msg_id=msg_id, timeout=PUBLISH_S, **tokens)

    async def _announce(self, drift: Drifted) -> None:
        metrics.moved(drift)
        name = f"{drift.scope}:{drift.feature}:{drift.at_unix_s}"
        try:
            await self.bus.publish_event(DRIFTED, drift, msg_id=name, scope=slug(drift.scope))
        except BusError as error:
            log.warning("observer: drift of %s could not be announced: %s", drift.scope, error)

    def _indexed(self, segment: Segment) -> None:
        self.catalogue.changed(segment)

    def _on_requests(self, records: Sequence[RequestRecord]) -> None:
        metrics.arrived(records)
        self.observatory.on_requests(records)

    def _on_events(self, rows: Sequence[EventRow]) -> None:
        metrics.happened(rows)
        self.observatory.on_events(rows)

    def _of_requests(self, delivered: Delivered[RequestBatch]) -> Batch[RequestRecord]:
        batch = delivered.message
        self.observatory.heard_router(batch.router)
        return Batch((batch.router, batch.incarnation, batch.batch), batch.records)

    def _ingest(
        self, kind: str, row: type[Any], time_field: str, convert: Any, on_rows: Any = lambda rows: None
    ) -> Ingest[Any]:
        segments: SegmentLog[Any] = SegmentLog(
            Path(self.settings.dir),
            kind,
            row,
            time_field=time_field,
            max_rows=self.settings.segment_rows,
            max_age_s=self.settings.segment_s,
        )
        return Ingest(segments, convert, on_rows=on_rows, on_segment=self._indexed)


def _never(delivered: Delivered[Any]) -> Batch[FleetRow]:
    raise AssertionError("heartbeats are not of a stream")


def open_store(url: str) -> Store:
    """A pool that connects when it is used: telemetry is stored also while the database is away.

    Raises OperatorError for a URL that cannot be.
    """
    try:
        return Store(url)
    except StoreError as error:
        raise OperatorError(f"database.url, of the observer's role: {error}") from error


async def main(settings: Settings, service: Service) -> None:
    own, database = settings[ObserverSettings], settings[DatabaseSettings]
    os.nice(own.nice)
    telemetry = configure("observer", settings[TelemetrySettings])
    service.on_exit(lambda: asyncio.to_thread(telemetry.shutdown))
    store = open_store(database.url)
    service.on_exit(store.close)
    bus = await Bus.open(
        settings[BusSettings],
        "observer",
        on_closed=lambda: service.fail("the connection to NATS closed for good"),
    )
    service.on_exit(bus.drain)
    observer = Observer(settings, bus, store)
    await observer.start()
    observer.run(service)
    answers = api.Answers(snapshot=observer.snapshots.make, snapshots=observer.snapshots.recent)
    probes = Probes(
        metrics=lambda: (telemetry.exposition(), telemetry.content_type),
        not_ready=lambda: "" if bus.connected else "not connected to NATS",
    )
    app = telemetry.instrument(api.create(observer.observatory, answers, probes))
    server = await service.serve(app, host=own.host, port=own.port)
    service.ready(http=server.url)
    await service.until_stopped()
    await observer.stop()
