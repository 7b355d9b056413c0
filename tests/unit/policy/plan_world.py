"""Contexts for plan policies, priced by the simulator's cost model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autopoiesis.policy.api import PlanContext, Replicas
from autopoiesis.simulator.intervals.cost import CostModel
from autopoiesis.simulator.intervals.traces import Load, demand, pool, pool_of
from autopoiesis.simulator.models import MODELS
from autopoiesis.simulator.toolkit import CostToolkit

COST = CostModel()
NAMES = ("Qwen2.5-7B", "Qwen2.5-14B", "Qwen2.5-72B")
TYPES = ("H100", "H200")


def context(
    loads: Sequence[tuple[int, int, int]],
    gpus: Mapping[str, int],
    *,
    plan: tuple[Replicas, ...] | None = None,
    last: PlanContext | None = None,
    step: int = 0,
) -> PlanContext:
    """`loads`: concurrency, prompt and output tokens of the 7B, 14B and 72B model. `gpus`: H100 and H200 there are."""
    ctx = PlanContext()
    ctx.step, ctx.now = step, 5.0 * step
    ctx.models = tuple(
        demand(index, MODELS[name], Load(*load))
        for index, (name, load) in enumerate(zip(NAMES, loads, strict=False))
    )
    ctx.gpus = tuple(pool(pool_of(kind), gpus.get(kind, 0)) for kind in TYPES)
    ctx.plan, ctx.last = plan, last
    ctx.toolkit = CostToolkit(ctx, COST)
    return ctx


def used(plan: Sequence[Replicas], gpu: str) -> int:
    return sum(entry.tp * entry.count for entry in plan if entry.gpu == gpu)


def makespan(ctx: PlanContext, plan: Sequence[Replicas]) -> float:
    return max(COST.serve_time(model, ctx.gpus, plan) for model in ctx.models)


def moved(ctx: PlanContext, old: Sequence[Replicas], new: Sequence[Replicas]) -> float:
    return COST.reconfigure_time(ctx.models, ctx.gpus, old, new)
