"""Swapping policies while requests run, pinning one with the streams gone, and replaying what was recorded."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
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

from autopoiesis.contracts.messages.policy import Activation
from autopoiesis.contracts.subjects import (
    FAULTED,
    POLICY_EVENTS,
    PROMOTED,
    REQUEST_TELEMETRY,
    ROLLED_BACK,
    STREAMS,
    slug,
)
from autopoiesis.dispatch import Dispatcher
from autopoiesis.dispatch.recording import replay
from autopoiesis.policy import API_VERSION, library
from autopoiesis.policy.language import compile_policy
from autopoiesis.router.app import dispatch_settings
from autopoiesis.router.policies import compile_activation
from autopoiesis.router.settings import RouterSettings
from autopoiesis.runtime.bus import Bus

Wait = Callable[..., Any]
SCOPE = f"local/{MODEL}"

TO_THE_LAST = '''"""Everything to the last replica."""
API = 1


def prioritize(request, ctx):
    return request.arrival


def route(request, replicas, ctx):
    return Assign(len(replicas) - 1)
'''
BREAKS = TO_THE_LAST.replace("len(replicas) - 1", "1 // (len(replicas) - len(replicas))")


def activation(epoch: int, source: str = TO_THE_LAST, **changes: Any) -> Activation:
    fields: dict[str, Any] = {
        "scope": SCOPE,
        "kind": "dispatch",
        "epoch": epoch,
        "hash": compile_policy(source, "dispatch").hash,
        "source": source,
        "api": API_VERSION,
        "cause": "test",
        "at_unix_s": time.time(),
        "name": f"policy {epoch}",
    }
    return Activation(**(fields | changes))


@pytest.fixture
async def control(nats_url: str) -> AsyncIterator[Bus]:
    """The control plane's bus, with every stream in place."""
    bus = await Bus.connect(nats_url, name="control")
    await bus.ensure_streams()
    yield bus
    await bus.close()


@pytest.fixture
async def worker(nats_url: str) -> AsyncIterator[StubWorker]:
    async with stub_worker(nats_url, "a", "b", "c") as worker:
        yield worker


@pytest.fixture
async def router(
    nats_url: str, control: Bus, worker: StubWorker, wait_for: Wait
) -> AsyncIterator[RunningRouter]:
    async with running_router(nats_url) as router:
        await wait_for(lambda: whole_fleet(router))
        yield router


async def whole_fleet(router: RunningRouter) -> bool:
    return [row["state"] for row in (await router.state())["fleet"]] == ["ready"] * 3


async def promote(control: Bus, promoted: Activation, subject: Any = PROMOTED) -> None:
    await control.publish_event(
        subject, promoted, msg_id=f"{promoted.epoch}", scope=slug(promoted.scope), kind="dispatch"
    )


async def epoch(router: RunningRouter) -> int:
    return int((await router.state())["policy"]["epoch"])


async def test_a_promotion_decides_from_then_on(
    router: RunningRouter, control: Bus, worker: StubWorker, wait_for: Wait
) -> None:
    answers = [await router.chat() for _ in range(3)]
    assert {answer.headers["x-autopoiesis-replica"] for answer in answers} == {"a", "b", "c"}
    await promote(control, activation(4))
    await wait_for(lambda: at(router, 4))
    answers = [await router.chat() for _ in range(3)]
    assert {answer.headers["x-autopoiesis-replica"] for answer in answers} == {"c"}
    assert {answer.headers["x-autopoiesis-epoch"] for answer in answers} == {"4"}
    await promote(control, activation(5, library.source("round_robin")), ROLLED_BACK)
    await wait_for(lambda: at(router, 5))
    await promote(control, activation(3))
    answers = [await router.chat() for _ in range(3)]
    assert len({answer.headers["x-autopoiesis-replica"] for answer in answers}) == 3


async def at(router: RunningRouter, wanted: int) -> bool:
    return await epoch(router) == wanted


async def test_a_router_starts_with_the_activation_in_force(
    nats_url: str, control: Bus, worker: StubWorker
) -> None:
    await promote(control, activation(7, scope="local/*"))
    await promote(control, activation(6))
    async with running_router(nats_url) as router:
        assert await epoch(router) == 7
        assert (await router.state())["policy"]["title"] == "policy 7"


async def test_a_bad_activation_leaves_the_policy_in_force(
    router: RunningRouter, control: Bus, wait_for: Wait
) -> None:
    await promote(control, activation(2, hash="0" * 64))
    await promote(control, activation(3, library.source("random")))
    await wait_for(lambda: at(router, 3))
    assert (
        'autopoiesis_router_policy_swaps_total{result="refused"} 1.0'
        in (await router.client.get("/metrics")).text
    )


async def test_swaps_under_load_drop_nothing(
    router: RunningRouter, control: Bus, worker: StubWorker, wait_for: Wait
) -> None:
    worker.engine = slowly(0.003)
    done = asyncio.Event()

    async def load(stream: bool) -> list[tuple[str, str]]:
        seen = []
        while not done.is_set():
            answer = await router.chat(stream=stream)
            assert answer.status_code == 200
            said = text(data(answer.text)) if stream else answer.json()["choices"][0]["message"]["content"]
            seen.append((said, answer.headers["x-autopoiesis-epoch"]))
        return seen

    clients = [asyncio.create_task(load(bool(number % 2))) for number in range(8)]
    names = library.names("dispatch")
    for number in range(1, 13):
        before = len(worker.requests)
        await promote(control, activation(number, library.source(names[number % len(names)])))
        await wait_for(lambda: len(worker.requests) >= before + 8)  # noqa: B023 - awaited here
    done.set()
    seen = [answer for answers in await asyncio.gather(*clients) for answer in answers]
    assert {said for said, _ in seen} == {"".join(WORDS)}
    assert len({number for _, number in seen}) >= 10
    assert (await router.state())["in_flight"] == 0


async def test_requests_in_flight_keep_the_epoch_that_sent_them(
    router: RunningRouter, control: Bus, worker: StubWorker, wait_for: Wait
) -> None:
    worker.engine = slowly(0.05)
    call = asyncio.create_task(router.chat(stream=True))
    await wait_for(lambda: worker.running == 1)
    await promote(control, activation(9))
    await wait_for(lambda: at(router, 9))
    answer = await call
    assert answer.headers["x-autopoiesis-epoch"] == "0"
    assert text(data(answer.text)) == "".join(WORDS)


async def test_pin_with_the_streams_gone(
    router: RunningRouter, control: Bus, worker: StubWorker, wait_for: Wait
) -> None:
    await promote(control, activation(2, library.source("round_robin")))
    await wait_for(lambda: at(router, 2))
    jetstream = control.client.jetstream()
    for stream in STREAMS:
        await jetstream.delete_stream(stream.name)
    assert (await router.chat()).status_code == 200
    pinned = await router.client.put("/admin/policy/pin", json={"source": TO_THE_LAST})
    assert pinned.status_code == 200
    assert pinned.json()["pinned"]["title"] == "Everything to the last replica."
    answers = [await router.chat() for _ in range(3)]
    assert {answer.headers["x-autopoiesis-replica"] for answer in answers} == {"c"}
    assert (await router.state())["policy"]["pinned"]
    assert (await router.client.delete("/admin/policy/pin")).json()["active"]["epoch"] == 2
    answers = [await router.chat() for _ in range(3)]
    assert len({answer.headers["x-autopoiesis-replica"] for answer in answers}) == 3


async def test_a_pin_outlives_promotions(router: RunningRouter, control: Bus, wait_for: Wait) -> None:
    assert (await router.client.put("/admin/policy/pin", json={"library": "random"})).is_success
    await promote(control, activation(11))

    async def heard() -> bool:
        return int((await router.state())["heard_epoch"]) == 11

    await wait_for(heard)
    assert (await router.state())["policy"]["title"] == "random"
    await router.client.delete("/admin/policy/pin")
    assert await epoch(router) == 11


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        ({"source": "def route(request, replicas, ctx):\n    import os\n"}, 422, '"line":2'),
        ({"source": "def route("}, 422, '"line":1'),
        ({"library": "best_ever"}, 400, "least_requests"),
        ({}, 400, "either"),
        ({"source": "x", "library": "random"}, 400, "either"),
        ({"policy": "x"}, 400, "unknown field"),
        ([], 400, "expected"),
    ],
)
async def test_bad_pins_say_what_is_wrong(router: RunningRouter, body: Any, status: int, part: str) -> None:
    answer = await router.client.put("/admin/policy/pin", json=body)
    assert answer.status_code == status
    assert part in answer.text
    assert "message" in answer.json()["error"]
    assert not (await router.state())["policy"]["pinned"]


async def test_a_policy_that_breaks_is_reported_and_quarantined(
    router: RunningRouter, control: Bus, worker: StubWorker, wait_for: Wait
) -> None:
    await promote(control, activation(3, BREAKS))
    await wait_for(lambda: at(router, 3))
    answers = await asyncio.gather(*[router.chat() for _ in range(10)])
    assert {answer.status_code for answer in answers} == {200}

    async def quarantined() -> bool:
        found = await control.last(FAULTED, scope=slug(SCOPE), kind="dispatch")
        return found is not None and found.message.quarantined

    await wait_for(quarantined)
    found = await control.last(FAULTED, scope=slug(SCOPE), kind="dispatch")
    assert found is not None
    assert (found.message.epoch, found.message.hash) == (3, activation(3, BREAKS).hash)
    assert "ZeroDivisionError" in found.message.fault
    assert found.message.line == 10
    stored = await control.client.jetstream().stream_info(POLICY_EVENTS.name)
    assert stored.state.messages == 2
    await promote(control, activation(4))
    await wait_for(lambda: at(router, 4))
    assert not (await router.state())["policy"]["quarantined"]


async def test_telemetry_says_each_arrival_once(
    router: RunningRouter, control: Bus, worker: StubWorker, wait_for: Wait
) -> None:
    records: list[Any] = []

    async def keep(item: Any) -> None:
        records.extend(item.message.records)

    await control.consume(REQUEST_TELEMETRY, "test", keep)
    answers = await asyncio.gather(*[router.chat(stream=bool(number % 2)) for number in range(20)])
    worker.engine = half
    left = asyncio.create_task(router.chat(stream=True))
    await wait_for(lambda: worker.running == 1)
    left.cancel()
    await wait_for(lambda: len(records) == 21)
    by_id = {record.request_id: record for record in records}
    assert len(by_id) == 21
    assert {answer.headers["x-request-id"] for answer in answers} < set(by_id)
    assert sorted(record.outcome for record in records) == ["cancelled"] + ["finished"] * 20
    assert all(
        record.ttft_s > 0 and record.e2e_s >= record.ttft_s
        for record in records
        if record.outcome == "finished"
    )


async def test_a_recorded_run_replays_to_identical_decisions(
    nats_url: str, control: Bus, worker: StubWorker, wait_for: Wait, tmp_path: Path
) -> None:
    path = tmp_path / "decisions.jsonl"
    worker.engine = slowly(0.002)
    async with running_router(nats_url, record=str(path), policy="power_of_two", seed=5) as router:
        await wait_for(lambda: whole_fleet(router))
        for number in range(1, 4):
            await asyncio.gather(*[router.chat("z" * 2000, stream=bool(i % 2)) for i in range(12)])
            await promote(
                control,
                activation(number, library.source(("random", "slo_triage", "power_of_two")[number - 1])),
            )
            await wait_for(lambda number=number: at(router, number))
        await router.client.put("/admin/policy/pin", json={"library": "slo_triage_hold"})
        await wait_for(lambda: not worker.running)
        call = asyncio.create_task(router.chat(stream=True))
        await wait_for(lambda: worker.running)
        call.cancel()
        await asyncio.gather(*[router.chat() for _ in range(12)])
        instance = router.instance
    lines = path.read_bytes().splitlines()
    assert sum(b'"Send"' in line for line in lines) >= 49
    assert sum(b'"Swapped"' in line for line in lines) == 4

    def fresh(seed: int) -> Dispatcher:
        settings = RouterSettings(no_replica_wait_s=0.3, suspect_after_s=0.5)
        return Dispatcher(
            dispatch_settings(settings),
            router=instance,
            policy=library.load("power_of_two"),
            seed=seed,
            compile=compile_activation,
        )

    assert replay(lines, fresh(5)) is None
    assert replay(lines, fresh(6)) is not None


async def test_one_trace_from_http_to_the_worker(
    nats_url: str, worker: StubWorker, wait_for: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", lambda *_, **__: provider.get_tracer("test"))
    async with running_router(nats_url, tracing=True) as traced:
        await wait_for(lambda: whole_fleet(traced))
        context = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
        answer = await traced.client.post("/v1/chat/completions", json=chat(stream=True), headers=context)
        assert answer.status_code == 200
    send, server = exporter.get_finished_spans()
    assert (server.name, server.kind) == ("POST /v1/chat/completions", trace.SpanKind.SERVER)
    assert (send.name, send.kind) == (f"chat {MODEL}", trace.SpanKind.CLIENT)
    assert server.parent is not None
    assert send.parent is not None
    assert server.context is not None
    assert send.context is not None
    assert trace.format_trace_id(server.context.trace_id) == "0af7651916cd43dd8448eb211c80319c"
    assert send.parent.span_id == server.context.span_id
    *_, headers = worker.requests[-1]
    assert headers["traceparent"].split("-")[1:3] == [
        "0af7651916cd43dd8448eb211c80319c",
        trace.format_span_id(send.context.span_id),
    ]
    assert server.attributes is not None
    assert server.attributes["gen_ai.usage.output_tokens"] == 8
    assert server.attributes["gen_ai.request.model"] == MODEL
