"""One cycle: from a snapshot to proposals."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from autopoiesis.contracts.messages.policy import Kind
from autopoiesis.contracts.messages.trace import SnapshotReady
from autopoiesis.policy.jail import Jail
from autopoiesis.simulator.workload.snapshot import read_snapshot
from autopoiesis.simulator.workload.window import Window
from autopoiesis.store import BlobStore, Store
from autopoiesis.synthesizer import metrics
from autopoiesis.synthesizer.budget import Budget
from autopoiesis.synthesizer.candidates import Scored
from autopoiesis.synthesizer.evolution import Evolution
from autopoiesis.synthesizer.fitness import Bounds
from autopoiesis.synthesizer.llm import LanguageModel
from autopoiesis.synthesizer.memory import Memory, cycle_name
from autopoiesis.synthesizer.proposers.llm import Call, LlmProposer
from autopoiesis.synthesizer.proposers.mutator import Mutator
from autopoiesis.synthesizer.replay import FailedReplayError, Replays, newest
from autopoiesis.synthesizer.scoring import Plan, WindowScorer
from autopoiesis.synthesizer.settings import SynthesizerSettings
from autopoiesis.synthesizer.situation import situation_of, situation_of_plans

log = logging.getLogger(__name__)

DAY: Final = timedelta(days=1)


class Cycle:
    """Searches on one snapshot and proposes what beats the policy in force. `cut_short` ends the search early."""

    def __init__(
        self,
        settings: SynthesizerSettings,
        ready: SnapshotReady,
        kind: Kind,
        *,
        store: Store,
        blobs: BlobStore,
        jail: Jail,
        model: LanguageModel | None,
    ) -> None:
        self.name = cycle_name()
        self.ready = ready
        self.memory = Memory(store, ready.scope, kind)
        self._settings, self._kind = settings, kind
        self._search = settings.of(kind)
        self.budget = Budget(self._search.limits)
        self._routers = Memory(store, ready.scope, "dispatch")
        self._store, self._blobs, self._jail, self._model = store, blobs, jail, model
        self._evolution: Evolution | None = None
        self._proposed: set[str] = set()

    def cut_short(self) -> None:
        """A newer snapshot waits: propose what was found so far."""
        if self._evolution is not None:
            self._evolution.cut_short()

    async def run(self) -> Sequence[Scored]:
        """The proposals, best first. Raises StoreError; ValueError or TraceError for a snapshot nothing can be replayed on."""
        settings, planning = self._settings, self._kind == "plan"
        window = await asyncio.to_thread(self._window)
        if planning and not window.info.planned:
            return []
        incumbent = await self.memory.incumbent(self._search.initial)
        beside = await self._routers.incumbent(settings.initial) if planning else None
        seeds = await self.memory.seeds()
        judged = await self.memory.judged()
        evolution = self._evolution = Evolution(
            self.ready.scope,
            self._kind,
            WindowScorer(
                Replays(self._jail, window, beside),
                Plan(self._search.loads, self._bounds, stretch=not planning),
            ),
            self.budget,
            settings.population,
            situation_of_plans(window) if planning else situation_of(window),
            seed=settings.seed + int(self.ready.snapshot[:8], 16),
            islands=settings.islands,
        )
        evolution.tried += judged
        evolution.failures += [
            f"{s.title[:100]}: {s.feedback}" for s in judged if s.feedback.startswith("reject")
        ]
        try:
            await evolution.begin(incumbent, seeds)
        except FailedReplayError as error:
            log.error(
                "synthesizer: the policy in force cannot be replayed on %s: %s",
                self.ready.snapshot[:12],
                error,
            )
            return []
        if self.ready.cause == "drift":
            await self._propose(evolution, 1)
        model = self._model
        if model is not None:
            await self._bound_the_day()
        asking = [self._llm(model, evolution) for _ in range(settings.ask)] if model else []
        await evolution.run([Mutator()], asking)
        await self._propose(evolution, settings.propose)
        await self._remember(evolution)
        return [s for s in evolution.archive.ranked() if s.hash in self._proposed]

    async def _propose(self, evolution: Evolution, count: int) -> None:
        refused = await self.memory.refused(evolution.incumbent.hash)
        winners = await evolution.winners(count, self._settings.min_gain, without=refused | self._proposed)
        await self.memory.propose(winners, self.ready, self.name, first_rank=len(self._proposed))
        self._proposed |= {w.hash for w in winners}
        for winner in winners:
            metrics.proposed(self._kind, winner.origin)
            log.info("synthesizer: proposes %s (%s, fitness %.3f): %s", winner.hash[:12], winner.origin, winner.fitness, winner.title[:100])  # fmt: skip

    async def _remember(self, evolution: Evolution) -> None:
        metrics.ended(self._kind, self.budget)
        scored = evolution.archive.ranked()
        best_shipped = max((s.fitness for s in evolution.finished() if s.origin == "library"), default=1.0)
        await self.memory.archive(
            [s for s in scored if s.result and not s.result.faults],
            snapshot=self.ready.snapshot,
            cycle=self.name,
            yardstick=max(best_shipped, 1e-9),
            size=self._settings.archive_size,
        )
        log.info(
            "synthesizer: cycle %s on %s (%s): best %.3f, best shipped %.3f, %d proposed; spent %s; arms %s",
            self.name[:12],
            self.ready.snapshot[:12],
            self.ready.cause,
            scored[0].fitness,
            best_shipped,
            len(self._proposed),
            self.budget.to_json(),
            evolution.arms(),
        )

    def _llm(self, model: LanguageModel, evolution: Evolution) -> LlmProposer:
        return LlmProposer(model, self.budget, self._record, failures=evolution.failures)

    async def _record(self, call: Call) -> None:
        metrics.called(call)
        await self.memory.record(call, self.name)

    async def _bound_the_day(self) -> None:
        """Let this cycle spend no more than is left of the last 24 hours' money."""
        async with self._store.begin() as unit:
            spent = await unit.completions.spent(last=DAY)
        left = max(0.0, self._settings.cost_per_day - spent.cost)
        limits = self.budget.limits
        if left < limits.cost:
            log.warning(
                "synthesizer: %.2f of synthesizer.cost_per_day (%.2f) are left; what they do not pay for, the mutator writes",
                left,
                self._settings.cost_per_day,
            )
            self.budget.limits = replace(limits, cost=left)

    def _window(self) -> Window:
        snapshot = read_snapshot(self._blobs.get(self.ready.snapshot))
        return newest(snapshot.window, self._search.arrivals)

    @property
    def _bounds(self) -> Bounds:
        s = self._settings
        return Bounds(max_rejected=s.max_rejected, max_class_loss=s.max_class_loss, max_fuel=s.max_fuel)
