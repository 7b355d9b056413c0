"""The execution model, its bound, and traces of the interval world."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopoiesis.policy.api import Replicas
from autopoiesis.policy.language import compile_policy
from autopoiesis.simulator.intervals import Assumptions, CostModel, PlanTrace, Step
from autopoiesis.simulator.intervals.bound import lower_bound
from autopoiesis.simulator.intervals.generate import KINDS
from autopoiesis.simulator.intervals.job import PlanJob, PlanResult, decided, run
from autopoiesis.simulator.intervals.paper import qwen
from autopoiesis.simulator.intervals.traces import Load, pool_of
from autopoiesis.simulator.intervals.world import Decision, PlanRejectedError, account, decide

COST = CostModel()
EVERY = '''"""Fewest GPUs, each step; tp follows the step."""
API = 1
def should_reschedule(ctx):
    return {when}
def schedule(ctx):
    tp = (1, 2, 4)[ctx.step % 3]
    return [Replicas(m.index, ctx.gpus[0].type, tp, 1, m.concurrency) for m in ctx.models]
'''


def trace(*loads, gpus=8):
    steps = tuple(Step({"Qwen2.5-7B": Load(n, 256, 512)}, {"H100": gpus}) for n in loads)
    return PlanTrace("t", (qwen("7B"),), (pool_of("H100"),), steps)


def plan(tp, count=1):
    return (Replicas(0, "H100", tp, count),)


def decision(tp, seconds, *, rescheduled=True):
    return Decision(rescheduled, plan(tp), seconds)


def test_total_time_is_scheduling_moving_and_serving_added_up():
    world = trace(10, 20, 20)
    outcome = account(world, [decision(1, 5.0), decision(2, 3.0), decision(2, 0.25, rescheduled=False)], COST)
    move = 2 * COST.transfer_time(world.demands(0)[0], world.gpus(0)[0])
    serve = [COST.serve_time(world.demands(n)[0], world.gpus(n), plan(tp)) for n, tp in enumerate((1, 2, 2))]
    assert outcome.reschedules == 2
    assert outcome.stale_s == 8.25
    assert outcome.reconfigure_s == pytest.approx(move)
    assert outcome.serve_s == pytest.approx(sum(serve))
    assert outcome.total_s == pytest.approx(8.25 + move + sum(serve))
    assert outcome.tokens_per_s == pytest.approx(50 * 768 / outcome.total_s)


def test_charged_time_replaces_measured_time():
    decisions = [decision(1, 5.0), decision(2, 3.0)]
    outcome = account(trace(10, 20), decisions, COST, charge=lambda d: 1.5 if d.rescheduled else 0.0)
    assert outcome.stale_s == 3.0


@given(st.floats(0, 100), st.integers(1, 400), st.integers(1, 400), st.sampled_from((1, 2, 4)))
def test_overlap_credits_work_but_never_more_than_there_is(seconds, before, after, tp):
    world, decisions = trace(before, after), [decision(1, 0.0), decision(tp, seconds)]
    additive = account(world, decisions, COST)
    overlap = account(world, decisions, COST, accounting="overlap")
    assert overlap.total_s <= additive.total_s
    assert overlap.total_s >= additive.stale_s + additive.reconfigure_s + additive.intervals[0].serve_s
    credited = additive.serve_s - overlap.serve_s
    stale_share = seconds / COST.serve_time(world.demands(1)[0], world.gpus(1), plan(1))
    assert credited <= additive.intervals[1].serve_s * min(1.0, stale_share) + additive.reconfigure_s + 1e-9


@pytest.mark.parametrize(
    ("decisions", "words"),
    [
        ([decision(1, 0.0)], "1 decisions for 2 steps"),
        ([decision(1, 0.0), Decision(True, plan(8, 2), 0.0)], "takes 16 H100, there are 8"),
        ([decision(1, 0.0), decision(2, 0.0, rescheduled=False)], "changed without a reschedule"),
        ([decision(1, 0.0), Decision(True, (), 0.0)], "leaves Qwen2.5-7B unserved"),
    ],
)
def test_what_cannot_be_carried_out_is_not_priced(decisions, words):
    with pytest.raises(PlanRejectedError, match=words):
        account(trace(1, 1), decisions, COST)


def test_a_policy_is_asked_only_while_its_plan_can_go_on():
    policy = compile_policy(EVERY.format(when="ctx.step == 2"), "plan")
    world = trace(8, 8, 8, 8)
    found = decide(policy, world, COST)
    assert [(d.rescheduled, d.forced) for d in found] == [
        (True, True),
        (False, False),
        (True, False),
        (False, False),
    ]
    shrunk = replace(world, steps=(*world.steps[:3], Step(world.steps[3].loads, {"H100": 2})))
    assert [d.forced for d in decide(policy, shrunk, COST)] == [True, False, False, True]


def test_a_policy_that_breaks_says_at_which_step():
    policy = compile_policy(EVERY.format(when="1 / (2 - ctx.step) > 0"), "plan")
    with pytest.raises(PlanRejectedError, match=r"step 2: .*ZeroDivision"):
        decide(policy, trace(8, 8, 8), COST)


def test_a_policy_sees_its_past():
    source = EVERY.format(
        when="len(ctx.history) == 3 and ctx.last.step == 0 and ctx.history[-1].plan is not None"
    )
    found = decide(compile_policy(source, "plan"), trace(8, 8, 8, 8, 8), COST)
    assert [d.rescheduled for d in found] == [True, False, False, True, False]


def test_a_job_gives_back_what_was_decided():
    job = PlanJob(policy=EVERY.format(when="True"), trace=trace(8, 9), assumptions=Assumptions(), repeats=3)
    found = decided(run(msgspec.msgpack.encode(job)))
    direct = decide(compile_policy(job.policy, "plan"), job.trace, CostModel())
    assert [d.plan for d in found] == [d.plan for d in direct]
    with pytest.raises(PlanRejectedError, match="because"):
        decided(msgspec.msgpack.encode(PlanResult(rejected="because")))
    with pytest.raises(PlanRejectedError, match="not a result"):
        decided(b"nonsense")


def test_a_trace_names_what_it_does_not_know():
    with pytest.raises(ValueError, match="step 0: unknown GPU type B300; known are H100"):
        replace(trace(1), steps=(Step({}, {"B300": 1}),))
    with pytest.raises(ValueError, match="no steps"):
        replace(trace(1), steps=())


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=4),
    st.lists(st.sampled_from((1, 2, 4, 8)), min_size=4, max_size=4),
    st.booleans(),
)
def test_nothing_is_below_the_bound(loads, degrees, moving):
    world = trace(*loads)
    bound = lower_bound(world, COST)
    decisions = [
        Decision(moving or n == 0, plan(degrees[n if moving else 0], 8 // degrees[n if moving else 0]), 0.0)
        for n in range(len(loads))
    ]
    assert account(world, decisions, COST).total_s >= bound.total_s >= bound.serve_s - 1e-9


def test_the_bound_is_reached_where_one_plan_is_best_throughout():
    world = trace(64, 64, 64)
    best = min(
        account(world, [Decision(n == 0, plan(tp, 8 // tp), 0.0) for n in range(3)], COST).total_s
        for tp in (1, 2, 4, 8)
    )
    assert lower_bound(world, COST).total_s == pytest.approx(best, rel=0.006)


@pytest.mark.parametrize("kind", KINDS)
def test_generated_traces_repeat_by_seed_and_differ_between_seeds(kind):
    generate = KINDS[kind]
    assert generate(1) == generate(1)
    assert generate(1).steps != generate(2).steps
    assert generate(1).tokens > 0
