"""One run of the demo: the loop learns while requests are served, then three policies serve the same fresh stretch."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx

from autopoiesis.cli.demo.scenario import MODEL, Scenario
from autopoiesis.cli.installation import Installation
from autopoiesis.cli.load import LoadResult, Progress, run_load
from autopoiesis.cli.output import CommandError
from autopoiesis.contracts.messages.policy import Judgement
from autopoiesis.policy import library
from autopoiesis.simulator.workload import Trace
from autopoiesis.store import Store, operations
from autopoiesis.store.repositories.evaluations import judgement_of

KIND: Final = "dispatch"
SNAPSHOT_PATIENCE_S: Final = 15.0
"""The observer hears of an arrival when it has ended."""
POLL_S: Final = 0.5

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Version:
    """A policy as the report names it."""

    hash: str
    title: str
    origin: str
    source: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that the demo found. `after` and `version` are None if nothing was promoted."""

    scenario: Scenario
    incumbent: Version
    before: LoadResult
    learning: tuple[LoadResult, ...]
    best_name: str = ""
    best: LoadResult | None = None
    version: Version | None = None
    after: LoadResult | None = None
    judgement: Judgement | None = None
    epoch: int = 0
    loop_s: float = 0.0
    """Seconds from the snapshot to the swap in the router."""

    @property
    def failed(self) -> int:
        runs = (self.before, self.after, self.best, *self.learning)
        return sum(run.failed for run in runs if run is not None)


class Demo:
    """Drives a running installation through the scenario."""

    def __init__(
        self,
        installation: Installation,
        scenario: Scenario,
        *,
        incumbent: str,
        patience_s: float,
        tell: Tell,
        progress: Callable[[str, Progress], None],
    ) -> None:
        self._installation = installation
        self._scenario = scenario
        self._incumbent = incumbent
        self._patience_s = patience_s
        self._tell = tell
        self._progress = progress
        self._http = httpx.AsyncClient(timeout=30.0)

    async def run(self) -> Outcome:
        running = self._installation.running
        async with self._http, await Store.open(running.database, pool_size=2) as store:
            await self._ready()
            observed, window = await self._observe()
            meanwhile, epoch, loop_s = await self._learn(window)
            await operations.set_mode(store, running.scope, "paused", "the demo measures")
            incumbent = _library_version(self._incumbent)
            if epoch == 0:
                before = await self._measure("the incumbent", self._incumbent)
                return Outcome(self._scenario, incumbent, before, (observed, meanwhile), loop_s=loop_s)
            version, judgement = await self._promoted(store)
            after = await self._measure("the promoted policy", "")
            before = await self._measure("the incumbent", self._incumbent)
            best_name = judgement.best_baseline or "slo_triage"
            best = await self._measure(f"the best shipped policy, {best_name}", best_name)
            return Outcome(
                self._scenario,
                incumbent,
                before,
                (observed, meanwhile),
                best_name=best_name,
                best=best,
                version=version,
                after=after,
                judgement=judgement,
                epoch=epoch,
                loop_s=loop_s,
            )

    async def _ready(self) -> None:
        deadline = time.monotonic() + 30.0
        while True:
            answer = await self._http.get(f"{self._router}/ready")
            if answer.is_success and len((await self._state())["fleet"]) >= self._scenario.replicas:
                return
            if time.monotonic() > deadline:
                raise CommandError(f"the router is not ready after 30 s: {answer.text}")
            await asyncio.sleep(POLL_S / 5)

    async def _observe(self) -> tuple[LoadResult, dict[str, float]]:
        """Serve A and B under the incumbent; returns the window to snapshot."""
        stretches = self._scenario.stretches
        self._tell(f"A and B: serving {stretches.learn + stretches.decide:.0f} s under {self._incumbent}")
        start = time.time()
        result = await self._load(self._scenario.observed, "A, B")
        window = {
            "start_unix_s": start,
            "cut_unix_s": start + stretches.learn,
            "end_unix_s": start + stretches.learn + stretches.decide,
        }
        return result, window

    async def _learn(self, window: dict[str, float]) -> tuple[LoadResult, int, float]:
        """Keep serving while the loop writes, proves and promotes; returns the epoch then in force, 0 if none came."""
        await self._snapshot(window)
        self._tell("writing and proving policies, niced; traffic goes on")
        started = time.monotonic()
        enough = asyncio.Event()
        traffic = asyncio.create_task(self._load(self._scenario.between, "meanwhile", stop=enough))
        incumbent = library.load(self._incumbent).hash
        epoch = 0
        try:
            while epoch == 0 and time.monotonic() - started < self._patience_s and not traffic.done():
                await asyncio.sleep(POLL_S)
                policy = (await self._state())["policy"]
                epoch = int(policy["epoch"]) if policy["hash"] != incumbent else 0
        finally:
            enough.set()
        loop_s = time.monotonic() - started
        if epoch:
            self._tell(f"epoch {epoch} is in force in the router, {loop_s:.0f} s after the snapshot")
        return await traffic, epoch, loop_s

    async def _snapshot(self, window: dict[str, float]) -> None:
        deadline = time.monotonic() + SNAPSHOT_PATIENCE_S
        body = {"scope": self._installation.running.scope, **window}
        while True:
            answer = await self._http.post(f"{self._installation.running.observer}/v1/snapshots", json=body)
            if answer.is_success:
                ready = answer.json()
                self._tell(
                    f"snapshot {ready['snapshot'][:12]}: {ready['arrivals']} arrivals to learn on, "
                    f"{ready['sealed_arrivals']} sealed to decide on"
                )
                return
            if time.monotonic() > deadline:
                raise CommandError(f"the observer cut no snapshot ({answer.status_code}): {answer.text}")
            await asyncio.sleep(POLL_S)

    async def _promoted(self, store: Store) -> tuple[Version, Judgement]:
        running = self._installation.running
        async with store.begin() as unit:
            standing = await unit.activations.current(running.scope, KIND)
            if standing is None:
                raise CommandError("the router swapped to an activation that the store does not know")
            rows = await unit.evaluations.of(standing.policy.hash)
        policy = standing.policy
        version = Version(policy.hash, policy.title.partition("\n")[0], policy.origin, policy.source)
        return version, judgement_of(next(row for row in rows if row.verdict == "promote"))

    async def _measure(self, what: str, pin: str) -> LoadResult:
        """Serve C under a shipped policy, pinned, or under what is active where `pin` is empty."""
        self._tell(f"C under {what}")
        if pin:
            answer = await self._http.put(f"{self._router}/admin/policy/pin", json={"library": pin})
        else:
            answer = await self._http.delete(f"{self._router}/admin/policy/pin")
        if not answer.is_success:
            raise CommandError(f"the router did not change its policy ({answer.status_code}): {answer.text}")
        return await self._load(self._scenario.measured, what, warmup_s=self._scenario.stretches.warmup)

    async def _load(
        self, trace: Trace, label: str, *, warmup_s: float = 0.0, stop: asyncio.Event | None = None
    ) -> LoadResult:
        return await run_load(
            self._router,
            trace,
            model=MODEL,
            classes=self._scenario.objectives,
            warmup_s=warmup_s,
            stop=stop,
            progress=lambda progress: self._progress(label, progress),
        )

    async def _state(self) -> dict[str, Any]:
        answer = await self._http.get(f"{self._router}/admin/state")
        state: dict[str, Any] = answer.raise_for_status().json()
        return state

    @property
    def _router(self) -> str:
        return self._installation.running.router


def _library_version(name: str) -> Version:
    policy = library.load(name)
    return Version(policy.hash, name, "library", library.source(name))
