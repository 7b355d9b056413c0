"""Real vLLMs that die, and a plan that moves one to another model while requests flow.."""

import asyncio

import httpx
import psutil
import pytest
from vllm_world import REPLICAS, A, B, Fleet, Streamed, World, chat, stream, whole

from autopoiesis.contracts.messages.fleet import DesiredReplica, DesiredState
from autopoiesis.contracts.subjects import DESIRED, DESIRED_STATE
from autopoiesis.runtime.bus import Bus

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


@pytest.fixture
async def fleet(bus: Bus) -> Fleet:
    fleet = await Fleet.listen(bus)
    await fleet.ready()
    return fleet


async def test_a_killed_engine_loses_no_answer_silently_and_comes_back(
    world: World, fleet: Fleet, http: httpx.AsyncClient
) -> None:
    """Each of its streams ends whole, continued elsewhere, or with a typed error; its core goes with it; it is started again."""
    begun: set[int] = set()

    def note(number: int, so_far: Streamed) -> None:
        if so_far.text:
            begun.add(number)

    body = chat(max_tokens=1500, ignore_eos=True)
    tasks = [
        asyncio.create_task(stream(http, body, lambda so_far, number=number: note(number, so_far)))  # type: ignore[misc]
        for number in range(4)
    ]
    await fleet.until(lambda last: len(begun) == 4 and all(last[name].running for name in REPLICAS))
    victim = next(iter(world.engines().values()))
    core = victim.children(recursive=True)
    restarted = {name: fleet.last[name].incarnation for name in REPLICAS}
    victim.kill()
    ended = await asyncio.gather(*tasks)
    for got in ended:
        assert got.done or (got.error and got.error["type"]), got.error
    finished = [got for got in ended if got.done and not got.error]
    assert len(finished) >= 2
    for got in finished:
        assert got.usage is not None
        assert got.usage["completion_tokens"] == 1500
    await fleet.until(lambda last: any(last[name].incarnation != restarted[name] for name in REPLICAS))
    psutil.wait_procs(core, timeout=30)
    assert not [process for process in core if process.is_running()]
    await fleet.ready()
    assert (await whole(http, chat()))["choices"]


async def test_a_plan_moves_a_replica_to_another_model_while_requests_flow(
    bus: Bus, fleet: Fleet, http: httpx.AsyncClient
) -> None:
    stop = asyncio.Event()
    answered: list[Streamed] = []

    async def traffic() -> None:
        while not stop.is_set():
            answered.append(await stream(http, chat(max_tokens=30)))

    flowing = [asyncio.create_task(traffic()) for _ in range(2)]
    stays, moves = REPLICAS
    desired = DesiredState(
        node="n1",
        lease_epoch=1,
        revision=1,
        replicas=(
            DesiredReplica(replica=stays, model=A, gpu="CPU"),
            DesiredReplica(replica=moves, model=B, gpu="CPU"),
        ),
    )
    await bus.ensure_streams((DESIRED,))
    await bus.publish(DESIRED_STATE, desired, node="n1")
    await fleet.until(lambda last: last[moves].model == B and last[moves].state == "loading")
    await fleet.until(lambda last: last[moves].state == "loading" and 0 < last[moves].progress < 1)
    await fleet.until(lambda last: last[moves].model == B and last[moves].state == "ready")
    said = await whole(http, chat(model=B))
    stop.set()
    await asyncio.gather(*flowing)
    assert said["model"] == B
    assert len(answered) > 2
    assert [got.error for got in answered if not got.done or got.error] == []
    await fleet.until(lambda last: all(beat.lease_epoch == 1 for beat in last.values()))
