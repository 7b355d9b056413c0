"""Planner processes on a real bus: a plan policy moves replicas while requests flow; one dies and another takes over."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from planner_world import Connect, Spawn, World, planner_processes, simulated_nodes
from router_harness import RunningRouter, running_router

WaitFor = Callable[..., Awaitable[None]]
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


@pytest.fixture
async def world(connect: Connect, wait_for: WaitFor) -> AsyncIterator[World]:
    """Two simulated nodes with two H100 each, all of which serve the first model at the start."""
    async with simulated_nodes(connect, SCOPE, LARGE, "2xH100", names=("n1", "n2"), serving=2) as made:
        await wait_for(lambda: len(made.ready(LARGE)) == 4)
        yield made


@pytest.fixture
async def spawn(nats_url: str) -> AsyncIterator[Spawn]:
    """Starts a planner process."""
    models = f'{{"{LARGE}": {{}}, "{SMALL}": {{"min_replicas": 0}}}}'
    async with planner_processes(nats_url, SCOPE, MODELS=models) as start:
        yield start


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
