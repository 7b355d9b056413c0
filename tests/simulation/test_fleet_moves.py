"""Fleets that move: loading, sleep, notices, silent losses, plans that replace one another, spot membership."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autopoiesis.simulator.api import SLO, Change, Fleet, WorldSettings, evaluate
from autopoiesis.simulator.fleet import ReplicaSpec
from autopoiesis.simulator.moves import replan, spot_fleet, start, wake
from autopoiesis.simulator.requests.outcome import FAILED, FINISHED
from autopoiesis.simulator.startup import StartupCosts
from autopoiesis.simulator.workload import generate as gen
from autopoiesis.simulator.workload.spot import NodeChange, load_spot

SPOT = Path(__file__).parents[3] / "shared/traces/spot/bamboo_p3-trace.csv.gz"
GOAL = SLO(ttft_s=1.0, tpot_s=0.05)
AVOIDS_LOSS = """API = 1
def prioritize(request, ctx):
    return request.arrival
def route(request, replicas, ctx):
    best = 0
    for replica in replicas:
        if replica.notice > replicas[best].notice:
            best = replica.index
    return Assign(best)
"""


def spec(name: str, gpu: str = "L40S", node: str = "") -> ReplicaSpec:
    found = Fleet.parse(f"1x{gpu}").replicas[0]
    return replace(found, name=name, node=node or name)


def test_start_up_costs_are_those_measured() -> None:
    costs = StartupCosts()
    sleeper = replace(spec("a", "A100-80"), steps=Fleet.parse("1xH200", "Qwen3-30B-A3B").replicas[0].steps)
    assert costs.seconds(sleeper, "wake") == pytest.approx(2.9, rel=0.1)
    assert costs.seconds(spec("b"), "warm") == pytest.approx(40, rel=0.1)
    assert 120 < costs.seconds(spec("b"), "cold") < 294
    with pytest.raises(ValueError, match="disk_bandwidth = 0"):
        StartupCosts(disk_bandwidth=0)


def test_a_replica_that_loads_serves_once_it_is_ready() -> None:
    trace = gen.poisson(10, 60, seed=2)
    late = spec("late", "H100")
    change = start(5.0, late, "warm")
    run = evaluate("least_predicted_ttft", trace, "1xL4", GOAL, changes=[change]).runs[0]
    ready = 5.0 + change.takes_s
    assert 30 < change.takes_s < 50
    sent = run.arrival_s + run.queue_wait_s
    assert (run.replica[sent < ready] == 0).all()
    assert (run.replica[run.arrival_s > ready + 0.3] == 1).mean() > 0.5
    totals = run.replicas[1]
    assert totals.loading_s == pytest.approx(change.takes_s)
    assert totals.present_s == pytest.approx(run.replicas[0].present_s - 5.0)


def test_what_fails_while_loading_is_paid_for_as_far_as_it_came() -> None:
    trace = gen.poisson(5, 30, seed=2)
    changes = [start(5.0, spec("late"), "warm"), Change(at=15.0, kind="fail", replica="late")]
    run = evaluate("round_robin", trace, "1xL40S", GOAL, changes=changes).runs[0]
    assert (run.outcome == FINISHED).all()
    assert run.replicas[1].loading_s == pytest.approx(10.0)
    assert run.replicas[1].present_s == pytest.approx(10.0)


def test_policies_hear_of_an_announced_loss() -> None:
    trace = gen.poisson(10, 30, mix=[gen.Mix(output=gen.Lengths(100, 0.2))], seed=2)
    told = Change(at=5.0, kind="notice", replica="l40s-0", takes_s=10.0)
    heeding = evaluate(AVOIDS_LOSS, trace, "2xL40S", GOAL, changes=[told]).runs[0]
    blind = evaluate("round_robin", trace, "2xL40S", GOAL, changes=[told]).runs[0]
    assert (heeding.outcome == FINISHED).all()
    assert (heeding.replica[heeding.arrival_s > 5.3] == 1).all()
    assert (blind.outcome == FAILED).any()
    assert blind.replicas[0].present_s == pytest.approx(15.0)
    assert blind.summary()["failed"] + blind.summary()["finished"] == pytest.approx(1.0)


def test_a_silent_loss_costs_more_than_one_that_is_known() -> None:
    trace = gen.poisson(20, 20, seed=2)
    waits = []
    for unnoticed in (0.0, 3.0):
        lost = Change(at=8.0, kind="fail", replica="l40s-0", takes_s=unnoticed)
        run = evaluate("round_robin", trace, "2xL40S", GOAL, changes=[lost]).runs[0]
        retried = (run.attempts > 1) & (run.outcome == FINISHED)
        assert retried.any()
        waits.append(run.queue_wait_s[retried].max())
    assert waits[0] < 1.0
    assert waits[1] > 2.0


def test_sleep_gives_the_gpus_back_and_loses_the_cache() -> None:
    trace = gen.sessions(1.0, 60, turns=4, think_s=2, seed=5)
    sleeper = Fleet.parse("1xH100").replicas[0]
    changes = [Change(at=10.0, kind="sleep", replica=sleeper.name), wake(30.0, sleeper)]
    awake = evaluate("round_robin", trace, "1xH100", GOAL).runs[0]
    patient = WorldSettings()
    patient = replace(patient, dispatch=replace(patient.dispatch, no_replica_wait_s=60.0, hold_max_s=60.0))
    slept = evaluate("round_robin", trace, "1xH100", GOAL, changes=changes, settings=patient).runs[0]
    assert (slept.outcome == FINISHED).all()
    first_token = slept.arrival_s + slept.ttft_s
    assert not ((first_token > 15.0) & (first_token < 30.8)).any()
    assert slept.summary()["prefix_hit_share"] < awake.summary()["prefix_hit_share"]
    totals = slept.replicas[0]
    assert totals.loading_s == pytest.approx(0.1 + 16.06e9 / 22.5e9, rel=0.01)
    ended = slept.arrival_s + slept.e2e_s
    fell_asleep = ended[slept.arrival_s + slept.queue_wait_s < 30.0].max()
    assert totals.present_s == pytest.approx(ended.max() - (30.0 - fell_asleep))


def test_a_plan_change_costs_draining_stopping_and_loading() -> None:
    trace = gen.poisson(4, 120, seed=2)
    old = [spec("a", node="m1"), spec("b", node="m2")]
    new = [old[0], spec("c", "H100", node="m2")]
    changes = replan(20.0, old, new)
    assert [(c.kind, c.replica, c.after) for c in changes] == [("drain", "b", ""), ("join", "c", "b")]
    run = evaluate("round_robin", trace, Fleet(tuple(old)), GOAL, changes=changes).runs[0]
    assert (run.outcome == FINISHED).all()
    served = {name: run.arrival_s[run.replica == n] for n, name in enumerate("abc")}
    assert served["b"].max() < 20.3
    costs = StartupCosts()
    assert served["c"].min() > 20.0 + costs.stop_s + costs.seconds(new[1], "warm")
    left = run.replicas[1].present_s
    assert run.replicas[2].present_s == pytest.approx(run.replicas[0].present_s - left - costs.stop_s)


def test_a_replica_waits_for_one_that_fails_too() -> None:
    trace = gen.poisson(4, 60, seed=2)
    changes = [
        start(1.0, spec("c"), "wake", after="l40s-1"),
        Change(at=20.0, kind="fail", replica="l40s-1"),
    ]
    run = evaluate("round_robin", trace, "2xL40S", GOAL, changes=changes).runs[0]
    assert (run.replica == 2).any()
    assert run.arrival_s[run.replica == 2].min() > 20.0


def test_spot_membership_becomes_a_fleet() -> None:
    membership = [
        NodeChange(0.0, "n1", "add"),
        NodeChange(0.0, "n2", "add"),
        NodeChange(20.0, "n1", "remove"),
        NodeChange(25.0, "n1", "add"),
        NodeChange(30.0, "n3", "add"),
        NodeChange(500.0, "n2", "remove"),
    ]
    fleet = spot_fleet(membership, spec("x"), notice_s=5.0, how="wake", nodes=2, span_s=100.0)
    assert [s.name for s in fleet.replicas] == ["n1", "n2"]
    assert all(s.preemptible for s in fleet.replicas)
    assert [(c.kind, c.at, c.replica) for c in fleet.changes] == [
        ("notice", 15.0, "n1"),
        ("join", 25.0, "n1~2"),
    ]
    trace = gen.poisson(10, 40, seed=1)
    run = evaluate("least_requests", trace, fleet, GOAL).runs[0]
    assert run.replicas[0].present_s == pytest.approx(20.0)
    assert np.isin([0, 1, 2], run.replica).all()
    late = spot_fleet(membership, spec("x"), start_s=22.0)
    assert [s.name for s in late.replicas] == ["n2"]
    assert [c.kind for c in late.changes] == ["join", "join", "fail"]


@pytest.mark.skipif(not SPOT.exists(), reason=f"needs {SPOT.name} (uclasystem/bamboo)")
def test_recorded_spot_membership_is_survived() -> None:
    fleet = spot_fleet(
        load_spot(SPOT), spec("x"), notice_s=30.0, how="warm", nodes=6, start_s=2400.0, span_s=1800.0
    )
    assert len(fleet.changes) > 5
    run = evaluate("least_requests", gen.poisson(3, 1800, seed=3), fleet, GOAL).runs[0]
    lost = {change.replica for change in fleet.changes if change.kind == "notice"}
    assert (run.outcome == FINISHED).mean() > 0.95
    for totals in run.replicas:
        assert (totals.present_s < 1800.0) or totals.name not in lost


def test_changes_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="exactly a join has a spec"):
        Change(at=1.0, kind="join", replica="x")
    with pytest.raises(ValueError, match="only a join waits"):
        Change(at=1.0, kind="fail", replica="x", after="y")
    with pytest.raises(ValueError, match="not negative"):
        Change(at=1.0, kind="wake", replica="x", takes_s=-1.0)
    with pytest.raises(ValueError, match="no such replica as y"):
        Fleet.parse("1xL4").with_changes([start(1.0, spec("x"), after="y")])
