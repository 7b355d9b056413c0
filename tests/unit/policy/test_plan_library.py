"""What defines each shipped plan policy, in random states."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_world import TYPES, context, makespan, moved, used

from autopoiesis.policy import library
from autopoiesis.policy.api import PlanContext, Replicas

PLANS = library.names("plan")
CALM = settings(max_examples=5, deadline=None, derandomize=True)

loads = st.lists(
    st.tuples(st.integers(1, 96), st.sampled_from((128, 512)), st.sampled_from((64, 512))),
    min_size=2,
    max_size=2,
)
fleets = st.fixed_dictionaries({"H100": st.sampled_from((8, 16)), "H200": st.sampled_from((0, 8))})
LOADS = [(32, 512, 512), (64, 512, 1024), (64, 512, 1024)]
FLEET = {"H100": 16, "H200": 16}


def after(
    before: PlanContext, plan: tuple[Replicas, ...], loads: object = None, gpus: object = None
) -> PlanContext:
    """The step after `before`, where `plan` was chosen."""
    return context(loads or LOADS, gpus or FLEET, plan=plan, last=before, step=before.step + 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PLANS)
@CALM
@given(loads=loads, gpus=fleets)
def test_every_plan_fits_and_serves_everybody(
    name: str, loads: list[tuple[int, int, int]], gpus: dict[str, int]
) -> None:
    ctx = context(loads, gpus)
    policy = library.load(name)
    assert policy.should_reschedule(ctx)
    plan = policy.schedule(ctx)
    assert all(used(plan, kind) <= gpus[kind] for kind in TYPES)
    assert makespan(ctx, plan) < math.inf
    assert policy.schedule(ctx) == plan


@CALM
@given(loads=loads, gpus=fleets)
def test_greedy_leaves_no_single_replica_that_would_help_the_last_model(
    loads: list[tuple[int, int, int]], gpus: dict[str, int]
) -> None:
    ctx = context(loads, gpus)
    plan = library.load("plan_greedy").schedule(ctx)
    last = max(ctx.models, key=lambda model: ctx.toolkit.serve_time(model, plan))  # type: ignore[attr-defined]
    for pool in ctx.gpus:
        for tp in ctx.toolkit.degrees(last, pool):  # type: ignore[attr-defined]
            if used(plan, pool.type) + tp <= pool.count:
                alone = (Replicas(last.index, pool.type, tp, 1),)
                assert makespan(
                    ctx, (*(r for r in plan if r.model != last.index), *alone)
                ) >= 0.999 * makespan(ctx, plan)


def test_greedy_reschedules_at_every_step() -> None:
    ctx = context(LOADS, FLEET)
    policy = library.load("plan_greedy")
    plan = policy.schedule(ctx)
    assert policy.should_reschedule(after(ctx, plan))


def test_milp_once_stays_with_its_plan_until_its_gpus_go() -> None:
    policy = library.load("plan_milp_once")
    ctx = context(LOADS, FLEET)
    plan = policy.schedule(ctx)
    assert not policy.should_reschedule(after(ctx, plan, loads=[(512, 512, 512)] * 3))
    assert policy.should_reschedule(after(ctx, plan, gpus={"H100": 0, "H200": 4}))


@CALM
@given(loads=loads, gpus=fleets)
def test_milp_is_no_worse_than_greedy(loads: list[tuple[int, int, int]], gpus: dict[str, int]) -> None:
    """Its grid of batches is coarser than greedy's shares, which may cost it a little."""
    ctx = context(loads, gpus)
    best = makespan(ctx, library.load("plan_milp_once").schedule(ctx))
    assert best <= 1.05 * makespan(ctx, library.load("plan_greedy").schedule(ctx))


@pytest.mark.parametrize(("factor", "reschedules"), [(1.0, False), (1.2, False), (1.6, True), (0.5, True)])
def test_milp_on_drift_follows_its_threshold(factor: float, reschedules: bool) -> None:
    policy = library.load("plan_milp_on_drift")
    ctx = context(LOADS, FLEET)
    plan = policy.schedule(ctx)
    (first, *others) = LOADS
    drifted = after(ctx, plan, loads=[(round(first[0] * factor), *first[1:]), *others])
    assert policy.should_reschedule(drifted) is reschedules


@CALM
@given(before=loads, now=loads, gpus=fleets)
def test_milp_with_move_cost_never_pays_more_than_it_gains(
    before: list[tuple[int, int, int]], now: list[tuple[int, int, int]], gpus: dict[str, int]
) -> None:
    policy = library.load("plan_milp_move_cost")
    count = min(len(before), len(now))
    first = context(before[:count], gpus)
    plan = policy.schedule(first)
    ctx = after(first, plan, loads=now[:count], gpus=gpus)
    new = policy.schedule(ctx)
    free = library.load("plan_milp_once").schedule(ctx)
    assert makespan(ctx, new) + moved(ctx, plan, new) <= 1.01 * (makespan(ctx, free) + moved(ctx, plan, free))


@CALM
@given(now=loads, gone=st.sampled_from((0, 4, 8)))
def test_local_repair_only_improves(now: list[tuple[int, int, int]], gone: int) -> None:
    policy = library.load("plan_local_repair")
    first = context(LOADS[: len(now)], FLEET)
    plan = policy.schedule(first)
    gpus = {"H100": 16 - gone, "H200": 16}
    ctx = after(first, plan, loads=now, gpus=gpus)
    new = policy.schedule(ctx)
    assert all(used(new, kind) <= gpus[kind] for kind in TYPES)
    if all(used(plan, kind) <= gpus[kind] for kind in TYPES):
        assert makespan(ctx, new) + moved(ctx, plan, new) <= makespan(ctx, plan)
        assert (new == plan) is (moved(ctx, plan, new) == 0.0)


@pytest.mark.parametrize("gpus", [{"H100": 8, "H200": 16}, {"H100": 16, "H200": 8}, {"H100": 24, "H200": 16}])
def test_full_and_minimal_migration_stand_at_the_two_ends(gpus: dict[str, int]) -> None:
    full, minimal = library.load("plan_full_migration"), library.load("plan_minimal_migration")
    first = context(LOADS, FLEET)
    plan = full.schedule(first)
    assert plan == minimal.schedule(first)
    same, ctx = after(first, plan), after(first, plan, gpus=gpus)
    for policy in (full, minimal):
        assert not policy.should_reschedule(same)
        assert policy.should_reschedule(ctx)
    everything, least = full.schedule(ctx), minimal.schedule(ctx)
    assert makespan(ctx, everything) <= makespan(ctx, least) * 1.003
    assert moved(ctx, plan, least) <= moved(ctx, plan, everything)
    if all(used(plan, kind) <= gpus[kind] for kind in TYPES):
        assert moved(ctx, plan, least) == 0.0


def test_minimal_migration_brings_back_a_model_that_lost_its_last_replica() -> None:
    minimal = library.load("plan_minimal_migration")
    first = context(LOADS, FLEET)
    plan = (Replicas(0, "H200", 1, 1), Replicas(1, "H100", 2, 1), Replicas(2, "H100", 8, 1))
    ctx = after(first, plan, gpus={"H100": 16, "H200": 0})
    new = minimal.schedule(ctx)
    assert {plan[1], plan[2]} <= set(new)
    assert makespan(ctx, new) < math.inf
