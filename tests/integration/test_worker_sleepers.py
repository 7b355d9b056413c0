"""Engines that sleep when they are retired, and wake when a plan wants their like again."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from autopoiesis.contracts.messages.infer import Generate
from autopoiesis.worker.devices import DevicePool
from autopoiesis.worker.engines.base import Broken, Ended, Output
from autopoiesis.worker.engines.process import ProcessEngine, Program
from autopoiesis.worker.layout import ReplicaSpec
from autopoiesis.worker.programs import VllmFactory
from autopoiesis.worker.settings import VllmSettings

WaitFor = Callable[..., Awaitable[None]]
STAND_IN = str(Path(__file__).with_name("engine_process.py"))


class Factory(VllmFactory):
    """With another program in vLLM's place."""

    def program(self, spec: ReplicaSpec, devices: tuple[int, ...]) -> Program:
        return replace(super().program(spec, devices), argv=(sys.executable, STAND_IN))


def factory(sleepers: int = 1, devices: int = 1) -> Factory:
    return Factory(
        VllmSettings(python=sys.executable, sleepers=sleepers),
        DevicePool(["H100"] * devices),
        chunk_interval_s=0.0,
    )


@pytest.fixture
async def make() -> AsyncIterator[Factory]:
    made = factory()
    yield made
    await made.aclose()


def spec(model: str, name: str = "r1") -> ReplicaSpec:
    return ReplicaSpec(name=name, model=model, gpu="H100")


async def answer(engine: ProcessEngine) -> Output:
    body = msgspec.Raw(b'{"does": ""}')
    request = Generate(
        request_id="q",
        router="r",
        nth=1,
        model="m",
        endpoint="chat",
        body=body,
        stream=True,
        prompt_tokens=9,
        max_tokens=10,
    )
    return [output async for output in engine.generate(request)][-1]


async def test_a_plan_that_comes_back_finds_its_engine_asleep(make: Factory) -> None:
    first = make(spec("a"), True)
    await first.start()
    pid = first.pid
    await first.stop()
    assert (first.stats().state, first.sleeps) == ("stopped", True)
    assert isinstance(await answer(first), Broken)
    other = make(spec("b"), True)  # its device is free
    assert other is not first
    await other.start()
    with pytest.raises(ValueError, match="1 x H100 needed, 0 free"):
        make(spec("a"), True)
    await other.end()
    again = make(spec("a", "r2"), True)
    assert again is first
    await again.start()
    assert (again.stats().state, again.pid) == ("ready", pid)
    assert isinstance(await answer(again), Ended)
    await again.end()
    assert make(spec("a"), True) is not first


async def test_only_so_many_sleep_and_the_oldest_ends() -> None:
    make = factory(sleepers=1, devices=2)
    first, second = make(spec("a"), True), make(spec("b"), True)
    await first.start()
    await second.start()
    await first.stop()
    await second.stop()
    assert (first.sleeps, second.sleeps) == (False, True)
    assert first.pid is None
    await make.aclose()
    assert second.pid is None


async def test_after_the_end_of_the_worker_nobody_sleeps(make: Factory) -> None:
    engine = make(spec("a"), False)
    await engine.start()
    await make.aclose()
    await engine.stop()
    assert engine.pid is None


async def test_an_engine_that_cannot_sleep_ends() -> None:
    make = factory()
    engine = make(spec("restless"), True)
    await engine.start()
    await engine.stop()
    assert engine.pid is None
    assert make(spec("restless"), True) is not engine


async def test_one_that_dies_asleep_is_not_started_again(make: Factory, wait_for: WaitFor) -> None:
    engine = make(spec("a"), True)
    await engine.start()
    await engine.stop()
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    await wait_for(lambda: engine.pid is None)
    assert not engine.sleeps
    fresh = make(spec("a"), True)
    assert fresh is not engine
    await fresh.start()
    assert isinstance(await answer(fresh), Ended)
    await fresh.end()


async def test_one_that_does_not_wake_is_started_anew(make: Factory) -> None:
    engine = make(spec("sound sleeper"), True)
    await engine.start()
    pid = engine.pid
    await engine.stop()
    assert engine.sleeps
    again = make(spec("sound sleeper"), True)
    assert again is engine
    await again.start()
    assert again.pid != pid
    assert isinstance(await answer(again), Ended)
    await again.end()
