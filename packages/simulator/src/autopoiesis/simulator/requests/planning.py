"""A plan policy beside the routers: it looks on at monitoring steps, and what it decides takes effect when its own time is over.

Its plans are carried out as the live planner carries them out: replicas that a plan keeps stay, others drain, new ones start as soon
as GPUs of their type are free. Batches and shares are advice that engines do not need.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from autopoiesis.policy import library
from autopoiesis.policy.api import ModelDemand, PlanContext, Replicas, Role
from autopoiesis.policy.language import CompiledPolicy, PolicyError, compile_policy
from autopoiesis.policy.states import HISTORY
from autopoiesis.simulator.fleet import Change, ReplicaSpec, replica_of, with_cache
from autopoiesis.simulator.hardware import gpu
from autopoiesis.simulator.intervals.cost import Assumptions, CostModel
from autopoiesis.simulator.intervals.traces import Load, demand, pool, pool_of
from autopoiesis.simulator.models import ModelShape
from autopoiesis.simulator.models import model as shape_of
from autopoiesis.simulator.requests.engines import Engine
from autopoiesis.simulator.requests.membership import Membership
from autopoiesis.simulator.requests.outcome import FINISHED, PlanTotals, Rows
from autopoiesis.simulator.requests.prepared import Prepared
from autopoiesis.simulator.startup import Start, StartupCosts
from autopoiesis.simulator.toolkit import CostToolkit

Kind = tuple[str, int, Role]
"""GPU type, tensor parallelism, role."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planning:
    """Who plans, over what, and what that costs. Seconds where not said."""

    policy: str
    """A library name or source text of kind `plan`."""
    gpus: Mapping[str, int]
    """GPUs of the cluster by type, those in use included."""
    step_s: float = 5.0
    window_s: float = 60.0
    """Over which demand is measured."""
    min_replicas: int = 1
    how: Start = "warm"
    costs: StartupCosts = field(default_factory=StartupCosts)
    charge: Callable[[float, int], float] | None = None
    """Seconds a step takes, from the processor seconds it took here and its fuel; none: the former, which differ from run to run."""
    prefix_block_tokens: int = 0
    fuel: int | None = None

    def __post_init__(self) -> None:
        if self.step_s <= 0 or self.window_s <= 0:
            raise ValueError(f"step_s = {self.step_s}, window_s = {self.window_s}: must be above 0 (seconds)")
        for name, count in self.gpus.items():
            if gpu(name).name != name or count < 0:
                raise ValueError(
                    f"gpus: {count} x {name!r} must be not negative, of a type named {gpu(name).name!r}"
                )

    def start(
        self,
        prepared: Prepared,
        rows: Rows,
        members: Membership,
        later: Callable[[float, Callable[[float], None]], None],
    ) -> Planner:
        """A planner for one world. Raises `PolicyError` where the policy does not verify."""
        text = library.source(self.policy) if self.policy.isidentifier() else self.policy
        policy: CompiledPolicy = compile_policy(text, "plan", fuel=self.fuel)
        return Planner(self, policy, prepared, rows, members, later)


class Planner:
    """The planner of one world with one model. `ended` is filled by the world: when, and which arrival."""

    def __init__(
        self,
        planning: Planning,
        policy: CompiledPolicy,
        prepared: Prepared,
        rows: Rows,
        members: Membership,
        later: Callable[[float, Callable[[float], None]], None],
    ) -> None:
        self.totals = PlanTotals()
        self.ended: deque[tuple[float, int]] = deque()
        self._planning = planning
        self._shape: ModelShape = shape_of(prepared.model)
        self._rows = rows
        self._prepared = prepared
        self._members = members
        self._later = later
        self._policy = policy
        self._cost = CostModel(Assumptions(check_kv=True))
        self._load = Load(concurrency=0, prompt_tokens=1, output_tokens=1)
        self._since = math.nan
        self._step = 0
        self._last: PlanContext | None = None
        self._history: deque[PlanContext] = deque(maxlen=HISTORY)
        self._waiting: list[ReplicaSpec] = []
        self._made = 0
        members.freed = self._freed

    def step(self, now: float) -> None:
        """Look, ask, and come again."""
        if self._since != self._since:
            self._since = now
        ctx = self._observe(now)
        began = time.process_time()
        plan = self._asked(ctx)
        took, fuel = time.process_time() - began, self._policy.fuel_used
        charge = self._planning.charge
        seconds = took if charge is None else charge(took, fuel)
        self.totals.scheduling_s += seconds
        if plan is not None:
            self.totals.reschedules += 1
            self._last = ctx
            self._later(now + seconds, partial(self._carry_out, plan))
        self._later(now + max(self._planning.step_s, seconds), self.step)

    def _asked(self, ctx: PlanContext) -> tuple[Replicas, ...] | None:
        ctx.toolkit = CostToolkit(ctx, self._cost)
        self.totals.steps += 1
        try:
            if not self._policy.should_reschedule(ctx):
                return None
            return self._policy.schedule(ctx)
        except PolicyError as error:
            self.totals.fault(f"{type(error).__name__}: {error}")
            return None

    def _observe(self, now: float) -> PlanContext:
        ctx = PlanContext()
        ctx.step, ctx.now = self._step, now
        self._step += 1
        ctx.models = (self._demand(now),)
        ctx.gpus = tuple(pool(pool_of(name), count) for name, count in self._planning.gpus.items())
        counts = Counter(_kind(engine.spec) for engine in self._standing())
        ctx.plan = (
            tuple(Replicas(0, kind, tp, n, role=role) for (kind, tp, role), n in counts.items()) or None
        )
        seen = PlanContext()
        seen.step, seen.now, seen.models, seen.gpus, seen.plan = ctx.step, now, ctx.models, ctx.gpus, ctx.plan
        if ctx.plan is not None and self._last is None:
            self._last = seen
        ctx.last, ctx.history = self._last, tuple(self._history)
        self._history.append(seen)
        return ctx

    def _demand(self, now: float) -> ModelDemand:
        """Over the last window, as the live planner counts: requests held by engines, or by Little's law if more."""
        rows, ended, prepared = self._rows, self.ended, self._prepared
        while ended and ended[0][0] < now - self._planning.window_s:
            ended.popleft()
        span = min(self._planning.window_s, max(1.0, now - self._since))
        done = [row for _, row in ended if rows.outcome[row] == FINISHED]
        inside = math.ceil(sum(at - rows.arrived[row] for at, row in ended) / span)
        stats = [engine.replica.stats(now) for engine in self._standing()]
        held = sum(stat.running + stat.waiting for stat in stats)
        prompt, output = self._load.prompt_tokens, self._load.output_tokens
        if done:
            prompt = max(1, round(sum(prepared.prompt[row] for row in done) / len(done)))
            output = max(1, round(sum(prepared.output[row] for row in done) / len(done)))
        self._load = Load(max(held, inside), prompt, output)
        view = demand(0, self._shape, self._load)
        view.arrival_rate = len(ended) / span
        view.min_replicas = self._planning.min_replicas
        return view

    def _standing(self) -> list[Engine]:
        return [e for e in self._members.engines if e.state in {"ready", "loading"} and not e.asleep]

    def _carry_out(self, plan: tuple[Replicas, ...], now: float) -> None:
        wanted: Counter[Kind] = Counter()
        for entry in plan:
            wanted[entry.gpu, entry.tp, entry.role] += entry.count
        self._waiting.clear()
        for engine in self._standing():
            kind = _kind(engine.spec)
            if wanted[kind] > 0:
                wanted[kind] -= 1
            else:
                self._members.change(Change(at=now, kind="drain", replica=engine.spec.name), now)
        for (name, tp, role), count in wanted.items():
            self._waiting += [self._new(name, tp, role) for _ in range(count)]
        self._start(now)

    def _new(self, name: str, tp: int, role: Role) -> ReplicaSpec:
        self._made += 1
        spec = replica_of(gpu(name), self._shape, tp, role, name=f"planned-{self._made}")
        return with_cache(spec, self._planning.prefix_block_tokens)

    def _freed(self, now: float) -> None:
        """An engine left its GPUs."""
        if self._waiting:
            self._later(now + self._planning.costs.stop_s, self._start)

    def _start(self, now: float) -> None:
        """Start what waits, as far as GPUs are free."""
        costs, used = self._planning.costs, Counter[str]()
        for engine in self._members.engines:
            if engine.held_from == engine.held_from:
                used[engine.spec.gpu] += engine.spec.tp
        still = []
        for spec in self._waiting:
            if used[spec.gpu] + spec.tp > self._planning.gpus[spec.gpu]:
                still.append(spec)
                continue
            used[spec.gpu] += spec.tp
            takes_s = costs.seconds(spec, self._planning.how)
            self._members.change(
                Change(at=now, kind="join", replica=spec.name, spec=spec, takes_s=takes_s), now
            )
        self._waiting = still


def _kind(spec: ReplicaSpec) -> Kind:
    return spec.gpu, spec.tp, spec.role
