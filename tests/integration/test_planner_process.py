"""Planner processes on a real bus: a plan policy moves replicas while requests flow; one dies and another takes over."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from router_harness import RunningRouter, running_router

from autopoiesis.contracts.messages.fleet import Heartbeat, PlanChanged, PlannerLease
from autopoiesis.contracts.messages.policy import Activation, Faulted
from autopoiesis.contracts.subjects import FAULTED, HEARTBEAT, PLAN_CHANGED, PLANNER_LEASE, PROMOTED, slug
from autopoiesis.policy.language import compile_policy
from autopoiesis.runtime.bus import Bus, Delivered, Received, Responders
from autopoiesis.worker.app import plan_node
from autopoiesis.worker.node import Node
from autopoiesis.worker.serving import Place
from autopoiesis.worker.settings import VllmSettings, WorkerSettings

Connect = Callable[..., Awaitable[Bus]]
WaitFor = Callable[..., Awaitable[None]]
Spawn = Callable[[], Awaitable[asyncio.subprocess.Process]]
SCOPE = "local/org/model-8b"
LARGE, SMALL = "llama-3.1-8b", "qwen2.5-7b"
OK = "200"
ROUTER: dict[str, Any] = {"silence_s": 5.0, "suspect_after_s": 1.0, "no_replica_wait_s": 20.0}
"""As installed, with more patience for loading; the tests' usual ones take a busy machine for a dead one."""
PLAN = """
def should_reschedule(ctx):
    return True


def schedule(ctx):
    counts = {{{large!r}: {many}, {small!r}: {few}}}
    return [Replicas(model.index, "H100", 1, counts[model.name]) for model in ctx.models]
"""


@dataclass
class World:
    """Two simulated nodes with two H100 each, all of which serve the first model at the start."""

    bus: Bus
    nodes: dict[str, Node] = field(default_factory=dict)
    beats: dict[str, Heartbeat] = field(default_factory=dict)
    plans: list[PlanChanged] = field(default_factory=list)
    faults: list[Faulted] = field(default_factory=list)

    async def listen(self) -> None:
        await self.bus.subscribe(HEARTBEAT, self._beat)
        await self.bus.consume(PLAN_CHANGED, "test-plans", self._plan)
        await self.bus.consume(FAULTED, "test-faults", self._fault)

    def _beat(self, item: Received[Heartbeat]) -> None:
        self.beats[item.message.replica] = item.message

    async def _plan(self, item: Delivered[PlanChanged]) -> None:
        self.plans.append(item.message)

    async def _fault(self, item: Delivered[Faulted]) -> None:
        self.faults.append(item.message)

    def ready(self, model: str) -> list[str]:
        return sorted(
            name for name, beat in self.beats.items() if beat.model == model and beat.state == "ready"
        )

    async def activate(self, epoch: int, source: str) -> None:
        activation = Activation(
            scope=SCOPE,
            kind="plan",
            epoch=epoch,
            hash=compile_policy(source, "plan").hash,
            source=source,
            api=1,
            cause="test",
            at_unix_s=time.time(),
        )
        await self.bus.publish_event(PROMOTED, activation, msg_id=f"{epoch}", scope=slug(SCOPE), kind="plan")

    async def lease(self) -> PlannerLease | None:
        found = await self.bus.last(PLANNER_LEASE, scope=slug(SCOPE))
        return found.message if found else None


@pytest.fixture
async def world(connect: Connect, wait_for: WaitFor) -> AsyncIterator[World]:
    bus = await connect("world")
    await bus.ensure_streams()
    made = World(bus)
    await made.listen()
    responders = []
    for name in ("n1", "n2"):
        settings = WorkerSettings(node=name, model=LARGE, replicas="2xH100", load_bandwidth=0, drain_s=5.0)
        own = await connect(name, inbox_prefix="_INBOX.worker")
        responders.append(await Responders.start(own, name, coalesce=0))
        plan = await plan_node(settings, VllmSettings())
        node = Node(own, responders[-1], Place(node=name), plan.gpus, plan.make_engine, drain_s=5.0)
        await node.start(plan.specs)
        node.follow_planner()
        made.nodes[name] = node
    await wait_for(lambda: len(made.ready(LARGE)) == 4)
    yield made
    for node in made.nodes.values():
        await node.stop(0.0)
    for one in responders:
        await one.close()


@pytest.fixture
async def spawn(nats_url: str) -> AsyncIterator[Spawn]:
    """Starts a planner process."""
    started: list[asyncio.subprocess.Process] = []
    own = {
        "STEP_S": "0.1",
        "COOLDOWN_S": "0",
        "LEASE_S": "1.5",
        "SILENCE_S": "20",
        "MODELS": f'{{"{LARGE}": {{}}, "{SMALL}": {{"min_replicas": 0}}}}',
    }
    env = {"AUTOPOIESIS_BUS_URL": nats_url, "AUTOPOIESIS_SCOPE": SCOPE} | {
        f"AUTOPOIESIS_PLANNER_{key}": value for key, value in own.items()
    }

    async def start() -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "autopoiesis.router.planner", env={**os.environ, **env}
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def traffic(router: RunningRouter, model: str) -> AsyncIterator[list[str]]:
    """Requests for `model`, two at a time, until the block ends; how each went: `OK`, or what the answer says."""
    answers: list[str] = []
    ending = asyncio.Event()

    async def ask() -> None:
        while not ending.is_set():
            answer = await router.chat(model=model, simulate={"output_tokens": 20})
            answers.append(OK if answer.status_code == 200 else f"{answer.status_code}: {answer.text}")

    tasks = [asyncio.create_task(ask()) for _ in range(2)]
    yield answers
    ending.set()
    await asyncio.gather(*tasks)


async def test_a_plan_policy_moves_replicas_while_requests_flow_and_does_not_flap(
    world: World, spawn: Spawn, nats_url: str, wait_for: WaitFor
) -> None:
    before = {name: world.beats[name].incarnation for name in world.ready(LARGE)}
    await spawn()
    async with running_router(nats_url, **ROUTER) as router:
        await wait_for(router.ready)
        async with traffic(router, LARGE) as answers:
            await world.activate(1, PLAN.format(large=LARGE, small=SMALL, many=3, few=1))
            await wait_for(lambda: (len(world.ready(LARGE)), len(world.ready(SMALL))) == (3, 1), timeout=60)
            async with traffic(router, SMALL) as others:
                await wait_for(lambda: len(others) > 10)
            await world.activate(2, PLAN.format(large=LARGE, small=SMALL, many=1, few=3))
            await wait_for(lambda: (len(world.ready(LARGE)), len(world.ready(SMALL))) == (1, 3), timeout=60)
            seen = len(answers)
            await wait_for(lambda: len(answers) > seen + 10)
    assert set(answers) == {OK}
    assert set(others) == {OK}
    (survivor,) = world.ready(LARGE)
    assert world.beats[survivor].incarnation == before[survivor]
    await wait_for(lambda: len(world.plans) >= 2)
    assert [(plan.epoch, plan.revision) for plan in world.plans] == [(1, 1), (2, 2)]
    first, second = world.plans
    assert (len(first.started), len(first.stopped)) == (1, 1)
    assert (len(second.started), len(second.stopped)) == (2, 2)
    assert survivor in {replica.replica for replica in second.replicas}
    assert world.faults == []


async def test_a_killed_planner_is_replaced_and_its_plan_goes_on(
    world: World, spawn: Spawn, wait_for: WaitFor
) -> None:
    leader = await spawn()
    await world.activate(1, PLAN.format(large=LARGE, small=SMALL, many=2, few=2))
    await wait_for(lambda: (len(world.ready(LARGE)), len(world.ready(SMALL))) == (2, 2), timeout=60)
    first = await world.lease()
    kept = {name: beat.incarnation for name, beat in world.beats.items() if beat.state == "ready"}
    await spawn()
    leader.send_signal(signal.SIGKILL)

    async def taken_over() -> bool:
        now = await world.lease()
        assert first is not None
        assert now is not None
        return now.holder != first.holder and now.epoch > first.epoch

    await wait_for(taken_over, timeout=60)
    await world.activate(2, PLAN.format(large=LARGE, small=SMALL, many=3, few=1))
    await wait_for(lambda: (len(world.ready(LARGE)), len(world.ready(SMALL))) == (3, 1), timeout=60)
    await wait_for(lambda: len(world.plans) >= 2)
    assert [plan.epoch for plan in world.plans] == [1, 2]
    assert world.plans[1].lease_epoch > world.plans[0].lease_epoch
    assert (
        sum(
            world.beats[name].incarnation == kept.get(name)
            for name in (*world.ready(LARGE), *world.ready(SMALL))
        )
        == 3
    )


async def test_a_faulty_plan_policy_leaves_the_fleet_as_it_is_and_is_quarantined(
    world: World, spawn: Spawn, wait_for: WaitFor
) -> None:
    await spawn()
    await world.activate(1, PLAN.format(large=LARGE, small=SMALL, many=9, few=0))
    await wait_for(lambda: world.faults and world.faults[-1].quarantined, timeout=60)
    assert [fault.strikes for fault in world.faults] == [1, 2, 3]
    assert "takes 9 GPUs of type H100; it may take 4" in world.faults[0].fault
    assert len(world.ready(LARGE)) == 4
    await world.activate(2, PLAN.format(large=LARGE, small=SMALL, many=3, few=1))
    await wait_for(lambda: len(world.ready(SMALL)) == 1, timeout=60)
