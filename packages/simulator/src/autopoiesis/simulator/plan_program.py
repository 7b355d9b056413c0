"""The integer program of `Toolkit.best_plan`: how many replicas of each kind there should be.

The paper's formulation (Section 5.1, Appendix C and G): integer counts n and binaries y per model, GPU type, parallelism and batch;
L_z >= Lambda y; T >= L_z; minimise T. Every column has a big-M of its own. The reconfiguration cost of Eq. 9-11 is in it exactly:
a model is moved if the count of any of its kinds (type, parallelism, role) changes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from autopoiesis.policy.api import GpuPool, ModelDemand, PlanContext, Replicas
from autopoiesis.simulator.solver import HighsMilp

_NONE_ABOVE: Final = math.inf

Latency = Callable[[ModelDemand, GpuPool, int, int], float]
Transfer = Callable[[ModelDemand, GpuPool], float]


@dataclass(frozen=True, slots=True)
class Column:
    """A kind of replica that fits. `count`: variable of how many there are; `used`: variable that is 1 if there are any."""

    option: Replicas
    latency_s: float
    most: int
    count: int
    used: int


class PlanProgram:
    """One program. Times are seconds."""

    def __init__(
        self, ctx: PlanContext, options: Sequence[Replicas], latency: Latency, *, spread: float = 0.0
    ) -> None:
        self.milp = HighsMilp()
        self._ctx = ctx
        self._pools = {pool.type: pool for pool in ctx.gpus}
        self._makespan = self.milp.variable(0.0, math.inf, 1.0, integer=False)
        self._serve = [self.milp.variable(0.0, math.inf, spread, integer=False) for _ in ctx.models]
        self.columns: list[Column] = []
        for option in options:
            self._add(option, latency)
        self._cover()
        self._capacity()

    def plan(self, x: Sequence[float]) -> list[Replicas]:
        """The plan that the solution `x` stands for, in the order of the options; empty where there is no solution."""
        if not len(x):
            return []
        return [
            replace(column.option, count=round(x[column.count]))
            for column in self.columns
            if x[column.count] > 0.5
        ]

    def charge_moves(self, keep: Sequence[Replicas], weight: float, transfer: Transfer) -> None:
        """Add `weight` seconds per second of reconfiguration from `keep` to the objective (Eq. 9-11)."""
        terminate = self.milp.variable(0.0, math.inf, weight, integer=False)
        load = self.milp.variable(0.0, math.inf, weight, integer=False)
        for model in self._ctx.models:
            moved = self.milp.variable(0, 1, 0.0)
            old: dict[tuple[str, int, str], int] = defaultdict(int)
            for entry in keep:
                if entry.model == model.index and entry.count:
                    old[kind_of(entry)] += entry.count
            own = [column for column in self.columns if column.option.model == model.index]
            for kind in {**old, **{kind_of(column.option): 0 for column in own}}:
                self._note_change([c for c in own if kind_of(c.option) == kind], old.get(kind, 0), moved)
            for gpu in sorted({gpu for gpu, _, _ in old} & self._pools.keys()):
                self.milp.constraint(
                    {terminate: 1.0, moved: -transfer(model, self._pools[gpu])}, 0.0, _NONE_ABOVE
                )
            for column in own:
                seconds = transfer(model, self._pools[column.option.gpu])
                terms = {load: 1.0, moved: -seconds, column.used: -seconds}
                self.milp.constraint(terms, -seconds, _NONE_ABOVE)

    def _note_change(self, columns: list[Column], before: int, moved: int) -> None:
        """`moved` is 1 unless the counts of `columns` sum to `before`."""
        most = float(sum(column.most for column in columns) + before)
        counts = {column.count: 1.0 for column in columns}
        self.milp.constraint({**counts, moved: -most}, -math.inf, before)
        self.milp.constraint({**counts, moved: most}, before, _NONE_ABOVE)

    def _add(self, option: Replicas, latency: Latency) -> None:
        model, pool = self._ctx.models[option.model], self._pools[option.gpu]
        batch = min(option.batch, model.concurrency) or model.concurrency
        most = min(
            available(pool) // option.tp, max(-(-model.concurrency // max(batch, 1)), model.min_replicas)
        )
        most = min(most, option.count) if option.count else most
        seconds = latency(model, pool, option.tp, batch) if batch else 0.0
        if most < 1 or not math.isfinite(seconds):
            return
        count, used = self.milp.variable(0, most, 0.0), self.milp.variable(0, 1, 0.0)
        self.columns.append(Column(replace(option, batch=batch), seconds, most, count, used))
        self.milp.constraint({count: 1.0, used: -float(most)}, -math.inf, 0.0)
        self.milp.constraint({self._serve[model.index]: 1.0, used: -seconds}, 0.0, _NONE_ABOVE)

    def _cover(self) -> None:
        for model in self._ctx.models:
            own = [column for column in self.columns if column.option.model == model.index]
            self.milp.constraint({self._makespan: 1.0, self._serve[model.index]: -1.0}, 0.0, _NONE_ABOVE)
            if model.concurrency:
                work = {column.count: float(column.option.batch) for column in own}
                self.milp.constraint(work, model.concurrency, _NONE_ABOVE)
            most = model.max_replicas or _NONE_ABOVE
            self.milp.constraint({column.count: 1.0 for column in own}, model.min_replicas, most)

    def _capacity(self) -> None:
        for pool in self._ctx.gpus:
            used = {c.count: float(c.option.tp) for c in self.columns if c.option.gpu == pool.type}
            self.milp.constraint(used, -math.inf, available(pool))


def kind_of(entry: Replicas) -> tuple[str, int, str]:
    """What must not change for a replica to stay where it is: GPU type, parallelism, role."""
    return entry.gpu, entry.tp, entry.role


def available(pool: GpuPool) -> int:
    """GPUs of a type that a plan may use."""
    return min(pool.count, pool.quota) if pool.quota else pool.count
