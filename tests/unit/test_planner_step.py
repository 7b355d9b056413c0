"""A monitoring step, while the world goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autopoiesis.contracts.messages.fleet import DesiredState, Heartbeat, NodeInventory, PlanChanged
from autopoiesis.contracts.messages.policy import Activation, Faulted
from autopoiesis.policy import library
from autopoiesis.policy.api import PlanContext, Replicas
from autopoiesis.router.planner import planner as module
from autopoiesis.router.planner.deciding import Decision, PlanFaultError
from autopoiesis.router.planner.planner import Planner
from autopoiesis.router.planner.settings import PlannerSettings


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Bus:
    """Keeps what it is told; nobody else writes."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    async def last(self, _subject: object, **_: object) -> None:
        return None

    async def publish_after(self, _subject: object, _message: object, sequence: int, **_: object) -> int:
        return sequence + 1

    async def publish_event(self, _subject: object, message: object, **_: object) -> None:
        self.told.append(message)

    def heard(self, *kinds: type) -> list[Any]:
        return [message for message in self.told if isinstance(message, kinds)]


def deciding(meanwhile: Callable[[], object], *, breaks: bool) -> type:
    """In place of the jail: `meanwhile` happens, then the policy wants one replica, or breaks."""

    class Decider:
        def __init__(self, _schedule_s: float, *, seed: int) -> None:
            pass

        async def decide(self, _policy: str, _ctx: PlanContext) -> Decision:
            meanwhile()
            if breaks:
                raise PlanFaultError("broken")
            return Decision((Replicas(0, "H100", 1, 1),), 0.0)

    return Decider


def activation(epoch: int, name: str) -> Activation:
    policy = library.load(name)
    return Activation(
        scope="s", kind="plan", epoch=epoch, hash=policy.hash, source=policy.source, api=1, cause="test", at_unix_s=0.0
    )  # fmt: skip


@pytest.mark.parametrize("breaks", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
async def test_an_answer_counts_only_for_the_policy_that_is_still_in_force(
    monkeypatch: pytest.MonkeyPatch, swapped: bool, breaks: bool
) -> None:
    clock, bus = Clock(), Bus()

    def meanwhile() -> None:
        if swapped:
            planner.hear(activation(2, "plan_milp_once"))

    monkeypatch.setattr(module, "Decider", deciding(meanwhile, breaks=breaks))
    planner = Planner(bus, PlannerSettings(), scope="s", instance="p", clock=clock)  # type: ignore[arg-type]
    await planner.lease.renew(0)
    planner.hear(activation(1, "plan_greedy"))
    planner.fleet.on_inventory(NodeInventory(node="a", gpus={"H100": 2}), clock())
    for replica in ("r1", "r2"):
        planner.fleet.on_heartbeat(
            Heartbeat(
                node="a", replica=replica, incarnation="1", beat=1, state="ready", model="m", gpu="H100"
            ),
            clock(),
        )
    clock.now = 2.5
    await planner.step()
    moved, faults = bus.heard(PlanChanged, DesiredState), bus.heard(Faulted)
    assert planner.policies.strikes == len(faults) == (breaks and not swapped)
    assert [state.revision for state in moved] == ([] if breaks or swapped else [1, 1])
