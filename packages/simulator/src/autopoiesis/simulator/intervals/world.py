"""The paper's execution model (Eq. 1): a plan policy decides step by step, then what it decided is added up.

`decide` runs the policy and times it; `account` takes nothing but decisions, so that what a jailed process says it decided is priced
outside of it. Serving never pauses: a step is served under the old plan while `schedule` runs (stale), then by what both plans share
(reconfiguration), then under the new plan.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from autopoiesis.policy.api import ModelDemand, PlanContext, Replicas
from autopoiesis.policy.language import CompiledPolicy, PolicyError
from autopoiesis.simulator.intervals.agentic import Round
from autopoiesis.simulator.intervals.cost import CostModel, deployment, gpus_used
from autopoiesis.simulator.intervals.traces import PlanTrace
from autopoiesis.simulator.toolkit import CostToolkit, Estimator

MONITORING_S: Final = 5.0
"""Between two steps, on the clock that policies see."""
HISTORY: Final = 32

Accounting = Literal["additive", "overlap"]
"""`additive`, as the paper: no credit for what is served while scheduling and moving. `overlap`: with credit."""


class PlanRejectedError(Exception):
    """The policy broke, or its plan cannot be carried out; the message says at which step and why."""


class Decision(msgspec.Struct, frozen=True):
    """What a policy did at one step."""

    rescheduled: bool
    plan: tuple[Replicas, ...]
    """In force from this step on."""
    scheduling_s: float
    """Processor seconds of `should_reschedule` and `schedule`."""
    fuel: int = 0
    forced: bool = False
    """The old plan could not go on (first step, or its GPUs left), so the policy was not asked whether."""


@dataclass(frozen=True, slots=True)
class Interval:
    """One step's share of Eq. 1, seconds."""

    rescheduled: bool
    stale_s: float
    reconfigure_s: float
    serve_s: float

    @property
    def total_s(self) -> float:
        return self.stale_s + self.reconfigure_s + self.serve_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """A trace under a policy."""

    tokens: int
    intervals: tuple[Interval, ...]

    @property
    def reschedules(self) -> int:
        """N: calls of `schedule`, the cold start included."""
        return sum(i.rescheduled for i in self.intervals)

    @property
    def stale_s(self) -> float:
        """Sum of t_stale, the cold start's scheduling included, as in the paper's tables."""
        return sum(i.stale_s for i in self.intervals)

    @property
    def reconfigure_s(self) -> float:
        return sum(i.reconfigure_s for i in self.intervals)

    @property
    def serve_s(self) -> float:
        return sum(i.serve_s for i in self.intervals)

    @property
    def total_s(self) -> float:
        """T_total (Eq. 1)."""
        return self.stale_s + self.reconfigure_s + self.serve_s

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.total_s


@dataclass(slots=True)
class _State:
    plan: tuple[Replicas, ...] | None = None
    last: PlanContext | None = None
    history: list[PlanContext] = field(default_factory=list)


def decide(policy: CompiledPolicy, trace: PlanTrace, cost: CostModel, *, seed: int = 0) -> list[Decision]:
    """What `policy` does on `trace`, step by step. Raises PlanRejectedError."""
    state, decisions = _State(), []
    for number in range(len(trace.steps)):
        estimator = estimator_of(trace, number, state.plan, cost)
        ctx = _context(trace, estimator, number, state, seed)
        decisions.append(_step(policy, ctx, estimator, state))
        state.plan = decisions[-1].plan
        if decisions[-1].rescheduled:
            state.last = _bare(ctx)
        state.history = [*state.history, _bare(ctx)][-HISTORY:]
    return decisions


def account(
    trace: PlanTrace,
    decisions: Sequence[Decision],
    cost: CostModel,
    *,
    charge: Callable[[Decision], float] | None = None,
    accounting: Accounting = "additive",
) -> Outcome:
    """Eq. 1 over what was decided. `charge` replaces the measured scheduling seconds of each step.

    Raises PlanRejectedError for decisions that cannot be carried out: fewer than steps, a plan that does not fit or leaves a
    model out, or one that changed without a reschedule.
    """
    if len(decisions) != len(trace.steps):
        raise PlanRejectedError(f"{len(decisions)} decisions for {len(trace.steps)} steps")
    intervals, old = [], None
    for number, decision in enumerate(decisions):
        estimator = estimator_of(trace, number, old, cost)
        problem = problem_of(decision.plan, trace.demands(number), trace, number, estimator)
        if problem:
            raise PlanRejectedError(f"step {number}: {problem}")
        if not decision.rescheduled and decision.plan != old:
            raise PlanRejectedError(f"step {number}: the plan changed without a reschedule")
        stale = decision.scheduling_s if charge is None else charge(decision)
        intervals.append(_interval(trace, number, old, decision, stale, estimator, accounting))
        old = decision.plan
    return Outcome(trace.tokens, tuple(intervals))


def estimator_of(trace: PlanTrace, number: int, old: Sequence[Replicas] | None, cost: CostModel) -> Estimator:
    """What prices plans at a step: `cost`, but for rounds of calls, where it matters what was in force before."""
    return Round(trace, number, old, cost) if trace.rounds else cost


def problem_of(
    plan: Sequence[Replicas], models: Sequence[ModelDemand], trace: PlanTrace, number: int, cost: Estimator
) -> str:
    """Why a plan cannot serve a step, empty if it can."""
    counts = trace.steps[number].gpus
    for gpu, used in gpus_used(plan).items():
        if used > counts.get(gpu, 0):
            return f"the plan takes {used} {gpu}, there are {counts.get(gpu, 0)}"
    gpus = trace.gpus(number)
    for model in models:
        if not math.isfinite(cost.serve_time(model, gpus, plan)):
            return f"the plan leaves {model.name} unserved: no replica of it, or weights that do not fit"
    return ""


def _step(policy: CompiledPolicy, ctx: PlanContext, cost: Estimator, state: _State) -> Decision:
    began = time.process_time()
    forced = ctx.plan is None or not _goes_on(ctx, cost)
    try:
        asked = forced or policy.should_reschedule(ctx)
        fuel = 0 if forced else policy.fuel_used
        if not asked and state.plan is not None:
            return Decision(False, state.plan, time.process_time() - began, fuel)
        plan = policy.schedule(ctx)
    except PolicyError as error:
        raise PlanRejectedError(f"step {ctx.step}: {error}") from error
    took = time.process_time() - began
    return Decision(True, plan, took, fuel + policy.fuel_used, forced)


def _goes_on(ctx: PlanContext, cost: Estimator) -> bool:
    """Whether the deployed plan still fits the cluster and serves every model."""
    plan, counts = ctx.plan or (), {pool.type: pool.count for pool in ctx.gpus}
    if any(used > counts.get(gpu, 0) for gpu, used in gpus_used(plan).items()):
        return False
    return all(math.isfinite(cost.serve_time(model, ctx.gpus, plan)) for model in ctx.models)


def _context(trace: PlanTrace, cost: Estimator, number: int, state: _State, seed: int) -> PlanContext:
    ctx = PlanContext()
    ctx.step, ctx.now = number, number * MONITORING_S
    ctx.models, ctx.gpus = trace.demands(number), trace.gpus(number)
    ctx.plan, ctx.last, ctx.history = state.plan, state.last, tuple(state.history)
    ctx.toolkit = CostToolkit(ctx, cost, seed=seed)
    return ctx


def _bare(ctx: PlanContext) -> PlanContext:
    """An observation without its own past, for `last` and `history`."""
    seen = PlanContext()
    seen.step, seen.now, seen.models, seen.gpus, seen.plan = ctx.step, ctx.now, ctx.models, ctx.gpus, ctx.plan
    return seen


def _interval(
    trace: PlanTrace,
    number: int,
    old: tuple[Replicas, ...] | None,
    decision: Decision,
    stale: float,
    cost: Estimator,
    accounting: Accounting,
) -> Interval:
    models, gpus = trace.demands(number), trace.gpus(number)
    moved = 0.0
    if decision.rescheduled and old is not None:
        moved = cost.reconfigure_time(models, gpus, old, decision.plan)
    times = {model.index: cost.serve_time(model, gpus, decision.plan) for model in models}
    if accounting == "overlap" and old is not None and decision.rescheduled:
        before, after = deployment(old), deployment(decision.plan)
        served_on = problem_of(old, models, trace, number, cost) == ""
        for model in models:
            z = model.index
            done = stale / max(cost.serve_time(model, gpus, old), 1e-9) if served_on else 0.0
            done += moved / max(times[z], 1e-9) if before.get(z) == after.get(z) else 0.0
            times[z] *= max(0.0, 1.0 - done)
    return Interval(decision.rescheduled, stale, moved, max(times.values()))
