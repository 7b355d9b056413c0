"""Which snapshot is next: one lane per kind of policy, so that neither search waits for the other."""

import asyncio
import logging
from pathlib import Path
from typing import Any

from autopoiesis.contracts.messages.policy import Kind
from autopoiesis.contracts.messages.trace import SnapshotReady
from autopoiesis.contracts.subjects import SNAPSHOT
from autopoiesis.policy.jail import Jail
from autopoiesis.runtime.bus import Bus, Delivered
from autopoiesis.runtime.settings import BlobSettings, General, Settings
from autopoiesis.simulator.workload import TraceError
from autopoiesis.store import BlobStore, Store, StoreError
from autopoiesis.synthesizer.cycle import Cycle
from autopoiesis.synthesizer.llm import LanguageModel
from autopoiesis.synthesizer.settings import SynthesizerSettings

log = logging.getLogger(__name__)

ACK_S = 10.0
"""Seconds after which a snapshot comes again when the synthesizer died over it."""
STEADY_S = 0.2
"""A burst of snapshots (the backlog at the start) is waited out: only the newest of a scope counts."""
RETRY_S = 5.0
DURABLES: dict[Kind, str] = {"dispatch": "synthesizer-snapshots", "plan": "synthesizer-plan-snapshots"}
"""Each lane acknowledges snapshots on its own."""


class Lane:
    """One cycle at a time, of one kind of policy; of several snapshots of a scope only the newest counts."""

    def __init__(
        self,
        kind: Kind,
        settings: Settings,
        bus: Bus,
        store: Store,
        jail: Jail,
        model: LanguageModel | None,
    ) -> None:
        self.kind: Kind = kind
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
        return {"running": running, "waiting": sorted(self._waiting)}

    async def start(self) -> None:
        """Follow the bus. Snapshots are acknowledged when their cycle is over, so a crash resumes with the newest."""
        await self.bus.consume(SNAPSHOT, DURABLES[self.kind], self.take, manual_ack=True, ack_wait=ACK_S)

    async def take(self, delivered: Delivered[SnapshotReady]) -> None:
        """Queue a snapshot; what it replaces in the queue is done with.

        A search of dispatch policies makes room for it; one of plan policies, which are for regimes to come, goes on to its end.
        """
        ready = delivered.message
        older = self._waiting.pop(ready.scope, None)
        self._waiting[ready.scope] = delivered
        if older is not None:
            await older.ack()
        if (
            self.kind == "dispatch"
            and self._running is not None
            and self._running[0].ready.scope == ready.scope
        ):
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

    async def _cycle(self, ready: SnapshotReady) -> None:
        while True:
            try:
                async with self.store.begin() as unit:
                    mode = await unit.controls.mode(ready.scope, configured=self._mode)
                if mode in {"off", "paused"}:
                    log.info("synthesizer: no %s cycle for %s: mode is %s", self.kind, ready.scope, mode)
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
            self.settings,
            ready,
            self.kind,
            store=self.store,
            blobs=self._blobs,
            jail=self.jail,
            model=self.model,
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
