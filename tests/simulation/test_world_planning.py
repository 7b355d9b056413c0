"""A plan policy beside the routers: what it sees, what its plans cost, and what happens to bad ones."""

from dataclasses import replace

import numpy as np
import pytest

from autopoiesis.dispatch import DispatchSettings
from autopoiesis.policy.language import PolicyError
from autopoiesis.simulator.api import SLO, Run, WorldSettings, evaluate
from autopoiesis.simulator.requests.outcome import FINISHED
from autopoiesis.simulator.requests.planning import Planning
from autopoiesis.simulator.startup import StartupCosts
from autopoiesis.simulator.workload import generate as gen

PATIENT = WorldSettings(dispatch=DispatchSettings(no_replica_wait_s=60.0, hold_max_s=60.0))
"""Routers wait while a plan replaces every replica."""
GOAL = SLO(ttft_s=2.0, tpot_s=0.1)
BY_LOAD = """API = 1
def wanted(ctx):
    return max(1, min(ctx.gpus[0].count, math.ceil(ctx.models[0].concurrency / 40)))
def should_reschedule(ctx):
    if ctx.plan is None:
        return True
    return wanted(ctx) != sum(entry.count for entry in ctx.plan)
def schedule(ctx):
    return [Replicas(0, "L40S", 1, wanted(ctx))]
"""
SWAP = """API = 1
def should_reschedule(ctx):
    return ctx.step == 3
def schedule(ctx):
    return [Replicas(0, "H100", 1, 1)]
"""
TOO_MUCH = SWAP.replace("1, 1)", "1, 9)")


def planning(policy: str, seconds: float = 0.0, **gpus: int) -> Planning:
    return Planning(policy=policy, gpus=gpus or {"L40S": 4}, how="wake", charge=lambda cpu_s, fuel: seconds)


def run(plan: Planning, rate: float = 6.0, fleet: str = "1xL40S") -> Run:
    trace = gen.poisson(rate, 120, seed=2)
    return evaluate("least_requests", trace, fleet, GOAL, planning=plan, settings=PATIENT).runs[0]


def test_a_fleet_follows_its_load() -> None:
    trace = gen.diurnal(10, 240, swing=0.9, period_s=240, seed=4)
    fixed = evaluate("least_requests", trace, "1xL40S", GOAL).runs[0]
    planned = evaluate("least_requests", trace, "1xL40S", GOAL, planning=planning(BY_LOAD)).runs[0]
    assert planned.plan is not None
    assert planned.plan.reschedules >= 3
    assert not planned.plan.faults
    assert (planned.outcome == FINISHED).all()
    assert planned.attainment() > fixed.attainment() + 0.1
    assert planned.summary()["gpu_s"] < 4 * fixed.summary()["gpu_s"]
    assert planned.summary()["loading_gpu_s"] > 0


def test_a_plan_takes_effect_after_its_own_time_draining_stopping_and_loading() -> None:
    costs = StartupCosts()
    quick, slow = (run(planning(SWAP, seconds, L40S=1, H100=1)) for seconds in (0.0, 12.0))
    loading = costs.wake_s + 16.06e9 / costs.wake_bandwidth
    for found, seconds in ((quick, 0.0), (slow, 12.0)):
        assert found.plan is not None
        assert found.plan.reschedules == 1
        assert (found.outcome == FINISHED).all()
        sent = found.arrival_s + found.queue_wait_s
        assert sent[found.replica == 0].max() <= 20.3 + seconds * 4 + 0.25
        assert sent[found.replica == 1].min() >= 20.0 + seconds + loading
        assert found.replicas[1].gpu == "H100"
    assert quick.plan is not None
    assert slow.plan is not None
    assert slow.plan.scheduling_s == pytest.approx(12.0 * slow.plan.steps)
    assert slow.plan.steps < quick.plan.steps


def test_what_takes_the_gpus_of_another_waits_for_it() -> None:
    swap = SWAP.replace('"H100", 1', '"L40S", 2')
    found = run(planning(swap, L40S=2), fleet="2xL40S")
    assert (found.outcome == FINISHED).all()
    first, second, both = found.replicas
    assert both.tp == 2
    left = max(first.present_s, second.present_s)
    sent = found.arrival_s + found.queue_wait_s
    assert sent[found.replica == 2].min() > left + StartupCosts().stop_s
    held = first.present_s + second.present_s + 2 * both.present_s
    assert held <= 2 * (found.arrival_s + np.nan_to_num(found.e2e_s)).max() + 1.0


def test_faulty_plans_are_counted_and_change_nothing() -> None:
    found = run(planning(TOO_MUCH, L40S=1, H100=2))
    assert found.plan is not None
    assert found.plan.faults == {"InvalidDecision: the plan takes 9 GPUs of type H100; it may take 2": 1}
    assert len(found.replicas) == 1
    assert found.summary()["plan_faults"] == 1


@pytest.mark.parametrize("policy", ["plan_greedy", "plan_milp_on_drift"])
def test_shipped_plan_policies_run_here(policy: str) -> None:
    found = run(planning(policy, L40S=2, L4=1))
    assert found.plan is not None
    assert found.plan.reschedules >= 1
    assert not found.plan.faults
    assert (found.outcome == FINISHED).all()


def test_plans_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        replace(planning(SWAP), step_s=0.0)
    with pytest.raises(ValueError, match="of a type named 'A100-80'"):
        Planning(policy=SWAP, gpus={"A100": 1})
    with pytest.raises(PolicyError):
        run(planning("import os\n"))
