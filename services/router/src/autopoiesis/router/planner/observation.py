"""What a plan policy sees of the live system at a monitoring step: names and counts; figures are filled in where it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from autopoiesis.contracts.messages.fleet import DesiredReplica, ModelBounds
from autopoiesis.policy.api import GpuPool, ModelDemand, PlanContext, Replicas
from autopoiesis.policy.states import HISTORY
from autopoiesis.router.planner.demand import Load
from autopoiesis.router.planner.fleet import Node
from autopoiesis.router.planner.placement import Kind, kind_of

_ANY: ModelBounds = ModelBounds()


class Observer:
    """Builds the contexts of one planner. A model keeps its index, and a GPU type its place, as long as the process lives."""

    def __init__(self, bounds: Mapping[str, ModelBounds], quota: Mapping[str, int]) -> None:
        self._bounds = bounds
        self._quota = quota
        self._models: list[str] = list(bounds)
        self._types: list[str] = []
        self._steps = 0
        self._history: list[PlanContext] = []
        self._last: PlanContext | None = None

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self._models)

    def observe(
        self, nodes: Mapping[str, Node], loads: Mapping[str, Load], wanted: list[DesiredReplica], now: float
    ) -> PlanContext:
        """The context of this step; it becomes the newest of the history."""
        self._learn(loads, wanted, nodes)
        ctx = PlanContext()
        ctx.step, ctx.now = self._steps, now
        ctx.models = tuple(
            self._model(i, name, loads.get(name, Load())) for i, name in enumerate(self._models)
        )
        ctx.gpus = tuple(self._pool(kind, nodes) for kind in self._types)
        ctx.plan = self.plan_of(wanted) or None
        if ctx.plan is not None and self._last is None:
            self._last = bare(ctx)
        ctx.last = self._last
        ctx.history = tuple(self._history)
        self._history = [*self._history, bare(ctx)][-HISTORY:]
        self._steps += 1
        return ctx

    def rescheduled(self, ctx: PlanContext) -> None:
        """The policy chose a plan in `ctx`, be it the one in force."""
        self._last = bare(ctx)

    def plan_of(self, wanted: list[DesiredReplica]) -> tuple[Replicas, ...]:
        counts = Counter(kind_of(replica) for replica in wanted)
        return tuple(
            Replicas(self._models.index(kind.model), kind.gpu, kind.tp, count, role=kind.role)
            for kind, count in counts.items()
        )

    def counts_of(self, plan: tuple[Replicas, ...]) -> dict[Kind, int]:
        """Replicas of each kind in a plan; batches and shares are advice that engines and the dispatch policy do not need."""
        counts: Counter[Kind] = Counter()
        for entry in plan:
            counts[Kind(self._models[entry.model], entry.gpu, entry.tp, entry.role)] += entry.count
        return {kind: count for kind, count in counts.items() if count}

    def _learn(
        self, loads: Mapping[str, Load], wanted: list[DesiredReplica], nodes: Mapping[str, Node]
    ) -> None:
        for name in (*(replica.model for replica in wanted), *loads):
            if name not in self._models:
                self._models.append(name)
        for kind in sorted({kind for node in nodes.values() for kind in node.gpus}):
            if kind not in self._types:
                self._types.append(kind)

    def _model(self, index: int, name: str, load: Load) -> ModelDemand:
        model = ModelDemand()
        bounds = self._bounds.get(name, _ANY)
        model.index, model.name = index, name
        model.concurrency, model.arrival_rate = load.concurrency, load.arrival_rate
        model.prompt_tokens, model.output_tokens = load.prompt_tokens or 1, load.output_tokens or 1
        model.min_replicas, model.max_replicas = bounds.min_replicas, bounds.max_replicas
        return model

    def _pool(self, kind: str, nodes: Mapping[str, Node]) -> GpuPool:
        pool = GpuPool()
        counts = [node.gpus.get(kind, 0) for node in nodes.values()]
        pool.type, pool.count, pool.per_node = kind, sum(counts), max(counts, default=0)
        pool.quota = self._quota.get(kind, 0)
        return pool


def bare(ctx: PlanContext) -> PlanContext:
    """The same step without what came before it."""
    copy = PlanContext()
    copy.step, copy.now = ctx.step, ctx.now
    copy.models, copy.gpus, copy.plan = ctx.models, ctx.gpus, ctx.plan
    return copy
