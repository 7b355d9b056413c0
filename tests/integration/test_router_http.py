"""The OpenAI surface, over a real bus."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import openai
import pytest
from router_harness import (
    MODEL,
    WORDS,
    RunningRouter,
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
from autopoiesis.runtime.bus import Responder


@pytest.fixture
async def worker(nats_url: str) -> AsyncIterator[StubWorker]:
    async with stub_worker(nats_url, "gpu/0", "gpu/1") as worker:
        yield worker


@pytest.fixture
async def router(
    nats_url: str, worker: StubWorker, wait_for: Callable[..., Any]
) -> AsyncIterator[RunningRouter]:
    async with running_router(nats_url, max_body_bytes=100_000, max_choices=4) as router:
        await wait_for(router.ready)
        yield router


async def test_chat(router: RunningRouter, worker: StubWorker) -> None:
    answer = await router.chat(temperature=0.5, simulate={"output_tokens": 8})
    assert answer.status_code == 200
    body = answer.json()
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "".join(WORDS), "refusal": None}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["total_tokens"] == 13
    replica, request, _ = worker.requests[0]
    assert answer.headers["x-autopoiesis-replica"] == replica
    assert json.loads(bytes(request.body)) == chat(temperature=0.5, simulate={"output_tokens": 8})


async def test_stream(router: RunningRouter) -> None:
    answer = await router.chat(stream=True, stream_options={"include_usage": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = data(answer.text)
    assert text(events) == "".join(WORDS)
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [event["choices"][0]["finish_reason"] for event in events[:-2]].count("stop") == 1
    assert events[-2]["usage"]["completion_tokens"] == 8
    assert events[-1] == "[DONE]"


async def test_text_completions(router: RunningRouter) -> None:
    body = {"model": MODEL, "prompt": "once upon"}
    whole = await router.client.post("/v1/completions", json=body)
    assert whole.json()["choices"][0]["text"] == "".join(WORDS)
    stream = await router.client.post("/v1/completions", json=body | {"stream": True})
    events = data(stream.text)
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == "".join(WORDS)


async def test_the_official_client(router: RunningRouter) -> None:
    async with openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="k", max_retries=0) as client:
        models = await client.models.list()
        assert [model.id for model in models.data] == [MODEL]
        assert (await client.models.retrieve(MODEL)).owned_by == "autopoiesis"
        messages: Any = [{"role": "user", "content": "hello"}]
        whole = await client.chat.completions.create(model=MODEL, messages=messages)
        assert whole.choices[0].message.content == "".join(WORDS)
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 8
        stream = await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(pieces) == "".join(WORDS)
        with pytest.raises(openai.NotFoundError) as missing:
            await client.chat.completions.create(model="other", messages=messages)
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as bad:
            await client.chat.completions.create(model=MODEL, messages=messages, max_tokens=-1)
        assert bad.value.param == "max_tokens"


async def test_an_error_in_a_stream_is_raised_by_the_official_client(
    router: RunningRouter, worker: StubWorker
) -> None:
    async def breaks(worker: StubWorker, request: Generate, responder: Responder) -> None:
        responder.write("hello ")
        await responder.fail("internal", "out of memory")

    worker.engine = breaks
    async with openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="k", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "hello"}]
        stream = await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
        with pytest.raises(openai.APIError, match="out of memory"):
            async for _ in stream:
                pass


BAD_BODIES: list[tuple[str, bytes, int, str | None]] = [
    ("empty", b"", 400, None),
    ("cut off", b'{"model": "', 400, None),
    ("a list", b"[]", 400, None),
    ("not UTF-8", b'{"model": "\xff\xfe"}', 400, None),
    ("no model", json.dumps({"messages": [{"role": "user", "content": "x"}]}).encode(), 400, "model"),
    ("no messages", json.dumps({"model": MODEL}).encode(), 400, "messages"),
    ("wrong type", json.dumps(chat(stream="yes")).encode(), 400, "stream"),
    ("negative limit", json.dumps(chat(max_tokens=-1)).encode(), 400, "max_tokens"),
    ("no tokens at all", json.dumps(chat(max_completion_tokens=0)).encode(), 400, "max_completion_tokens"),
    ("beyond the model", json.dumps(chat(max_tokens=10**7)).encode(), 400, "max_tokens"),
    ("a huge number", json.dumps(chat(max_tokens=10**30)).encode(), 400, "max_tokens"),
    ("too many choices", json.dumps(chat(n=1000)).encode(), 400, "n"),
    ("unknown model", json.dumps(chat() | {"model": "gpt-x"}).encode(), 404, "model"),
    ("too long", json.dumps(chat("x" * 100_001)).encode(), 413, None),
]


@pytest.mark.parametrize(
    ("raw", "status", "param"), [row[1:] for row in BAD_BODIES], ids=[row[0] for row in BAD_BODIES]
)
async def test_bad_bodies(router: RunningRouter, raw: bytes, status: int, param: str | None) -> None:
    answer = await router.client.post("/v1/chat/completions", content=raw)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert set(error) == {"message", "type", "param", "code"}
    assert f'invalid_requests_total{{status="{status}"}} 1.0' in (await router.client.get("/metrics")).text
    assert (await router.chat()).status_code == 200


async def test_a_long_body_without_a_length_is_cut_off(router: RunningRouter) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b" " * 1000

    answer = await router.client.post("/v1/chat/completions", content=endless())
    assert answer.status_code == 413


async def test_other_paths_and_methods_answer_as_openai_does(router: RunningRouter) -> None:
    for method, path, status in [
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/nothing", 404),
        ("POST", "/health", 405),
    ]:
        answer = await router.client.request(method, path)
        assert answer.status_code == status
        assert "message" in answer.json()["error"]


async def test_objectives_reach_the_telemetry_hashed(
    router: RunningRouter, nats_url: str, wait_for: Callable[..., Any]
) -> None:
    from autopoiesis.contracts.subjects import REQUEST_TELEMETRY
    from autopoiesis.runtime.bus import Bus

    headers = {
        "x-slo-class": "batch",
        "x-slo-ttft-ms": "1500",
        "x-session-id": "alice",
        "authorization": "Bearer sk-1",
    }
    answer = await router.client.post("/v1/chat/completions", json=chat("y" * 3000), headers=headers)
    assert answer.status_code == 200
    bus = await Bus.connect(nats_url, name="reader")
    records: list[Any] = []

    async def stored() -> bool:
        last = await bus.last(REQUEST_TELEMETRY, router="router")
        records[:] = last.message.records if last else []
        return bool(records)

    await wait_for(stored)
    await bus.close()
    (record,) = records
    assert (record.klass, record.priority, record.ttft_slo_s, record.outcome) == ("batch", 1, 1.5, "finished")
    assert record.request_id == answer.headers["x-request-id"]
    assert (record.prompt_tokens, record.output_tokens, record.output_censored) == (5, 8, False)
    assert len(record.block_hashes) == 2
    assert record.session
    assert "alice" not in repr(record)
    assert "sk-1" not in repr(record)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_is_cancelled_at_the_worker(
    router: RunningRouter, worker: StubWorker, wait_for: Callable[..., Any], stream: bool
) -> None:
    worker.engine = half
    call = asyncio.create_task(router.chat(stream=stream))
    await wait_for(lambda: worker.running == 1)
    call.cancel()
    await wait_for(lambda: worker.cancels)
    await wait_for(lambda: worker.running == 0)
    assert worker.cancels[0].request_id == worker.requests[0][1].request_id
    assert (await router.state())["in_flight"] == 0


async def test_a_held_stream_is_kept_alive_and_still_answers(
    nats_url: str, wait_for: Callable[..., Any]
) -> None:
    started = asyncio.Event()

    async def late(worker: StubWorker, request: Generate, responder: Responder) -> None:
        await started.wait()
        await slowly(0.0)(worker, request, responder)

    async with stub_worker(nats_url, "a", engine=late), running_router(nats_url, ping_s=0.05) as router:
        await wait_for(router.ready)
        async with router.client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as answer:
            blocks = answer.aiter_text()
            assert (await anext(blocks)).startswith(": ping")
            started.set()
            rest = "".join([block async for block in blocks])
    assert data(rest)[-1] == "[DONE]"


async def test_health_readiness_and_metrics(nats_url: str, wait_for: Callable[..., Any]) -> None:
    async with running_router(nats_url) as router:
        assert (await router.client.get("/health")).is_success
        waiting = await router.client.get("/ready")
        assert waiting.status_code == 503
        assert "no replica is ready" in waiting.json()["missing"][0]
        early = await router.chat()
        assert (early.status_code, early.json()["error"]["code"]) == (503, "no_replica")
        assert int(early.headers["retry-after"]) >= 1
        async with stub_worker(nats_url, "a"):
            await wait_for(router.ready)
            assert (await router.chat()).status_code == 200
            metrics = (await router.client.get("/metrics")).text
        for name in (
            'autopoiesis_router_requests_total{gen_ai_operation_name="chat"',
            "gen_ai_server_time_to_first_token_seconds_bucket",
            "gen_ai_server_request_duration_seconds_bucket",
            "gen_ai_server_time_per_output_token_seconds_bucket",
            "autopoiesis_router_policy_epoch 0.0",
            f'autopoiesis_router_replicas{{model="{MODEL}",state="ready"}} 1.0',
            "process_cpu_seconds_total",
        ):
            assert name in metrics


async def test_the_bus_limits_bodies(nats_url: str, wait_for: Callable[..., Any]) -> None:
    async with (
        stub_worker(nats_url, "a") as worker,
        running_router(nats_url, max_body_bytes=1 << 40) as router,
    ):
        await wait_for(router.ready)
        limit = worker.bus.max_payload
        answer = await router.client.post("/v1/chat/completions", json=chat("x" * limit))
        assert answer.status_code == 413
        assert (await router.chat("x" * (limit // 2))).status_code == 200


async def test_models_that_are_configured(nats_url: str, wait_for: Callable[..., Any]) -> None:
    models = {MODEL: {"context_tokens": 50, "max_tokens": 20}, "sleeping": {}}
    async with stub_worker(nats_url, "a") as worker, running_router(nats_url, models=models) as router:
        await wait_for(router.ready)
        assert [model["id"] for model in (await router.client.get("/v1/models")).json()["data"]] == [
            MODEL,
            "sleeping",
        ]
        await router.chat()
        assert worker.requests[0][1].max_tokens == 20
        answer = await router.chat(max_tokens=51)
        assert answer.status_code == 400
        assert "the context of org/model-8b (50)" in answer.json()["error"]["message"]
        asleep = await router.client.post("/v1/chat/completions", json=chat() | {"model": "sleeping"})
        assert (asleep.status_code, asleep.json()["error"]["code"]) == (503, "no_replica")


async def test_admin_needs_its_token(nats_url: str) -> None:
    async with running_router(nats_url, admin_token="t0ken") as router:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic t0ken"}):
            answer = await router.client.get("/admin/state", headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
        assert (await router.client.get("/admin/state", headers={"authorization": "Bearer t0ken"})).is_success


async def test_admin_without_a_token_is_for_this_machine(nats_url: str) -> None:
    async with running_router(nats_url) as router:
        assert (await router.client.get("/admin/state")).is_success
        forwarded = await router.client.get("/admin/state", headers={"x-forwarded-for": "203.0.113.7"})
        assert forwarded.status_code == 403


async def test_several_routers_share_a_fleet(
    nats_url: str, worker: StubWorker, wait_for: Callable[..., Any]
) -> None:
    async with running_router(nats_url) as one, running_router(nats_url) as two:
        await wait_for(one.ready)
        await wait_for(two.ready)
        answers = await asyncio.gather(
            *[router.chat(stream=bool(i % 2)) for i in range(20) for router in (one, two)]
        )
    assert all(answer.status_code == 200 for answer in answers)
    assert {request.router for _, request, _ in worker.requests} == {one.instance, two.instance}
    assert isinstance(answers[0], httpx.Response)
