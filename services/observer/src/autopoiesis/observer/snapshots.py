"""Making snapshots: choose a window, write the open half for all and the sealed one for the evaluator, announce both."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from autopoiesis.contracts.messages.telemetry import RequestRecord
from autopoiesis.contracts.messages.trace import SnapshotReady
from autopoiesis.contracts.slo import Objectives
from autopoiesis.contracts.subjects import SNAPSHOT, slug
from autopoiesis.observer import metrics
from autopoiesis.observer.calibration import by_gpu, calibrate
from autopoiesis.observer.fleet import KEYFRAME_S
from autopoiesis.observer.halves import Half, Material, half
from autopoiesis.observer.ingest import Ingest
from autopoiesis.observer.observatory import Observatory
from autopoiesis.observer.rows import FleetRow, PlanRow, StepRow
from autopoiesis.observer.settings import ObserverSettings
from autopoiesis.simulator.fleet import Fleet
from autopoiesis.store import BlobStore, Store

log = logging.getLogger(__name__)


class UnfitWindowError(RuntimeError):
    """Nothing can be learned from this window; the message says why."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Why, and where: Unix seconds, none where the settings decide."""

    cause: str
    start_unix_s: float | None = None
    cut_unix_s: float | None = None
    end_unix_s: float | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    start_unix_s: float
    cut_unix_s: float
    end_unix_s: float


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the rows are."""

    requests: Ingest[RequestRecord]
    steps: Ingest[StepRow]
    fleet: Ingest[FleetRow]
    plans: Ingest[PlanRow]


class SnapshotMaker:
    """Cuts snapshots of any scope, one at a time."""

    def __init__(
        self,
        settings: ObserverSettings,
        objectives: Objectives,
        sources: Sources,
        observatory: Observatory,
        store: Store,
        blobs: BlobStore,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._objectives, self._sources = settings, objectives, sources
        self._observatory, self._store, self._blobs, self._clock = observatory, store, blobs, clock
        self._one = asyncio.Lock()

    async def make(self, scope: str, cut: Cut) -> SnapshotReady:
        """Write both halves and their rows in the database; the announcement leaves with the transaction.

        Raises UnknownScopeError, UnfitWindowError, StoreError.
        """
        self._observatory.watch(scope)
        async with self._one:
            bounds, material = await self._gather(scope, cut)
            open_half = await asyncio.to_thread(half, material, bounds.start_unix_s, bounds.cut_unix_s)
            sealed = await asyncio.to_thread(half, material, bounds.cut_unix_s, bounds.end_unix_s)
            if open_half.arrivals == 0 or open_half.arrivals + sealed.arrivals < self._settings.min_arrivals:
                raise UnfitWindowError(
                    f"{open_half.arrivals + sealed.arrivals} arrivals of {scope}, {open_half.arrivals} of them before the cut; "
                    f"observer.min_arrivals is {self._settings.min_arrivals}"
                )
            _require_a_world(open_half, scope)
            return await self._keep(scope, cut.cause, bounds, open_half, sealed if sealed.arrivals else None)

    async def recent(self, scope: str, limit: int) -> Sequence[SnapshotReady]:
        """Newest first."""
        async with self._store.begin() as unit:
            rows = await unit.snapshots.recent(scope, limit=limit)
        return [
            SnapshotReady(
                scope=row.scope,
                snapshot=row.hash,
                sealed=row.sealed_hash,
                start_unix_s=row.start_unix_s,
                cut_unix_s=row.cut_unix_s,
                end_unix_s=row.end_unix_s,
                arrivals=row.arrivals,
                sealed_arrivals=row.sealed_arrivals,
                cause=row.cause,
            )
            for row in rows
        ]

    async def _gather(self, scope: str, cut: Cut) -> tuple[Bounds, Material]:
        settings = self._settings
        end = cut.end_unix_s or self._clock() - self._observatory.watch(scope).horizon_s()
        start = cut.start_unix_s or end - settings.snapshot_window_s
        before = start - settings.settle_most_s
        async with self._sources.requests.lock:
            requests = await asyncio.to_thread(self._sources.requests.segments.between, before, end)
        requests = requests.filter(pc.field("scope") == scope)
        inside = requests.filter(pc.field("arrival_unix_s") >= start)["arrival_unix_s"]
        if cut.start_unix_s is None and len(inside):
            start = inside[-min(len(inside), settings.max_arrivals)].as_py()
        middle = cut.cut_unix_s or start + settings.open_share * (end - start)
        if not start < middle <= end:
            raise UnfitWindowError(f"nothing to cut: start {start}, cut {middle}, end {end} (Unix seconds)")
        async with self._sources.steps.lock:
            steps = await asyncio.to_thread(self._sources.steps.segments.between, start, end)
        async with self._sources.fleet.lock:
            fleet = await asyncio.to_thread(
                self._sources.fleet.segments.between, start - 2 * KEYFRAME_S, self._clock()
            )
        async with self._sources.plans.lock:
            plans = await asyncio.to_thread(self._sources.plans.segments.between, start, end)
        seen = self._observatory.fleet
        probed = seen.probed()
        scale, error = by_gpu(await asyncio.to_thread(calibrate, steps, seen.current(), probed))
        material = Material(
            scope,
            requests,
            fleet,
            self._objectives,
            scale,
            error,
            probed=probed,
            routers=self._observatory.routers(start),
            speeds={beat.replica: beat.step_model for beat in seen.current() if beat.step_model is not None},
            plans=plans.filter(pc.field("scope") == scope),
        )
        return Bounds(start, middle, end), material

    async def _keep(
        self, scope: str, cause: str, bounds: Bounds, open_half: Half, sealed: Half | None
    ) -> SnapshotReady:
        name = await asyncio.to_thread(self._blobs.put, open_half.data)
        ready = SnapshotReady(
            scope=scope,
            snapshot=name,
            sealed=hashlib.sha256(sealed.data).hexdigest() if sealed else "",
            start_unix_s=bounds.start_unix_s,
            cut_unix_s=bounds.cut_unix_s,
            end_unix_s=bounds.end_unix_s,
            arrivals=open_half.arrivals,
            sealed_arrivals=sealed.arrivals if sealed else 0,
            cause=cause,
        )
        async with self._store.begin() as unit:
            is_new = await unit.snapshots.add(
                ready, path=str(self._blobs.path(name)), sealed=sealed.data if sealed else None
            )
            if is_new:
                await unit.outbox.add(SNAPSHOT, ready, scope=slug(scope))
            gone = await unit.snapshots.prune(scope, keep=self._settings.keep_snapshots)
        for old in gone:
            await asyncio.to_thread(self._blobs.remove, old.hash)
        if is_new:
            metrics.kept(ready)
        log.info(
            "observer: snapshot %s of %s, %d + %d arrivals (%s)",
            name[:12],
            scope,
            ready.arrivals,
            ready.sealed_arrivals,
            cause,
        )
        return ready


def _require_a_world(half: Half, scope: str) -> None:
    """Raises UnfitWindowError where no policy can be replayed, for want of replicas or of their speed."""
    try:
        Fleet.of_snapshot(half.info)
    except ValueError as error:
        raise UnfitWindowError(
            f"policies cannot be replayed on the fleet of {scope}: {error}. An attached server's speed is learned from its first "
            "requests, or known by its GPU type: router.attach_gpu, worker.attach_gpu"
        ) from error
