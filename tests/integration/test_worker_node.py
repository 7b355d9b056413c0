"""Replicas on a real bus: answers, heartbeats, cancels, routers that die, the planner's wishes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from opentelemetry import trace
from worker_world import Router, first_chunk, read

from autopoiesis.contracts.messages.fleet import DesiredReplica, DesiredState, NodeInventory
from autopoiesis.contracts.messages.infer import Failed, Finished
from autopoiesis.contracts.subjects import DESIRED, DESIRED_STATE, NODE
from autopoiesis.runtime.bus import Bus, NoRespondersError, Received, Responders
from autopoiesis.worker.app import plan_node
from autopoiesis.worker.node import Node
from autopoiesis.worker.serving import Place
from autopoiesis.worker.settings import VllmSettings, WorkerSettings

Connect = Callable[..., Awaitable[Bus]]
WaitFor = Callable[..., Awaitable[None]]
SETTINGS = WorkerSettings(
    node="n1",
    zone="z",
    replicas="1xH100 + 1xL40S",
    run_sigma=0.0,
    drift_sigma=0.0,
    load_bandwidth=0,
    drain_s=5.0,
)
FOREVER = 100_000
H100, L40S = "n1-h100-0", "n1-l40s-0"


@pytest.fixture
async def router(connect: Connect) -> Router:
    return await Router.start(await connect("router"))


@pytest.fixture
async def node(connect: Connect, router: Router, wait_for: WaitFor) -> AsyncIterator[Node]:
    bus = await connect("worker", inbox_prefix="_INBOX.worker")
    responders = await Responders.start(bus, "n1", coalesce=0)
    plan = await plan_node(SETTINGS, VllmSettings())
    running = Node(bus, responders, Place(node="n1", zone="z"), plan.gpus, plan.make_engine, drain_s=5.0)
    await running.start(plan.specs)
    await wait_for(lambda: router.state(H100) == router.state(L40S) == "ready")
    yield running
    await running.stop(0.0)
    await responders.close()


async def test_streams_and_whole_answers_say_the_same(node: Node, router: Router) -> None:
    streamed = await router.ask(H100, output=30)
    assert isinstance(streamed.end, Finished)
    assert (streamed.tokens, streamed.end.output_tokens, streamed.end.finish_reason) == (30, 30, "stop")
    assert len(streamed.chunks) < 30
    assert streamed.end.text == ""
    whole = await router.ask(H100, output=30, stream=False)
    assert isinstance(whole.end, Finished)
    assert whole.chunks == []
    assert len(whole.end.text.split()) == 30
    assert 0 < whole.end.first_token_s < 5


async def test_a_heartbeat_says_all_a_router_needs(node: Node, router: Router) -> None:
    beat = router.last(L40S)
    assert beat is not None
    assert (beat.node, beat.zone, beat.gpu, beat.tp, beat.model) == ("n1", "z", "L40S", 1, "llama-3.1-8b")
    assert beat.price == 1.0
    assert beat.max_running == 256
    assert beat.step_model is not None
    assert beat.step_model.base_s > 0


async def test_heartbeats_acknowledge_what_their_figures_include(
    node: Node, router: Router, connect: Connect, wait_for: WaitFor
) -> None:
    other = await Router.start(await connect("other"), "router-2")
    streams = [await router.send(H100, output=FOREVER) for _ in range(3)]
    streams.append(await other.send(H100, output=FOREVER))
    await wait_for(lambda: (router.last(H100) or node).received == {"router-1": 3, "router-2": 1})  # type: ignore[union-attr]
    for beat in router.beats[H100]:
        if beat.received == {"router-1": 3, "router-2": 1}:
            assert beat.running + beat.waiting == 4
    for stream in streams:
        await stream.cancel()
    await wait_for(lambda: router.last(H100).running == 0)  # type: ignore[union-attr]
    beats = [beat.beat for beat in router.beats[H100]]
    assert beats == list(range(beats[0], beats[0] + len(beats)))


async def test_a_cancel_frees_the_engine(node: Node, router: Router, wait_for: WaitFor) -> None:
    stream = await router.send(H100, output=FOREVER)
    await first_chunk(stream)
    await wait_for(lambda: router.last(H100).kv_used_tokens > 0)  # type: ignore[union-attr]
    await stream.cancel()
    await wait_for(lambda: node.replicas[H100].active == 0)
    await wait_for(lambda: router.last(H100).kv_used_tokens == 0)  # type: ignore[union-attr]


async def test_a_passed_deadline_ends_a_request(node: Node, router: Router) -> None:
    answer = await router.ask(H100, output=FOREVER, deadline_s=0.1)
    assert isinstance(answer.end, Failed)
    assert answer.end.code == "deadline"


async def test_a_dead_router_frees_the_engine(node: Node, connect: Connect, wait_for: WaitFor) -> None:
    doomed_bus = await connect("doomed")
    doomed = await Router.start(doomed_bus, "router-2")
    await first_chunk(await doomed.send(H100, output=FOREVER))
    await doomed_bus.close()
    await wait_for(lambda: node.replicas[H100].active == 0)


async def test_a_bad_request_names_its_field(node: Node, router: Router) -> None:
    answer = await router.ask(H100, messages="hello")
    assert isinstance(answer.end, Failed)
    assert (answer.end.code, answer.end.param) == ("invalid_request", "messages")


async def test_draining_finishes_what_runs_and_refuses_the_rest(
    node: Node, router: Router, wait_for: WaitFor
) -> None:
    running = await router.send(H100, output=60)
    await first_chunk(running)
    drain = asyncio.create_task(node.replicas[H100].drain(10.0))
    await wait_for(lambda: router.state(H100) == "draining")
    late = await router.ask(H100)
    assert isinstance(late.end, Failed)
    assert late.end.code == "unavailable"
    assert isinstance((await read(running)).end, Finished)
    await drain
    await node.stop(0.0)
    await wait_for(lambda: router.state(H100) == "stopped")
    with pytest.raises(NoRespondersError):
        await router.ask(H100)


async def test_what_does_not_end_in_time_fails_with_a_type(node: Node, router: Router) -> None:
    running = await router.send(H100, output=FOREVER)
    await first_chunk(running)
    await node.stop(0.05)
    end = (await read(running)).end
    assert isinstance(end, Failed)
    assert end.code == "unavailable"


async def test_the_trace_goes_on_in_the_worker(
    node: Node, router: Router, monkeypatch: pytest.MonkeyPatch, wait_for: WaitFor
) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    seen = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(seen))
    monkeypatch.setattr("autopoiesis.runtime.bus.tracing._tracer", provider.get_tracer("test"))
    await router.ask(H100, headers={"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"})
    await wait_for(seen.get_finished_spans)
    (span,) = seen.get_finished_spans()
    assert span.kind is trace.SpanKind.CONSUMER
    assert span.context is not None
    assert span.context.trace_id == int("ab" * 16, 16)
    assert [event.name for event in span.events] == ["gen_ai.first_token", "finish"]


def desired(*names: str, lease_epoch: int = 1, revision: int = 1, max_running: int = 0) -> DesiredState:
    return DesiredState(
        node="n1",
        lease_epoch=lease_epoch,
        revision=revision,
        replicas=tuple(
            DesiredReplica(replica=name, model="llama-3.1-8b", gpu="H100", max_running=max_running)
            for name in names
        ),
    )


async def test_the_planner_starts_stops_and_resizes(
    node: Node, router: Router, connect: Connect, wait_for: WaitFor
) -> None:
    planner = await connect("planner")
    await planner.ensure_streams((DESIRED,))
    await planner.publish_event(DESIRED_STATE, desired("planned"), msg_id="1", node="n1")
    node.follow_planner()
    await wait_for(lambda: router.state("planned") == "ready")
    await wait_for(lambda: router.state(H100) == router.state(L40S) == "stopped")
    await wait_for(lambda: router.last("planned").lease_epoch == 1)  # type: ignore[union-attr]
    before = router.last("planned")
    assert before is not None

    running = await router.send("planned", output=60)
    await first_chunk(running)
    await planner.publish_event(
        DESIRED_STATE, desired("planned", revision=2, max_running=7), msg_id="2", node="n1"
    )
    await wait_for(lambda: router.last("planned").max_running == 7)  # type: ignore[union-attr]
    assert isinstance((await read(running)).end, Finished)
    after = router.last("planned")
    assert after is not None
    assert after.incarnation != before.incarnation

    await planner.publish_event(DESIRED_STATE, desired(lease_epoch=0, revision=9), msg_id="3", node="n1")
    await planner.publish_event(DESIRED_STATE, desired("x", "y", lease_epoch=2), msg_id="4", node="n1")
    await planner.publish_event(DESIRED_STATE, desired("planned", lease_epoch=3), msg_id="5", node="n1")
    await wait_for(lambda: router.last("planned").lease_epoch == 3)  # type: ignore[union-attr]
    assert set(node.replicas) == {"planned"}
    assert "x" not in router.beats


async def test_the_node_tells_what_it_has_and_changes_at_once(
    connect: Connect, router: Router, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autopoiesis.worker.node.INVENTORY_S", 3600.0)
    told: list[NodeInventory] = []

    def note(item: Received[NodeInventory]) -> None:
        told.append(item.message)

    await router.bus.subscribe(NODE, note)
    await router.bus.flush()
    bus = await connect("worker")
    plan = await plan_node(SETTINGS, VllmSettings())
    responders = await Responders.start(bus, "n1", coalesce=0)
    node = Node(bus, responders, Place(node="n1"), plan.gpus, plan.make_engine, drain_s=0.0)
    await node.start([])
    await wait_for(lambda: told)
    assert told[0].gpus == {"H100": 1, "L40S": 1}
    assert told[0].memory_bytes["L40S"] > 40e9
    assert told[0].plannable
    node.resize({"H100": 3})
    await wait_for(lambda: told[-1].gpus == {"H100": 3})
    await node.stop(0.0)
    await responders.close()
