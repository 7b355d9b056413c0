"""Engines in processes of their own: what becomes of their requests, their memory and themselves."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import psutil
import pytest
from processes import living

from autopoiesis.contracts.messages.infer import Generate
from autopoiesis.worker.engines import process
from autopoiesis.worker.engines.base import Broken, Ended, EngineStartError, Output, Piece
from autopoiesis.worker.engines.frames import Configure
from autopoiesis.worker.engines.process import ProcessEngine, Program

WaitFor = Callable[..., Awaitable[None]]
STAND_IN = str(Path(__file__).with_name("engine_process.py"))


def program(checkpoint: str = "/m") -> Program:
    return Program(
        argv=(sys.executable, STAND_IN),
        configure=Configure(replica="r1", model="m", checkpoint=checkpoint),
    )


def request(name: str, does: str = "") -> Generate:
    return Generate(
        request_id=name,
        router="r",
        nth=1,
        model="m",
        endpoint="chat",
        body=msgspec.Raw(msgspec.json.encode({"does": does})),
        stream=True,
        prompt_tokens=9,
        max_tokens=10,
    )


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ProcessEngine]:
    monkeypatch.setattr(process, "BACKOFF_MIN_S", 0.01)
    running = ProcessEngine(program(), chunk_interval_s=0.0)
    await running.start()
    yield running
    await running.stop()


async def everything(outputs: AsyncIterator[Output]) -> list[Output]:
    async with asyncio.timeout(30):
        return [output async for output in outputs]


def core_of(engine: ProcessEngine) -> psutil.Process:
    """The process that the stand-in started, as vLLM starts its core."""
    return psutil.Process(engine.stats().kv_capacity_tokens)


async def test_answers_pass(engine: ProcessEngine) -> None:
    piece, end = await everything(engine.generate(request("q1")))
    assert piece == Piece("a", 1, token_ids=(5,))
    assert isinstance(end, Ended)
    assert engine.stats().state == "ready"
    await asyncio.wait_for(engine.drain(), 10)


async def test_requests_count_from_the_moment_they_are_taken(engine: ProcessEngine) -> None:
    outputs = engine.generate(request("q1", "hang"))
    assert (engine.stats().running, engine.stats().queued_prefill_tokens) == (1, 9)
    await anext(outputs)
    assert (engine.stats().running, engine.stats().queued_prefill_tokens) == (1, 0)


async def test_a_cancelled_request_ends_at_once_and_the_engine_is_told(
    engine: ProcessEngine, wait_for: WaitFor
) -> None:
    outputs = engine.generate(request("q1", "hang"))
    await anext(outputs)
    engine.cancel("q1", "deadline")
    (end,) = await everything(outputs)
    assert isinstance(end, Broken)
    assert (end.code, end.output_tokens) == ("deadline", 1)
    await wait_for(lambda: engine.stats().running == 77)


async def test_a_dead_process_ends_its_requests_takes_its_core_along_and_is_replaced(
    engine: ProcessEngine, wait_for: WaitFor
) -> None:
    core, pid = core_of(engine), engine.pid
    held = engine.generate(request("q1", "hang"))
    await anext(held)
    killer = engine.generate(request("q2", "die"))
    for outputs, produced in ((held, 1), (killer, 0)):
        end = (await everything(outputs))[-1]
        assert isinstance(end, Broken)
        assert (end.code, end.output_tokens) == ("unavailable", produced)
    await wait_for(lambda: not living([core]))
    await wait_for(lambda: engine.stats().state == "ready")
    assert engine.pid != pid
    assert engine.stats().restarts == 1
    assert isinstance((await everything(engine.generate(request("q3"))))[-1], Ended)


async def test_a_stopped_engine_leaves_nothing_behind(wait_for: WaitFor) -> None:
    freed: list[bool] = []
    engine = ProcessEngine(program(), chunk_interval_s=0.0, on_freed=lambda: freed.append(True))
    await engine.start()
    core = core_of(engine)
    outputs = engine.generate(request("q1", "hang"))
    await anext(outputs)
    await engine.stop()
    assert freed == [True]
    assert not living([core])
    (end,) = await everything(outputs)
    assert isinstance(end, Broken)
    assert engine.stats().state == "stopped"


async def test_what_can_never_run_is_not_started_again() -> None:
    engine = ProcessEngine(program("refused"), chunk_interval_s=0.0)
    with pytest.raises(EngineStartError, match="no such checkpoint"):
        await engine.start()
    assert engine.stats().state == "failed"
    assert engine.stats().restarts == 0
    (end,) = await everything(engine.generate(request("q1")))
    assert isinstance(end, Broken)
    await engine.stop()


async def test_a_sleeping_engine_takes_nothing(engine: ProcessEngine) -> None:
    await engine.sleep()
    assert engine.stats().state == "loading"
    (end,) = await everything(engine.generate(request("q1")))
    assert isinstance(end, Broken)
    await engine.wake()
    assert isinstance((await everything(engine.generate(request("q2"))))[-1], Ended)
