"""A plan policy beside the routers: it looks on at monitoring steps, and what it decides takes effect when its own time is over.

Its plans are carried out as the live planner carries them out: replicas that a plan keeps stay, others drain, new ones start as soon
as GPUs of their type are free. Batches and shares are advice that engines do not need.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

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
from autopoiesis.simulator.requests.outcome import FINISHED, Move, PlanTotals, Rows
from autopoiesis.simulator.requests.prepared import Prepared
from autopoiesis.simulator.startup import Start, StartupCosts
from autopoiesis.simulator.steptime import StepTime
from autopoiesis.simulator.toolkit import CostToolkit

Kind = tuple[str, int, Role]
"""GPU type, tensor parallelism, role."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planning:
    """Who plans, over what, and what that costs. Seconds where not said."""

    policy: str | Path
    """A library name, file or source text of kind `plan`."""
    gpus: Mapping[str, int]
    """GPUs of the cluster by type, those in use included."""
    changes: Sequence[tuple[float, Mapping[str, int]]] = ()
    """When the cluster has other GPUs, and which; what ran on those that are gone has failed, the newest replicas first."""
    step_s: float = 5.0
    window_s: float = 60.0
    """Over which demand is measured."""
    cooldown_s: float = 0.0
    """After a change of the plan the policy is not asked for so long, unless GPUs came or went."""
    min_replicas: int = 1
    max_replicas: int = 0
    """0 for no bound."""
    quota: Mapping[str, int] = field(default_factory=dict)
    """Most GPUs that plans may use, by type; 0 for no bound."""
    how: Start = "warm"
    costs: StartupCosts = field(default_factory=StartupCosts)
    start_s: float | None = None
    """How long a replica takes to be ready where that was measured; else `costs` say it."""
    step_scale: Mapping[str, float] = field(default_factory=dict)
    """Per GPU type: measured over modelled step time of the replicas that plans start."""
    charge: Callable[[float, int], float] | None = None
    """Seconds a step takes, from the processor seconds it took here and its fuel; none: the former, which differ from run to run."""
    prefix_block_tokens: int = 0
    fuel: int | None = None

    def __post_init__(self) -> None:
        if self.step_s <= 0 or self.window_s <= 0:
            raise ValueError(f"step_s = {self.step_s}, window_s = {self.window_s}: must be above 0 (seconds)")
        for name, count in (
            item for gpus in (self.gpus, *(g for _, g in self.changes)) for item in gpus.items()
        ):
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
        policy: CompiledPolicy = compile_policy(library.text_of(self.policy, "plan"), "plan", fuel=self.fuel)
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
        self._gpus = dict.fromkeys((name for _, gpus in planning.changes for name in gpus), 0) | dict(
            planning.gpus
        )
        self._asked_with: dict[str, int] = {}
        self._changed_at = -math.inf
        members.freed = self._freed
        for at, gpus in planning.changes:
            later(at, partial(self._resize, gpus))

    def step(self, now: float) -> None:
        """Look, ask, and come again."""
        if self._since != self._since:
            self._since = now
        ctx = self._observe(now)
        seconds = 0.0
        if self._gpus != self._asked_with or now - self._changed_at >= self._planning.cooldown_s:
            seconds = self._ask(ctx, now)
        self._later(now + max(self._planning.step_s, seconds), self.step)

    def _ask(self, ctx: PlanContext, now: float) -> float:
        """The seconds charged for the answer; a plan is carried out after them."""
        began = time.process_time()
        plan, fuel = self._answer(ctx)
        took, charge = time.process_time() - began, self._planning.charge
        seconds = took if charge is None else charge(took, fuel)
        self.totals.scheduling_s += seconds
        self.totals.fuel += fuel
        if plan is not None:
            self.totals.reschedules += 1
            self._last = ctx
            self._later(now + seconds, partial(self._carry_out, plan))
        return seconds

    def _answer(self, ctx: PlanContext) -> tuple[tuple[Replicas, ...] | None, int]:
        """A plan, none where the one in force is kept, and the fuel that took."""
        ctx.toolkit = CostToolkit(ctx, self._cost)
        self.totals.steps += 1
        fuel, plan = 0, None
        try:
            wanted = self._policy.should_reschedule(ctx)
            fuel = self._policy.fuel_used
            if wanted:
                plan = self._policy.schedule(ctx)
                fuel += self._policy.fuel_used
            self._asked_with = dict(self._gpus)
        except PolicyError as error:
            self.totals.fault(f"{type(error).__name__}: {error}")
        return plan, fuel

    def _observe(self, now: float) -> PlanContext:
        ctx = PlanContext()
        ctx.step, ctx.now = self._step, now
        self._step += 1
        ctx.models = (self._demand(now),)
        ctx.gpus = tuple(pool(pool_of(name), count) for name, count in self._gpus.items())
        for seen_pool in ctx.gpus:
            seen_pool.quota = self._planning.quota.get(seen_pool.type, 0)
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
        view.min_replicas, view.max_replicas = self._planning.min_replicas, self._planning.max_replicas
        return view

    def _standing(self) -> list[Engine]:
        return [e for e in self._members.engines if e.state in {"ready", "loading"} and not e.asleep]

    def _carry_out(self, plan: tuple[Replicas, ...], now: float) -> None:
        wanted: Counter[Kind] = Counter()
        for entry in plan:
            wanted[entry.gpu, entry.tp, entry.role] += entry.count
        if wanted != Counter(_kind(spec) for spec in (*(e.spec for e in self._standing()), *self._waiting)):
            self._changed_at = now
            self.totals.moves.append(Move(now, {kind: count for kind, count in wanted.items() if count}))
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
        steps = StepTime(gpu(name), self._shape, tp, scale=self._planning.step_scale.get(name, 1.0))
        spec = replace(spec, steps=steps, model=self._prepared.model)
        return with_cache(spec, self._planning.prefix_block_tokens)

    def _resize(self, gpus: Mapping[str, int], now: float) -> None:
        self._gpus = dict.fromkeys(self._gpus, 0) | dict(gpus)
        used = self._used()
        for engine in reversed(self._members.engines):
            name = engine.spec.gpu
            if _holds(engine) and used[name] > self._gpus.get(name, 0):
                used[name] -= engine.spec.tp
                self._members.change(Change(at=now, kind="fail", replica=engine.spec.name), now)
        self._start(now)

    def _used(self) -> Counter[str]:
        """GPUs by type that engines hold."""
        used: Counter[str] = Counter()
        for engine in self._members.engines:
            if _holds(engine):
                used[engine.spec.gpu] += engine.spec.tp
        return used

    def _freed(self, now: float) -> None:
        """An engine left its GPUs."""
        if self._waiting:
            self._later(now + self._planning.costs.stop_s, self._start)

    def _start(self, now: float) -> None:
        """Start what waits, as far as GPUs are free."""
        used, still = self._used(), []
        for spec in self._waiting:
            if used[spec.gpu] + spec.tp > self._gpus[spec.gpu]:
                still.append(spec)
                continue
            used[spec.gpu] += spec.tp
            takes_s = self._planning.start_s
            if takes_s is None:
                takes_s = self._planning.costs.seconds(spec, self._planning.how)
            self._members.change(
                Change(at=now, kind="join", replica=spec.name, spec=spec, takes_s=takes_s), now
            )
        self._waiting = still


def _holds(engine: Engine) -> bool:
    """Whether it has GPUs now."""
    return engine.held_from == engine.held_from


def _kind(spec: ReplicaSpec) -> Kind:
    return spec.gpu, spec.tp, spec.role
