"""Replicas that die, hang, drain or lose their words, and a bus that goes away."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from router_harness import (
    WORDS,
    Engine,
    StubWorker,
    chat,
    data,
    half,
    running_router,
    slowly,
    stub_worker,
    text,
)

from autopoiesis.contracts.messages.infer import Generate
from autopoiesis.contracts.subjects import ROUTER_INBOX
from autopoiesis.runtime import embedded
from autopoiesis.runtime.bus import Responder

Wait = Callable[..., Any]


async def test_a_worker_that_dies_mid_stream_ends_it_with_a_typed_error(
    nats_url: str, wait_for: Wait
) -> None:
    async with stub_worker(nats_url, "a", engine=half) as worker, running_router(nats_url) as router:
        await wait_for(router.ready)
        call = asyncio.create_task(router.chat(stream=True))
        await wait_for(lambda: worker.running == 1)
        await worker.kill()
        answer = await call
    *before, last = data(answer.text)
    assert text(before) == WORDS[0]
    assert last["error"]["code"] == "replica_lost"
    assert last["error"]["type"] == "server_error"
    assert "[DONE]" not in answer.text


async def test_a_dead_worker_is_seen_at_once_and_the_other_one_is_used(nats_url: str, wait_for: Wait) -> None:
    async with (
        stub_worker(nats_url, "a") as dead,
        stub_worker(nats_url, "b") as alive,
        running_router(nats_url, silence_s=60.0, suspect_after_s=60.0) as router,
    ):

        async def both() -> bool:
            return len((await router.state())["fleet"]) == 2

        await wait_for(both)
        await dead.kill()
        answers = await asyncio.gather(*[router.chat(stream=bool(number % 2)) for number in range(8)])
        assert [answer.status_code for answer in answers] == [200] * 8
        assert {replica for replica, *_ in alive.requests} == {"b"}


async def leave(worker: StubWorker, request: Generate, responder: Responder) -> None:
    """Retired while the request was on its way."""
    worker.state = "draining"
    await worker.beat()
    await responder.fail("unavailable", "draining")


async def test_replicas_retired_under_a_request_cost_it_no_attempt(nats_url: str, wait_for: Wait) -> None:
    async with (
        stub_worker(nats_url, "a", engine=leave) as one,
        stub_worker(nats_url, "b", engine=leave) as other,
        running_router(
            nats_url, max_attempts=2, no_replica_wait_s=30.0, silence_s=60.0, suspect_after_s=60.0
        ) as router,
    ):

        async def both() -> bool:
            return len((await router.state())["fleet"]) == 2

        await wait_for(both)
        call = asyncio.create_task(router.chat())
        await wait_for(lambda: len(one.requests) == len(other.requests) == 1)
        async with stub_worker(nats_url, "c"):
            answer = await call
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("stream", [True, False])
async def test_a_frozen_worker_stalls_only_its_own(nats_url: str, wait_for: Wait, stream: bool) -> None:
    async with stub_worker(nats_url, "a", engine=half) as worker, running_router(nats_url) as router:
        await wait_for(router.ready)
        call = asyncio.create_task(router.chat(stream=stream))
        await wait_for(lambda: worker.running == 1)
        worker.beating = False
        answer = await call
        if stream:
            assert "no sign of life" in data(answer.text)[-1]["error"]["message"]
        else:
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_replica")
        worker.beating, worker.engine = True, slowly(0.0)
        await wait_for(router.ready)
        assert (await router.chat()).status_code == 200


async def test_a_stream_that_goes_silent_on_a_living_worker_stalls(nats_url: str, wait_for: Wait) -> None:
    async with (
        stub_worker(nats_url, "a", engine=half),
        running_router(nats_url, stall_s=0.3) as router,
    ):
        await wait_for(router.ready)
        answer = await router.chat(stream=True)
        assert data(answer.text)[-1]["error"]["code"] == "stalled"


async def test_a_draining_worker_passes_its_requests_on(nats_url: str, wait_for: Wait) -> None:
    async def refuses(worker: StubWorker, request: Generate, responder: Responder) -> None:
        await responder.fail("unavailable", "this replica is draining")

    async with (
        stub_worker(nats_url, "a", engine=refuses) as draining,
        stub_worker(nats_url, "b"),
        running_router(nats_url) as router,
    ):
        await wait_for(router.ready)
        answers = await asyncio.gather(*[router.chat(stream=bool(number % 2)) for number in range(8)])
        assert [answer.status_code for answer in answers] == [200] * 8
        assert draining.requests


async def test_a_lost_chunk_fails_the_stream_loudly(nats_url: str, wait_for: Wait) -> None:
    async def skips(worker: StubWorker, request: Generate, responder: Responder) -> None:
        name = f"{ROUTER_INBOX}.{request.router}.{request.request_id}"
        for seq in (0, 2):
            await worker.bus.client.publish(name, b'{"type":"chunk","seq":%d,"text":"x","tokens":1}' % seq)
        await asyncio.Event().wait()

    async with stub_worker(nats_url, "a", engine=skips) as worker, running_router(nats_url) as router:
        await wait_for(router.ready)
        answer = await router.chat(stream=True)
        assert data(answer.text)[-1]["error"]["code"] == "stream_broken"
        await wait_for(lambda: worker.running == 0)


async def test_an_engine_that_refuses_names_the_field(nats_url: str, wait_for: Wait) -> None:
    async def refuses(worker: StubWorker, request: Generate, responder: Responder) -> None:
        await responder.fail("invalid_request", "temperature must be at most 2", param="temperature")

    async with stub_worker(nats_url, "a", engine=refuses), running_router(nats_url) as router:
        await wait_for(router.ready)
        for stream in (True, False):
            answer = await router.chat(stream=stream, temperature=9)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "temperature")


async def test_a_stopping_router_finishes_what_it_has(nats_url: str, wait_for: Wait) -> None:
    async with stub_worker(nats_url, "a", engine=slowly(0.05)) as worker, running_router(nats_url) as router:
        await wait_for(router.ready)
        calls = [asyncio.create_task(router.chat(stream=stream)) for stream in (True, False)]
        await wait_for(lambda: worker.running == 2)
        stopping = asyncio.create_task(router.stop())
        await wait_for(router.service.stopping.is_set)
        late = await router.chat()
        assert (late.status_code, late.json()["error"]["code"]) == (503, "shutting_down")
        assert (await router.client.get("/ready")).status_code == 503
        stream, whole = await asyncio.gather(*calls)
        assert text(data(stream.text)) == "".join(WORDS)
        assert whole.status_code == 200
        await stopping


async def test_a_stopping_router_ends_what_does_not_end(nats_url: str, wait_for: Wait) -> None:
    async with (
        stub_worker(nats_url, "a", engine=half) as worker,
        running_router(nats_url, drain_s=0.05) as router,
    ):
        await wait_for(router.ready)
        calls = [asyncio.create_task(router.chat(stream=stream)) for stream in (True, False)]
        await wait_for(lambda: worker.running == 2)
        await router.stop()
        stream, whole = await asyncio.gather(*calls)
        assert data(stream.text)[-1]["error"]["code"] == "shutting_down"
        assert (whole.status_code, whole.json()["error"]["code"]) == (503, "shutting_down")
        await wait_for(lambda: worker.running == 0)


async def test_a_bus_that_goes_away_and_comes_back(
    own_supervisor: embedded.Supervisor, own_nats: embedded.NatsServer, wait_for: Wait
) -> None:
    async with stub_worker(own_nats.url, "a") as worker, running_router(own_nats.url) as router:
        await wait_for(router.ready)
        assert (await router.chat()).status_code == 200
        worker.beating = False
        pid = own_supervisor.children["nats"].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

        async def away() -> bool:
            return not (await router.state())["connected"]

        await wait_for(away)
        refused = await router.chat()
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        await wait_for(lambda: worker.bus.connected, timeout=20.0)
        worker.beating = True
        await wait_for(router.ready, timeout=20.0)
        assert (await router.chat(stream=True)).status_code == 200


async def test_chat_bodies_are_what_was_sent(nats_url: str, wait_for: Wait) -> None:
    async with stub_worker(nats_url, "a") as worker, running_router(nats_url) as router:
        await wait_for(router.ready)
        raw = json.dumps(chat("ü"), indent=3, ensure_ascii=False).encode()
        await router.client.post("/v1/chat/completions", content=raw)
        assert bytes(worker.requests[0][1].body) == raw


def going_on(words: int) -> Engine:
    """Says `words` words after those that the client has, with their token ids, and then nothing more unless all are said."""

    async def engine(worker: StubWorker, request: Generate, responder: Responder) -> None:
        first = len(request.resume_token_ids)
        assert request.resume_token_ids == tuple(range(100, 100 + first))
        for number in range(first, min(first + words, len(WORDS))):
            responder.write(WORDS[number], token_ids=(100 + number,))
            await responder.flush()
        if first + words < len(WORDS):
            await asyncio.Event().wait()
        await responder.finish("stop", prompt_tokens=5, output_tokens=len(WORDS))

    return engine


@pytest.mark.parametrize("frozen", [False, True], ids=["killed", "frozen"])
async def test_a_stream_goes_on_at_another_worker(
    nats_url: str, wait_for: Wait, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", lambda *_, **__: provider.get_tracer("test"))
    async with (
        stub_worker(nats_url, "a", engine=going_on(3)) as first,
        running_router(nats_url, tracing=True) as router,
    ):
        await wait_for(router.ready)
        call = asyncio.create_task(router.chat(stream=True, stream_options={"include_usage": True}))
        await wait_for(lambda: first.running == 1)
        async with stub_worker(nats_url, "b", engine=going_on(8)) as second:

            async def both() -> bool:
                return len((await router.state())["fleet"]) == 2

            await wait_for(both)
            if frozen:
                first.beating = False
            else:
                await first.kill()
            answer = await call
        [(replica, request, _)] = second.requests
        assert (replica, len(request.resume_token_ids)) == ("b", 3)
        *events, done = data(answer.text)
        assert text(events) == "".join(WORDS), "no word twice, none left out"
        assert done == "[DONE]"
        assert events[-1]["usage"]["completion_tokens"] == len(WORDS)
        assert "autopoiesis_router_resumed_streams_total 1.0" in (await router.client.get("/metrics")).text
    *_, server = exporter.get_finished_spans()
    [event] = [event for event in server.events if event.name == "resumed"]
    assert event.attributes is not None
    assert event.attributes["autopoiesis.tokens"] == 3


@pytest.mark.parametrize(
    "fields",
    [{"n": 2}, {"response_format": {"type": "json_object"}}, {"guided_regex": "a+"}],
    ids=["n", "format", "grammar"],
)
async def test_what_cannot_go_on_elsewhere_ends_with_a_typed_error(
    nats_url: str, wait_for: Wait, fields: dict[str, Any]
) -> None:
    async with (
        stub_worker(nats_url, "a", engine=going_on(3)) as first,
        running_router(nats_url) as router,
    ):
        await wait_for(router.ready)
        call = asyncio.create_task(router.chat(stream=True, **fields))
        await wait_for(lambda: first.running == 1)
        async with stub_worker(nats_url, "b", engine=going_on(8)):

            async def both() -> bool:
                return len((await router.state())["fleet"]) == 2

            await wait_for(both)
            await first.kill()
            answer = await call
        assert data(answer.text)[-1]["error"]["code"] == "replica_lost"
        assert "[DONE]" not in answer.text
