"""Wires the synthesizer: the only place that knows which parts there are."""

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

from autopoiesis.contracts.messages.policy import Judgement, Kind
from autopoiesis.contracts.messages.trace import Drifted, SnapshotReady
from autopoiesis.contracts.subjects import DRIFTED, EVALUATED, REJECTED, SNAPSHOT, Subject
from autopoiesis.policy.jail import Jail, JailError, Limits
from autopoiesis.runtime.bus import Bus, Delivered, Retry
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
from autopoiesis.simulator.workload import TraceError
from autopoiesis.store import BlobStore, Store, StoreError
from autopoiesis.store.relay import keep_relaying
from autopoiesis.synthesizer.cycle import Cycle
from autopoiesis.synthesizer.llm import LanguageModel
from autopoiesis.synthesizer.memory import Memory
from autopoiesis.synthesizer.replay import MODULES
from autopoiesis.synthesizer.settings import LlmSettings, SynthesizerSettings

log = logging.getLogger(__name__)

KIND: Kind = "dispatch"
"""The kind that snapshots can be replayed for."""
PUBLISH_S = 30.0
ACK_S = 10.0
"""Seconds after which a snapshot comes again when the synthesizer died over it."""
STEADY_S = 0.2
"""A burst of snapshots (the backlog at the start) is waited out: only the newest of a scope counts."""
RETRY_S = 5.0


class Synthesizer:
    """One cycle at a time; of several snapshots of a scope only the newest counts."""

    def __init__(
        self, settings: Settings, bus: Bus, store: Store, jail: Jail, model: LanguageModel | None
    ) -> None:
        self.settings = settings[SynthesizerSettings]
        self.bus, self.store, self.jail, self.model = bus, store, jail, model
        self._mode = settings[General].mode
        self._blobs = BlobStore(Path(settings[BlobSettings].dir))
        self._waiting: dict[str, Delivered[SnapshotReady]] = {}
        self._arrived = asyncio.Event()
        self._running: tuple[Cycle, asyncio.Task[Any]] | None = None

    def state(self) -> dict[str, Any]:
        """What it is at, for `/health`."""
        running = self._running[0].ready.scope if self._running else None
        return {
            "running": running,
            "waiting": sorted(self._waiting),
            "language_model": self.model is not None,
        }

    async def start(self) -> None:
        """Follow the bus. Snapshots are acknowledged when their cycle is over, so a crash resumes with the newest."""
        await self.bus.ensure_streams()
        consume = self.bus.consume
        await consume(SNAPSHOT, "synthesizer-snapshots", self.take, manual_ack=True, ack_wait=ACK_S)
        await consume(DRIFTED, "synthesizer-drift", self._drifted, only_new=True)
        await consume((EVALUATED, REJECTED), "synthesizer-verdicts", self._judged)

    async def take(self, delivered: Delivered[SnapshotReady]) -> None:
        """Queue a snapshot; what it replaces in the queue is done with."""
        ready = delivered.message
        older = self._waiting.pop(ready.scope, None)
        self._waiting[ready.scope] = delivered
        if older is not None:
            await older.ack()
        if self._running is not None and self._running[0].ready.scope == ready.scope:
            cycle, task = self._running
            if ready.cause == "drift":
                task.cancel()
            else:
                cycle.cut_short()
        self._arrived.set()

    async def run(self) -> None:
        """Cycles for as long as the service lives."""
        while True:
            await self._arrived.wait()
            await asyncio.sleep(STEADY_S)
            self._arrived.clear()
            while self._waiting:
                scope = next(iter(self._waiting))
                delivered = self._waiting.pop(scope)
                await self._cycle(delivered.message)
                await delivered.ack()

    async def relay(self) -> None:
        await keep_relaying(self.store, "synthesizer", self._publish)

    async def _cycle(self, ready: SnapshotReady) -> None:
        while True:
            try:
                async with self.store.begin() as unit:
                    mode = await unit.controls.mode(ready.scope, configured=self._mode)
                if mode in {"off", "paused"}:
                    log.info("synthesizer: no cycle for %s: mode is %s", ready.scope, mode)
                    return
                await self._run_cycle(ready)
                return
            except StoreError as error:
                log.warning("synthesizer: %s; trying again in %g s", error, RETRY_S)
            except (ValueError, TraceError) as error:
                log.error("synthesizer: snapshot %s cannot be used: %s", ready.snapshot[:12], error)
                return
            if ready.scope in self._waiting:
                return
            await asyncio.sleep(RETRY_S)

    async def _run_cycle(self, ready: SnapshotReady) -> None:
        cycle = Cycle(
            self.settings, ready, KIND, store=self.store, blobs=self._blobs, jail=self.jail, model=self.model
        )
        task = asyncio.create_task(cycle.run(), name=f"cycle {cycle.name[:12]}")
        self._running = (cycle, task)
        try:
            await asyncio.wait([task])
        finally:
            self._running = None
            task.cancel()
        if task.cancelled():
            log.info("synthesizer: cycle on %s given up, the workload moved", ready.snapshot[:12])
        else:
            task.result()

    async def _drifted(self, delivered: Delivered[Drifted]) -> None:
        drift = delivered.message
        log.info(
            "synthesizer: %s of %s moved from %.3g to %.3g; its snapshot follows",
            drift.feature, drift.scope, drift.before, drift.after,
        )  # fmt: skip

    async def _judged(self, delivered: Delivered[Judgement]) -> None:
        judgement = delivered.message
        try:
            await Memory(self.store, judgement.scope, judgement.kind).feedback(judgement)
        except StoreError as error:
            log.warning("synthesizer: a verdict waits for the database: %s", error)
            raise Retry(RETRY_S) from error

    async def _publish(self, subject: Subject[Any], message: Any, *, msg_id: str, **tokens: str) -> None:
        await self.bus.publish_event(subject, message, msg_id=msg_id, timeout=PUBLISH_S, **tokens)


def language_model(settings: LlmSettings) -> LanguageModel | None:
    """The configured model, none where none is: what the environment holds does not count."""
    return LanguageModel(settings) if settings.configured else None


def open_store(url: str) -> Store:
    """A pool that connects when it is used: the database may come later. Raises OperatorError for a URL that cannot be."""
    if not url:
        raise OperatorError("database.url is empty; set it to postgresql://…, the synthesizer's role")
    try:
        return Store(url)
    except StoreError as error:
        raise OperatorError(f"database.url: {error}") from error


async def main(settings: Settings, service: Service) -> None:
    own, llm = settings[SynthesizerSettings], settings[LlmSettings]
    os.nice(own.nice)
    telemetry = configure("synthesizer", settings[TelemetrySettings])
    service.on_exit(lambda: asyncio.to_thread(telemetry.shutdown))
    store = open_store(settings[DatabaseSettings].url)
    service.on_exit(store.close)
    jail = Jail(MODULES, workers=own.jobs, limits=Limits(wall_s=own.replay_s, cpu_s=own.replay_s))
    try:
        await asyncio.to_thread(jail.start)
    except JailError as error:
        raise OperatorError(f"the jail for candidates cannot be built: {error.detail}") from error
    service.on_exit(lambda: asyncio.to_thread(jail.close))
    model = language_model(llm)
    if model is not None:
        service.on_exit(model.close)
    log.info(
        "candidates from %s",
        f"{llm.model} at {llm.base_url}, and the mutator" if model else "the offline mutator",
    )
    bus = await Bus.open(
        settings[BusSettings],
        "synthesizer",
        on_closed=lambda: service.fail("the connection to NATS closed for good"),
    )
    service.on_exit(bus.drain)
    synthesizer = Synthesizer(settings, bus, store, jail, model)
    service.spawn(synthesizer.run(), name="cycles")
    service.spawn(synthesizer.relay(), name="relay")
    await synthesizer.start()
    probes = Probes(
        state=synthesizer.state,
        not_ready=lambda: "" if bus.connected else "not connected to NATS",
        metrics=lambda: (telemetry.exposition(), telemetry.content_type),
    )
    server = await service.serve(
        telemetry.instrument(application("synthesizer", probes)), host=own.host, port=own.port
    )
    service.ready(http=server.url)
    await service.until_stopped()
