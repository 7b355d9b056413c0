"""Streams, durable consumers and newest messages over a real nats-server."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from autopoiesis.contracts.messages.policy import Activation
from autopoiesis.contracts.messages.trace import Drifted
from autopoiesis.contracts.subjects import (
    ACTIVATIONS,
    CANCEL,
    DRIFTED,
    PROMOTED,
    PROPOSED,
    REGISTRY,
    ROLLED_BACK,
    SNAPSHOT,
    STREAMS,
    TRACES,
)
from autopoiesis.runtime.bus import (
    Bus,
    Delivered,
    PublishFailedError,
    Received,
    Retry,
    StreamConflictError,
    Terminate,
)

Connect = Callable[..., Awaitable[Bus]]
WaitFor = Callable[..., Awaitable[None]]


@pytest.fixture
async def bus(bus: Bus) -> Bus:
    await bus.ensure_streams()
    return bus


def drifted(number: int = 0) -> Drifted:
    return Drifted(
        scope="s",
        at_unix_s=1.0,
        feature=str(number),
        test="ks",
        statistic=0.1,
        p_value=0.01,
        before=1.0,
        after=2.0,
    )


def activation(epoch: int, scope: str = "s") -> Activation:
    return Activation(
        scope=scope,
        kind="dispatch",
        epoch=epoch,
        hash=f"h{epoch}",
        source="",
        api=1,
        cause="test",
        at_unix_s=1.0,
    )


async def store(bus: Bus, *numbers: int) -> None:
    for number in numbers:
        await bus.publish_event(DRIFTED, drifted(number), msg_id=f"drift-{number}", scope="s")


# -- streams


async def test_streams_are_made_as_the_registry_says_and_again_without_effect(bus: Bus) -> None:
    await bus.ensure_streams()
    info = {item.config.name: item.config for item in await bus.client.jetstream().streams_info()}
    assert set(info) == {stream.name for stream in STREAMS}
    assert info["activations"].max_msgs_per_subject == 1
    assert sorted(info["activations"].subjects or []) == ["policy.promoted.*.*", "policy.rolled_back.*.*"]
    assert info["proposals"].retention == "workqueue"


async def test_several_processes_may_make_the_streams_at_once(connect: Connect) -> None:
    buses = [await connect() for _ in range(4)]
    await asyncio.gather(*(bus.ensure_streams() for bus in buses))
    assert len(await buses[0].client.jetstream().streams_info()) == len(STREAMS)


async def test_a_changed_definition_updates_the_stream(bus: Bus) -> None:
    changed = replace(TRACES, max_bytes=TRACES.max_bytes * 2)
    subjects = [replace(subject, stream=changed) for subject in REGISTRY if subject.stream is TRACES]
    await bus.ensure_streams([changed], subjects)
    assert (await bus.client.jetstream().stream_info(TRACES.name)).config.max_bytes == changed.max_bytes


async def test_an_impossible_change_is_explained(bus: Bus) -> None:
    changed = replace(TRACES, retention="workqueue")
    subjects = [replace(subject, stream=changed) for subject in REGISTRY if subject.stream is TRACES]
    with pytest.raises(StreamConflictError, match="stream 'traces' cannot be brought"):
        await bus.ensure_streams([changed], subjects)


async def test_a_repeated_event_is_stored_once(bus: Bus) -> None:
    first = await bus.publish_event(DRIFTED, drifted(), msg_id="same", scope="s")
    second = await bus.publish_event(DRIFTED, drifted(), msg_id="same", scope="s")
    assert (first.duplicate, second.duplicate) == (False, True)
    assert first.sequence == second.sequence
    assert (await bus.client.jetstream().stream_info("traces")).state.messages == 1


async def test_an_event_without_a_stream_fails_with_its_name(bus: Bus) -> None:
    await bus.client.jetstream().delete_stream("traces")
    with pytest.raises(
        PublishFailedError,
        match=r"trace\.drifted\.s: not acknowledged within 0\.2 s by its stream \(traces\)",
    ):
        await bus.publish_event(DRIFTED, drifted(), msg_id="1", timeout=0.2, scope="s")


# -- newest messages


async def test_last_and_last_all(bus: Bus) -> None:
    assert await bus.last(PROMOTED, scope="s", kind="dispatch") is None
    assert await bus.last_all(PROMOTED) == []
    for epoch in (1, 2):
        await bus.publish_event(PROMOTED, activation(epoch), msg_id=str(epoch), scope="s", kind="dispatch")
    await bus.publish_event(PROMOTED, activation(3, "t"), msg_id="3", scope="t", kind="dispatch")
    last = await bus.last(PROMOTED, scope="s", kind="dispatch")
    assert last is not None
    assert last.message.epoch == 2
    found = {item.tokens["scope"]: item.message.epoch for item in await bus.last_all(PROMOTED)}
    assert found == {"s": 2, "t": 3}
    assert [item.message.epoch for item in await bus.last_all(PROMOTED, scope="t")] == [3]


async def test_a_subject_that_is_not_kept_has_no_last_message(bus: Bus) -> None:
    with pytest.raises(ValueError, match="not kept by any stream"):
        await bus.last_all(CANCEL)


async def test_watch_sees_what_is_stored_and_what_comes(bus: Bus, wait_for: WaitFor) -> None:
    await bus.publish_event(PROMOTED, activation(1), msg_id="1", scope="s", kind="dispatch")
    seen: list[int] = []
    watch = await bus.watch_last(PROMOTED, lambda item: seen.append(item.message.epoch))
    assert watch.synced.is_set()
    assert seen == [1]
    await bus.publish_event(PROMOTED, activation(2), msg_id="2", scope="s", kind="dispatch")
    await wait_for(lambda: seen == [1, 2])


async def test_watch_of_a_missing_stream_goes_on_trying(connect: Connect, wait_for: WaitFor) -> None:
    bus = await connect()
    seen: list[int] = []
    watch = await bus.watch_last(ROLLED_BACK, lambda item: seen.append(item.message.epoch), timeout=0.05)
    assert not watch.synced.is_set()
    await bus.ensure_streams([ACTIVATIONS])
    await wait_for(watch.synced.is_set)


# -- consumers


async def test_each_message_is_handled_and_acknowledged(bus: Bus, wait_for: WaitFor) -> None:
    await store(bus, *range(5))
    seen: list[Delivered[Drifted]] = []

    async def handle(item: Delivered[Drifted]) -> None:
        seen.append(item)

    await bus.consume(DRIFTED, "reader", handle, batch=2)
    await wait_for(lambda: len(seen) == 5)
    assert [(item.message.feature, item.sequence, item.deliveries) for item in seen] == [
        (str(number), number + 1, 1) for number in range(5)
    ]
    info = bus.client.jetstream().consumer_info

    async def all_acknowledged() -> bool:
        return bool((await info("traces", "reader")).num_ack_pending == 0)

    await wait_for(all_acknowledged)


async def test_one_consumer_for_several_subjects(bus: Bus, wait_for: WaitFor) -> None:
    seen: list[str] = []

    async def handle(item: Delivered[object]) -> None:
        seen.append(type(item.message).__name__)

    await bus.consume((DRIFTED, SNAPSHOT), "reader", handle)
    await store(bus, 1)
    await bus.client.jetstream().publish("trace.snapshot.s", b"{}")  # not a snapshot
    await wait_for(lambda: seen and bus.faults["undecodable"])
    assert seen == ["Drifted"]


async def test_subjects_of_different_streams_are_refused(bus: Bus) -> None:
    async def handle(item: Delivered[object]) -> None: ...

    with pytest.raises(ValueError, match=r"must be of one stream, not \['activations', 'traces'\]"):
        await bus.consume((DRIFTED, PROMOTED), "reader", handle)


async def test_a_failure_is_delivered_again_and_then_given_up(bus: Bus, wait_for: WaitFor) -> None:
    await store(bus, 1, 2)
    attempts: list[tuple[str, int]] = []

    async def handle(item: Delivered[Drifted]) -> None:
        attempts.append((item.message.feature, item.deliveries))
        if item.message.feature == "1":
            raise ZeroDivisionError

    await bus.consume(DRIFTED, "reader", handle, max_deliver=3, backoff=(0.01,))
    await wait_for(lambda: bus.faults["terminated"] == 1)
    assert sorted(attempts) == [("1", 1), ("1", 2), ("1", 3), ("2", 1)]
    assert bus.faults["handler"] == 3


async def test_verdicts_of_a_handler(bus: Bus, wait_for: WaitFor) -> None:
    await store(bus, 1, 2)
    seen: list[tuple[str, int]] = []

    async def handle(item: Delivered[Drifted]) -> None:
        seen.append((item.message.feature, item.deliveries))
        if item.message.feature == "1":
            raise Terminate("no such snapshot")
        if item.deliveries == 1:
            raise Retry(0.01)

    await bus.consume(DRIFTED, "reader", handle)
    await wait_for(lambda: len(seen) == 3)
    assert sorted(seen) == [("1", 1), ("2", 1), ("2", 2)]
    assert bus.faults["terminated"] == 1
    assert bus.faults["handler"] == 0


async def test_poison_is_terminated_and_counted(bus: Bus, wait_for: WaitFor) -> None:
    await bus.client.jetstream().publish("policy.proposed.s.dispatch", b"poison")

    async def handle(item: Delivered[object]) -> None: ...

    await bus.consume(PROPOSED, "evaluators", handle, ack_wait=0.2)
    await wait_for(lambda: bus.faults["undecodable"] == 1)

    async def queue_is_empty() -> bool:
        return (await bus.client.jetstream().stream_info("proposals")).state.messages == 0

    await wait_for(queue_is_empty)


async def test_a_handler_longer_than_the_wait_keeps_its_message(bus: Bus, wait_for: WaitFor) -> None:
    await store(bus, 1)
    starts = 0
    done = asyncio.Event()

    async def handle(item: Delivered[Drifted]) -> None:
        nonlocal starts
        starts += 1
        async with asyncio.timeout(10):
            while (await bus.client.jetstream().consumer_info("traces", "reader")).num_redelivered == 0:
                if asyncio.get_running_loop().time() - begun > 1.0:  # five times ack_wait
                    break
        done.set()

    begun = asyncio.get_running_loop().time()
    await bus.consume(DRIFTED, "reader", handle, ack_wait=0.2)
    await asyncio.wait_for(done.wait(), 10)
    assert (await bus.client.jetstream().consumer_info("traces", "reader")).num_redelivered == 0
    assert starts == 1


async def test_manual_acknowledgement(bus: Bus, wait_for: WaitFor) -> None:
    await store(bus, 1, 2)
    held: list[Delivered[Drifted]] = []

    async def hold(item: Delivered[Drifted]) -> None:
        held.append(item)

    consumer = await bus.consume(DRIFTED, "reader", hold, manual_ack=True, batch=10)
    await wait_for(lambda: len(held) == 2)
    await held[0].ack()
    await consumer.drain()  # gives the other one back at once

    again: list[Delivered[Drifted]] = []

    async def collect(item: Delivered[Drifted]) -> None:
        again.append(item)

    await bus.consume(DRIFTED, "reader", collect)
    await wait_for(lambda: again)
    assert [(item.message.feature, item.deliveries) for item in again] == [("2", 2)]


async def test_workers_share_a_work_queue_without_doubles(connect: Connect, wait_for: WaitFor) -> None:
    first, second = await connect(), await connect()
    await first.ensure_streams()
    seen: list[int] = []

    async def handle(item: Delivered[Drifted]) -> None:
        seen.append(item.sequence)

    for bus in (first, second):
        await bus.consume(DRIFTED, "pool", handle, batch=4, workers=2)
    await store(first, *range(40))
    await wait_for(lambda: len(seen) == 40)
    assert sorted(seen) == list(range(1, 41))


async def test_drain_finishes_the_handler_and_returns_the_rest(connect: Connect, wait_for: WaitFor) -> None:
    bus, other = await connect(), await connect()
    await bus.ensure_streams()
    await store(bus, *range(6))
    entered, release = asyncio.Event(), asyncio.Event()
    handled: list[int] = []

    async def slow(item: Delivered[Drifted]) -> None:
        entered.set()
        await release.wait()
        handled.append(item.sequence)

    async def rest(item: Delivered[Drifted]) -> None:
        handled.append(item.sequence)

    await bus.consume(DRIFTED, "pool", slow, batch=3)
    await asyncio.wait_for(entered.wait(), 30)
    draining = asyncio.create_task(bus.drain())
    release.set()
    await draining
    await other.consume(DRIFTED, "pool", rest)
    await wait_for(lambda: len(handled) >= 6)
    assert sorted(handled) == [1, 2, 3, 4, 5, 6]


async def test_a_deleted_consumer_comes_back(bus: Bus, wait_for: WaitFor) -> None:
    seen: list[int] = []

    async def handle(item: Delivered[Drifted]) -> None:
        seen.append(item.sequence)

    consumer = await bus.consume(DRIFTED, "reader", handle)
    await asyncio.wait_for(consumer.created.wait(), 30)

    async def pulling() -> bool:
        return bool((await bus.client.jetstream().consumer_info("traces", "reader")).num_waiting)

    await wait_for(pulling)
    await bus.client.jetstream().delete_consumer("traces", "reader")
    await store(bus, 1)
    await wait_for(lambda: seen == [1])


async def test_a_consumer_waits_for_its_stream(connect: Connect, wait_for: WaitFor) -> None:
    bus = await connect()
    seen: list[int] = []

    async def handle(item: Delivered[Drifted]) -> None:
        seen.append(item.sequence)

    await bus.consume(DRIFTED, "reader", handle)
    await bus.ensure_streams()
    await store(bus, 1)
    await wait_for(lambda: seen == [1])


async def test_only_new_messages(bus: Bus, wait_for: WaitFor) -> None:
    await store(bus, 1)
    seen: list[str] = []

    async def handle(item: Delivered[Drifted]) -> None:
        seen.append(item.message.feature)

    consumer = await bus.consume(DRIFTED, "reader", handle, only_new=True)
    await asyncio.wait_for(consumer.created.wait(), 30)
    await store(bus, 2)
    await wait_for(lambda: seen)
    assert seen == ["2"]


async def test_a_reader_that_keeps_its_state_in_memory_begins_anew(bus: Bus, wait_for: WaitFor) -> None:
    await store(bus, 1)
    await store(bus, 2)
    for _ in range(2):
        seen: list[str] = []

        async def handle(item: Delivered[Drifted], seen: list[str] = seen) -> None:
            seen.append(item.message.feature)

        consumer = await bus.consume(DRIFTED, "reader", handle, since_s=60.0)
        await wait_for(lambda seen=seen: seen == ["1", "2"])
        await consumer.cancel()


async def test_the_trace_goes_along_with_events(
    bus: Bus, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = TracerProvider()
    monkeypatch.setattr("autopoiesis.runtime.bus.tracing._tracer", provider.get_tracer("test"))
    seen: list[int] = []

    async def handle(item: Delivered[Drifted]) -> None:
        seen.append(trace.get_current_span().get_span_context().trace_id)

    await bus.consume(DRIFTED, "reader", handle)
    with provider.get_tracer("test").start_as_current_span("outer") as outer:
        await store(bus, 1)
    await wait_for(lambda: seen)
    assert seen == [outer.get_span_context().trace_id]


async def test_plain_subscribers_hear_events_too(bus: Bus, wait_for: WaitFor) -> None:
    seen: list[Received[Drifted]] = []
    await bus.subscribe(DRIFTED, seen.append)
    await bus.flush()
    assert await bus.publish_nowait(DRIFTED, drifted(7), scope="s")
    await wait_for(lambda: seen)
    assert (await bus.client.jetstream().stream_info("traces")).state.messages == 1
