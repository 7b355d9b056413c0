"""What the planner hears and what a policy then sees."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from autopoiesis.contracts.messages.fleet import (
    DesiredReplica,
    DesiredState,
    Heartbeat,
    ModelBounds,
    NodeInventory,
)
from autopoiesis.contracts.messages.policy import Activation
from autopoiesis.contracts.messages.telemetry import RequestRecord
from autopoiesis.policy import library
from autopoiesis.policy.api import Replicas
from autopoiesis.router.planner.demand import Demand, Load
from autopoiesis.router.planner.fleet import ANNOUNCED_S, HEARING_S, INVENTORY_S, Fleet
from autopoiesis.router.planner.observation import Observer
from autopoiesis.router.planner.placement import Kind
from autopoiesis.router.planner.policies import Policies


def beat(replica: str, node: str = "a", **others: object) -> Heartbeat:
    plain = {"incarnation": "1", "beat": 1, "state": "ready", "model": "m", "gpu": "H100"}
    return Heartbeat(node=node, replica=replica, **{**plain, **others})  # type: ignore[arg-type]


def record(**others: object) -> RequestRecord:
    plain = {
        "request_id": "r", "scope": "s", "model": "m", "arrival_unix_s": 0.0, "stream": True, "prompt_bytes": 400,
        "prompt_tokens": 100, "prompt_tokens_estimated": 100, "max_tokens": 64, "output_tokens": 50,
        "output_censored": False, "outcome": "finished", "e2e_s": 2.0,
    }  # fmt: skip
    return msgspec.convert({**plain, **others}, RequestRecord)


def test_a_node_counts_once_its_replicas_have_had_time_to_speak() -> None:
    fleet = Fleet(silence_s=3.0, now=0.0)
    fleet.on_inventory(NodeInventory(node="a", gpus={"H100": 4}), 0.0)
    assert fleet.nodes(0.5) == {}
    fleet.on_heartbeat(beat("r1", lease_epoch=7), 0.6)
    fleet.on_heartbeat(beat("r2", state="draining"), 0.6)
    (node,) = fleet.nodes(1.5).values()
    assert [replica.replica for replica in node.running()] == ["r1"]
    assert fleet.highest_lease == 7


def test_silence_ends_a_node_with_replicas_soon_and_an_empty_one_late() -> None:
    fleet = Fleet(silence_s=3.0, now=0.0)
    for name in ("a", "b"):
        fleet.on_inventory(NodeInventory(node=name, gpus={"H100": 4}), 0.0)
    fleet.on_heartbeat(beat("r1"), 1.0)
    assert set(fleet.nodes(3.9)) == {"a", "b"}
    assert set(fleet.nodes(4.1)) == {"b"}
    fleet.on_heartbeat(beat("r2", node="c"), 25.0)
    assert fleet.nodes(INVENTORY_S + 1) == {}


def announced(*names: str, at: float = 0.0) -> Fleet:
    """Nodes that have said what they have; one replica beats on each."""
    fleet = Fleet(silence_s=3.0, now=at)
    for name in names:
        fleet.on_inventory(NodeInventory(node=name, gpus={"H100": 2}), at)
        fleet.on_heartbeat(beat(f"r-{name}", node=name), at)
    return fleet


def told(node: str, *replicas: str) -> dict[str, DesiredState]:
    wanted = tuple(DesiredReplica(replica=name, model="m", gpu="H100") for name in replicas)
    return {node: DesiredState(node=node, lease_epoch=1, revision=1, replicas=wanted)}


def test_a_planner_that_starts_listens_before_it_takes_what_it_hears_for_all() -> None:
    fleet = announced("a")
    assert not fleet.settled(HEARING_S - 0.1, {})
    assert fleet.settled(HEARING_S, {})


def test_a_node_that_beats_is_waited_for_until_it_says_what_it_has() -> None:
    fleet = announced("a")
    fleet.on_heartbeat(beat("r2", node="b"), 1.0)
    fleet.on_heartbeat(beat("attached", node="c", via="router-1"), 1.0)
    assert not fleet.settled(9.0, {})
    fleet.on_inventory(NodeInventory(node="b", gpus={"H100": 2}), 9.5)
    assert fleet.settled(9.5, {})
    fleet.on_heartbeat(beat("r3", node="mute"), 10.0)
    assert not fleet.settled(9.9 + INVENTORY_S, {})
    assert fleet.settled(10.0 + INVENTORY_S, {})


@pytest.mark.parametrize(("state", "patience_s"), [(told("b", "r1"), 3.0), (told("b"), ANNOUNCED_S)])
def test_a_node_that_was_told_what_to_run_is_waited_for_until_it_would_have_spoken(
    state: dict[str, DesiredState], patience_s: float
) -> None:
    fleet = announced("a")
    assert not fleet.settled(patience_s - 0.1, state)
    assert fleet.settled(patience_s, state)


def test_where_most_nodes_fall_silent_at_once_they_are_waited_for() -> None:
    fleet = announced("a", "b", "c")
    assert set(fleet.nodes(4.0)) == {"a", "b", "c"}
    assert not fleet.settled(4.0 + HEARING_S, {})
    for name in ("a", "b"):
        fleet.on_heartbeat(beat(f"r-{name}", node=name), 6.0)
    assert set(fleet.nodes(6.5)) == {"a", "b", "c"}
    assert fleet.settled(6.5, {})
    assert set(fleet.nodes(7.1)) == {"a", "b"}


def test_most_nodes_may_be_gone_for_good() -> None:
    fleet = announced("a", "b")
    assert set(fleet.nodes(4.0)) == {"a", "b"}
    assert set(fleet.nodes(4.0 + INVENTORY_S)) == {"a", "b"}
    assert fleet.nodes(4.1 + INVENTORY_S) == {}


def test_after_a_gap_silence_counts_anew() -> None:
    fleet = announced("a", "b", "c")
    fleet.resume(60.0)
    fleet.on_heartbeat(beat("r-a", node="a"), 60.1)
    assert set(fleet.nodes(62.9)) == {"a", "b", "c"}
    assert not fleet.settled(61.9, {})
    for name in ("a", "b"):
        fleet.on_heartbeat(beat(f"r-{name}", node=name), 63.0)
    assert set(fleet.nodes(63.1)) == {"a", "b"}


def test_attached_servers_are_not_planned() -> None:
    fleet = Fleet(silence_s=3.0, now=0.0)
    fleet.on_inventory(NodeInventory(node="a", gpus={"H100": 4}, plannable=False), 0.0)
    assert fleet.nodes(2.0) == {}


def test_load_is_what_replicas_hold() -> None:
    fleet = Fleet(silence_s=3.0, now=0.0)
    fleet.on_heartbeat(beat("r1", running=3, waiting=1), 0.0)
    fleet.on_heartbeat(beat("r2", running=2), 0.0)
    assert fleet.load() == {"m": 6}


def test_demand_is_a_window_of_arrivals() -> None:
    demand = Demand(window_s=10.0)
    demand.on_records([record(e2e_s=4.0) for _ in range(20)], 0.0)
    demand.on_records([record(model="other", outcome="failed", e2e_s=5.0, prompt_tokens=30)] * 4, 5.0)
    loads = demand.loads({"m": 3}, 10.0)
    assert loads["m"] == Load(concurrency=8, arrival_rate=2.0, prompt_tokens=100, output_tokens=50)
    assert loads["other"].concurrency == 2
    assert demand.loads({"m": 30}, 10.0)["m"].concurrency == 30
    later = demand.loads({"m": 1}, 30.0)
    assert later["m"] == Load(1, 0.0, 100, 50)
    assert "other" not in later


def fleet_of(gpus: dict[str, int]) -> Fleet:
    fleet = Fleet(silence_s=3.0, now=0.0)
    fleet.on_inventory(NodeInventory(node="a", gpus=gpus), 0.0)
    return fleet


def test_a_context_has_names_and_counts_and_remembers_the_last_reschedule() -> None:
    observer = Observer({"m": ModelBounds(min_replicas=2, max_replicas=5)}, {"H100": 3})
    wanted = [DesiredReplica(replica=f"r{i}", model="m", gpu="H100") for i in range(2)]
    nodes = fleet_of({"H100": 4, "L40S": 2}).nodes(2.0)
    first = observer.observe(nodes, {"m": Load(5, 1.0, 100, 50), "n": Load(1)}, wanted, 2.0)
    assert [(m.index, m.name, m.concurrency, m.min_replicas, m.max_replicas) for m in first.models] == [
        (0, "m", 5, 2, 5),
        (1, "n", 1, 1, 0),
    ]
    assert [(pool.type, pool.count, pool.quota, pool.per_node) for pool in first.gpus] == [
        ("H100", 4, 3, 4),
        ("L40S", 2, 0, 2),
    ]
    assert first.plan == (Replicas(0, "H100", 1, 2),)
    assert first.last is not None  # there is a plan, so somebody chose it
    observer.rescheduled(first)
    second = observer.observe(fleet_of({"H100": 2}).nodes(2.0), {}, [], 7.0)
    assert second.plan is None
    assert second.last is not None
    assert [old.step for old in second.history] == [0]
    assert [(pool.type, pool.count) for pool in second.gpus] == [("H100", 2), ("L40S", 0)]
    assert [model.name for model in second.models] == ["m", "n"]


def test_a_plan_becomes_counts_of_kinds() -> None:
    observer = Observer({"m": ModelBounds()}, {})
    plan = (Replicas(0, "H100", 1, 2, 8), Replicas(0, "H100", 1, 1, 4), Replicas(0, "L40S", 2, 0))
    assert observer.counts_of(plan) == {Kind("m", "H100", 1): 3}


def activation(epoch: int, name: str = "plan_greedy", **others: object) -> Activation:
    policy = library.load(name)
    plain = {
        "scope": "s", "kind": "plan", "epoch": epoch, "hash": policy.hash, "source": policy.source, "api": 1,
        "cause": "", "at_unix_s": 0.0,
    }  # fmt: skip
    return msgspec.convert({**plain, **others}, Activation)


def test_epochs_decide_which_plan_policy_is_in_force() -> None:
    policies = Policies("plan_keep", max_strikes=2)
    assert policies.idle
    assert policies.hear(activation(4))
    assert not policies.idle
    assert not policies.hear(activation(3, "plan_milp_once"))
    assert not policies.hear(activation(5, kind="dispatch"))
    assert policies.hash == library.load("plan_greedy").hash


@pytest.mark.parametrize("wrong", [{"api": 99}, {"hash": "0" * 64}, {"source": "import os"}])
def test_what_is_no_policy_of_ours_is_not_taken(wrong: dict[str, Any]) -> None:
    policies = Policies("plan_keep", max_strikes=2)
    assert not policies.hear(activation(4, **wrong))
    assert policies.idle


def test_strikes_in_a_row_quarantine_until_the_next_activation() -> None:
    policies = Policies("plan_greedy", max_strikes=2)
    policies.faulted()
    policies.succeeded()
    assert policies.faulted() == 1
    assert not policies.quarantined
    policies.faulted()
    assert policies.quarantined
    assert policies.idle
    policies.hear(activation(1, "plan_milp_once"))
    assert not policies.idle
