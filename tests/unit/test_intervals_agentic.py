"""Rounds of calls on separate prefill and decode instances."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.policy.api import Replicas
from autopoiesis.policy.language import compile_policy
from autopoiesis.simulator.intervals import CostModel, PlanTrace, Step
from autopoiesis.simulator.intervals.agentic import Round
from autopoiesis.simulator.intervals.traces import Load, pool_of
from autopoiesis.simulator.intervals.world import Decision, PlanRejectedError, account, decide
from autopoiesis.simulator.models import MODELS

P, D, SLOW = "prefill-0/H100", "decode-0/H100", "decode-1/A100-80"
COST = CostModel()
POOLS = tuple(
    pool_of(name.split("/")[1], type=name, per_node=1, network_bandwidth=50e9) for name in (P, D, SLOW)
)
FIRST = '''"""Everything on the first instances."""
API = 1
def should_reschedule(ctx):
    return False
def schedule(ctx):
    found = []
    for role in ("prefill", "decode"):
        name = [pool.type for pool in ctx.gpus if pool.type.startswith(role)][0]
        found += [Replicas(m.index, name, 1, 1, 0, role, 1.0 * m.index) for m in ctx.models]
    return found
'''


def trace(*rounds):
    models = tuple(replace(MODELS["Llama-3.1-8B"], name=f"w{n}") for n in range(len(rounds[0])))
    steps = tuple(
        Step(
            {m.name: Load(1, *call) for m, call in zip(models, calls, strict=True) if call},
            dict.fromkeys((P, D, SLOW), 99),
        )
        for calls in rounds
    )
    return PlanTrace("agentic", models, POOLS, steps, rounds=True)


def both(workflow, decode=D, place=0.0):
    return [
        Replicas(workflow, P, 1, 1, 0, "prefill", place),
        Replicas(workflow, decode, 1, 1, 0, "decode", place),
    ]


def ends(world, plan, number=0, old=None):
    seen = Round(world, number, old, COST)
    return [seen.serve_time(model, world.gpus(number), plan) for model in world.demands(number)]


def test_a_call_alone_is_read_moved_and_written():
    world = trace([(2000, 100)])
    (model,), (prefill, decode, _) = world.demands(0), world.gpus(0)
    parts = (
        COST.prefill_time(model, prefill, 1, 1),
        2000 * 131_072 / 50e9,
        COST.decode_time(model, decode, 1, 1),
    )
    assert ends(world, both(0)) == [pytest.approx(sum(parts), rel=0.01)]


@given(st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 300)), min_size=2, max_size=6))
def test_company_never_makes_a_call_end_sooner_and_all_end(calls):
    world = trace(calls)
    alone = [ends(world, both(z))[z] for z in range(len(calls))]
    together = ends(world, [entry for z in range(len(calls)) for entry in both(z)])
    assert all(a <= b * (1 + 1e-3) < math.inf for a, b in zip(alone, together, strict=True))


def test_queues_go_by_place():
    world = trace([(4000, 50), (4000, 50)])
    first, second = ends(world, [*both(0, place=1.0), *both(1, place=0.0)])
    assert first > second
    assert ends(world, [*both(0, place=0.0), *both(1, place=1.0)]) == [
        pytest.approx(second),
        pytest.approx(first),
    ]


def test_what_the_same_instance_read_before_is_not_read_again():
    world = trace([(4000, 10)], [(4100, 10)])
    fresh, again = ends(world, both(0), 1), ends(world, both(0), 1, both(0))
    read = COST.prefill_time(world.demands(0)[0], world.gpus(0)[0], 1, 1)
    assert fresh[0] - again[0] == pytest.approx(read)


def test_a_slower_instance_writes_slower():
    world = trace([(100, 200)])
    assert ends(world, both(0, SLOW))[0] > 1.4 * ends(world, both(0))[0]


@pytest.mark.parametrize(
    "plan",
    [
        [],
        both(0)[:1],
        [Replicas(0, D, 1, 1, 0, "prefill"), Replicas(0, P, 1, 1, 0, "decode")],
    ],
)
def test_a_call_without_instances_of_both_roles_is_unserved(plan):
    world = trace([(100, 10)])
    assert ends(world, plan) == [math.inf]
    with pytest.raises(PlanRejectedError, match="leaves w0 unserved"):
        account(world, [Decision(True, tuple(plan), 0.0)], COST)


def test_contexts_that_do_not_fit_together_wait_for_each_other():
    pools = (POOLS[0], replace(POOLS[1], memory_bytes=18_500_000_000))
    long = trace([(6000, 2000), (6000, 2000)])
    world = replace(long, pools=pools, steps=(Step(long.steps[0].loads, {P: 99, D: 99}),))
    early, late = sorted(ends(world, [*both(0), *both(1, place=1.0)]))
    assert late > 1.8 * early


def test_total_time_is_scheduling_and_rounds_without_moves():
    world = trace([(3000, 50), (200, 80)], [(3100, 40), None])
    decisions = decide(compile_policy(FIRST, "plan"), world, COST)
    assert [d.rescheduled for d in decisions] == [True, False]
    outcome = account(world, decisions, COST, charge=lambda d: 0.5 if d.rescheduled else 0.0)
    plan = decisions[0].plan
    rounds = [max(ends(world, plan)), ends(world, plan, 1, plan)[0]]
    assert outcome.total_s == pytest.approx(0.5 + sum(rounds))
    assert outcome.reconfigure_s == 0
