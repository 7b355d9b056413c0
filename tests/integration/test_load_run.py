"""The load generator against a server that answers, refuses, breaks and hangs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from openai_server import OpenAIServer

from autopoiesis.cli.load import LoadResult, Progress, run_load
from autopoiesis.contracts.slo import Objectives, SloClass
from autopoiesis.simulator.workload import Trace

WaitFor = Callable[..., Awaitable[None]]
PATIENT = Objectives(
    classes={"patient": SloClass(ttft_s=60.0, tpot_s=60.0), "batch": SloClass()}, default="patient"
)


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer().running() as running:
        yield running


def trace(count: int = 4, gap_s: float = 0.01, **columns: object) -> Trace:
    arrivals = [i * gap_s for i in range(count)]
    return Trace.of("t", arrivals, [10] * count, [3] * count, **columns)  # type: ignore[arg-type]


async def load(server: OpenAIServer, what: Trace, **options: object) -> LoadResult:
    return await run_load(server.url, what, model="served/model", classes=PATIENT, **options)  # type: ignore[arg-type]


async def test_every_request_is_answered_and_measured(server: OpenAIServer) -> None:
    result = await load(server, trace(20), api_key="sk-1")
    assert (result.overall.finished, result.failed, result.goodput) == (20, 0, 1.0)
    for record in result.records:
        assert record.first_token_s is not None
        assert record.due_s <= record.sent_s <= record.first_token_s <= record.end_s
        assert (record.output_tokens, record.prompt_tokens, record.status) == (3, 9, 200)
    assert server.headers[0]["authorization"] == "Bearer sk-1"
    assert server.connections < 20


async def test_what_is_sent_says_class_session_and_length(server: OpenAIServer) -> None:
    await load(server, trace(2, klass=[0, 1], classes=("default", "batch"), session=[0, 6]))
    first, second = sorted(range(2), key=lambda i: "x-slo-class" in server.headers[i])
    assert "x-session-id" not in server.headers[first]
    assert server.headers[second]["x-slo-class"] == "batch"
    assert server.headers[second]["x-session-id"] == "6"
    body = server.bodies[second]
    assert body["simulate"] == {"output_tokens": 3}
    assert body["max_tokens"] > 3
    assert len(body["messages"][0]["content"].encode()) == 40


async def test_real_engines_are_told_to_keep_to_the_length(server: OpenAIServer) -> None:
    await load(server, trace(1), lengths="pin")
    assert (server.bodies[0]["max_tokens"], server.bodies[0]["ignore_eos"]) == (3, True)
    assert "simulate" not in server.bodies[0]


async def test_refusals_and_failures_are_told_apart(server: OpenAIServer) -> None:
    statuses = iter([429, 500, 200, 429])
    server.script = lambda body: next(statuses)
    server.error = "as scripted"
    result = await load(server, trace(4))
    assert (result.overall.finished, result.rejected, result.failed) == (1, 2, 1)
    assert result.goodput == 0.25
    assert result.errors() == {"as scripted": 3}


async def test_an_answer_cut_short_is_a_failure(server: OpenAIServer) -> None:
    server.cut_after = 1
    result = await load(server, trace(1))
    assert result.failed == 1
    assert result.records[0].first_token_s is not None
    assert "before the end of the answer" in result.records[0].error


async def test_a_kept_connection_that_closes_as_it_is_used_is_replaced(server: OpenAIServer) -> None:
    server.dead_when_reused = True
    result = await load(server, trace(3, gap_s=0.1))
    assert result.overall.finished == 3
    assert server.connections == 3


async def test_nobody_there(free_port: int) -> None:
    result = await run_load(f"http://127.0.0.1:{free_port}", trace(2), model="m", classes=PATIENT)
    assert result.failed == 2
    assert result.records[0].status == 0
    assert "refused" in result.records[0].error.lower() or "connect" in result.records[0].error.lower()


async def test_a_hanging_answer_ends_by_timeout_and_leaves(server: OpenAIServer, wait_for: WaitFor) -> None:
    server.gate.clear()
    result = await load(server, trace(2), timeout=0.2)
    assert result.failed == 2
    assert result.records[0].error == "no whole answer within 0.2 s"
    await wait_for(lambda: server.left == 2)


async def test_open_loop_sends_on_while_nothing_is_answered(server: OpenAIServer, wait_for: WaitFor) -> None:
    server.gate.clear()
    run = asyncio.ensure_future(load(server, trace(5)))
    await wait_for(lambda: server.open_streams == 5)
    server.gate.set()
    assert (await run).overall.finished == 5


async def test_a_concurrency_limit_counts_as_waiting(server: OpenAIServer, wait_for: WaitFor) -> None:
    server.gate.clear()
    run = asyncio.ensure_future(load(server, trace(5), concurrency_limit=2))
    await wait_for(lambda: server.open_streams == 2)
    server.gate.set()
    result = await run
    assert result.overall.finished == 5
    assert result.records[4].ttft_s is not None
    assert result.records[4].ttft_s >= result.records[4].late_s > 0


async def test_follow_ups_wait_for_what_they_follow(server: OpenAIServer, wait_for: WaitFor) -> None:
    server.gate.clear()
    what = trace(3, session=[1, 1, 1], parent=[-1, 0, 1], think_s=[0.0, 0.01, 0.0])
    run = asyncio.ensure_future(load(server, what))
    await wait_for(lambda: server.open_streams == 1)
    assert len(server.bodies) == 1
    server.gate.set()
    first, second, third = (await run).records
    assert second.due_s >= first.end_s + 0.01
    assert third.due_s >= second.end_s


async def test_warm_up_is_sent_but_not_scored_and_progress_is_told(server: OpenAIServer) -> None:
    told: list[Progress] = []
    result = await load(server, trace(4, gap_s=0.05), warmup_s=0.1, progress=told.append)
    assert [record.scored for record in result.records] == [False, False, True, True]
    assert result.overall.requests == 2
    assert result.window_s == pytest.approx(0.05)
    assert (told[-1].sent, told[-1].ended, told[-1].failed, told[-1].total) == (4, 4, 0, 4)


async def test_addresses_with_and_without_v1(server: OpenAIServer) -> None:
    result = await run_load(f"{server.url}/v1/", trace(1), model="m", classes=PATIENT)
    assert result.failed == 0
    with pytest.raises(ValueError, match="not an HTTP address"):
        await run_load("ftp://x", trace(1), model="m")
