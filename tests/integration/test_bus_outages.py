"""The bus while processes die, stop and come back."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from autopoiesis.contracts.messages.infer import Cancel, Chunk, Generate
from autopoiesis.contracts.messages.policy import Activation
from autopoiesis.contracts.messages.trace import Drifted
from autopoiesis.contracts.subjects import CANCEL, DRIFTED, PROMOTED
from autopoiesis.runtime import embedded
from autopoiesis.runtime.bus import (
    Bus,
    Delivered,
    DisconnectedError,
    NoRespondersError,
    Received,
    RequestStreams,
    StalledError,
)

WaitFor = Callable[..., Awaitable[None]]

WORKER = """
import asyncio, sys
from autopoiesis.contracts.subjects import GENERATE
from autopoiesis.runtime.bus import Bus, Responders
from autopoiesis.runtime.lifecycle import run_service

async def main(service):
    bus = await Bus.connect(sys.argv[1], name="worker")
    responders = await Responders.start(bus, "w", coalesce=0.0)

    async def generate(request):
        gone = asyncio.Event()
        answer = responders.respond(request, gone.set)
        while not gone.is_set():
            answer.write("token ")
            await asyncio.sleep(0.005)
        print("router gone", flush=True)

    await bus.subscribe(GENERATE, generate, replica="a", workers=4)
    await bus.flush()
    service.ready()
    await service.until_stopped()

run_service(main, name="worker")
"""

ROUTER = """
import asyncio, sys, msgspec
from autopoiesis.contracts.messages.infer import Generate
from autopoiesis.runtime.bus import Bus, RequestStreams
from autopoiesis.runtime.lifecycle import run_service

async def main(service):
    streams = await RequestStreams.start(await Bus.connect(sys.argv[1], name="router"), "other")
    stream = await streams.open("a", msgspec.json.decode(sys.argv[2], type=Generate))
    await stream.next_batch()
    service.ready()
    async for _ in stream:
        pass

run_service(main, name="router")
"""


def request(request_id: str = "q1") -> Generate:
    return Generate(
        request_id=request_id,
        router="r1",
        nth=1,
        model="m",
        endpoint="chat",
        body=msgspec.Raw(b"{}"),
        stream=True,
        prompt_tokens=3,
        max_tokens=5,
    )


@pytest.fixture
def worker(
    own_supervisor: embedded.Supervisor, own_nats: embedded.NatsServer, tmp_path: Path
) -> embedded.Child:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    return own_supervisor.start("worker", [sys.executable, script, own_nats.url], ready="notify", grace=1.0)


async def test_a_stopped_worker_is_seen_by_the_stall_timer(
    worker: embedded.Child, own_nats: embedded.NatsServer
) -> None:
    bus = await Bus.connect(own_nats.url, name="router")
    streams = await RequestStreams.start(bus, "r1", stall_timeout=0.5)
    stream = await streams.open("a", request())
    first = await asyncio.wait_for(stream.next_batch(), 10)
    assert isinstance(first[0], Chunk)
    worker.signal(signal.SIGSTOP)

    async def read_on() -> None:
        async for _ in stream:
            pass

    with pytest.raises(StalledError):
        await asyncio.wait_for(read_on(), 10)
    await bus.close()


async def test_a_killed_worker_refuses_the_next_request_at_once(
    worker: embedded.Child, own_nats: embedded.NatsServer
) -> None:
    bus = await Bus.connect(own_nats.url, name="router")
    streams = await RequestStreams.start(bus, "r1", stall_timeout=60.0)
    await asyncio.wait_for((await streams.open("a", request())).next_batch(), 10)
    worker.kill()
    await asyncio.to_thread(worker.wait, 10)
    with pytest.raises(NoRespondersError):
        await asyncio.wait_for((await streams.open("a", request("q2"))).next_batch(), 30)
    await bus.close()


async def test_a_killed_router_is_seen_by_the_worker(
    worker: embedded.Child,
    own_supervisor: embedded.Supervisor,
    own_nats: embedded.NatsServer,
    tmp_path: Path,
    wait_for: WaitFor,
) -> None:
    script = tmp_path / "router.py"
    script.write_text(ROUTER)
    body = msgspec.json.encode(request()).decode()
    router = await asyncio.to_thread(
        own_supervisor.start, "router", [sys.executable, script, own_nats.url, body], ready="notify"
    )
    assert "router gone" not in worker.log.read_text()
    router.kill()
    await wait_for(lambda: "router gone" in worker.log.read_text())


async def restart(server: embedded.NatsServer, buses: list[Bus], wait_for: WaitFor) -> None:
    """Kill the server and wait until its supervisor has restarted it and everybody is connected again."""
    before = server.child.restarts
    server.child.kill()
    await wait_for(lambda: not any(bus.connected for bus in buses))
    await wait_for(lambda: server.child.restarts > before and all(bus.connected for bus in buses), timeout=30)


async def test_subscriptions_come_back_and_sending_is_refused_meanwhile(
    own_nats: embedded.NatsServer, wait_for: WaitFor
) -> None:
    bus = await Bus.connect(own_nats.url, name="test")
    seen: list[Received[Cancel]] = []
    await bus.subscribe(CANCEL, seen.append)
    own_nats.child.kill()
    await wait_for(lambda: not bus.connected)
    with pytest.raises(DisconnectedError):
        await bus.publish(CANCEL, Cancel(request_id="1"), replica="r")
    await wait_for(lambda: bus.connected, timeout=30)
    await bus.publish(CANCEL, Cancel(request_id="2"), replica="r")
    await wait_for(lambda: seen)
    assert [item.message.request_id for item in seen] == ["2"]
    await bus.close()


async def test_no_event_is_lost_over_restarts_during_load(
    own_nats: embedded.NatsServer, wait_for: WaitFor
) -> None:
    total = 300
    producer, reader = [await Bus.connect(own_nats.url, name=name) for name in ("producer", "reader")]
    await producer.ensure_streams()
    seen: set[str] = set()

    async def handle(item: Delivered[Drifted]) -> None:
        seen.add(item.message.feature)

    await reader.consume(DRIFTED, "reader", handle, ack_wait=2.0, batch=16)

    async def produce(numbers: range) -> None:
        for number in numbers:
            event = Drifted(
                scope="s",
                at_unix_s=1.0,
                feature=str(number),
                test="ks",
                statistic=0.1,
                p_value=0.01,
                before=1.0,
                after=2.0,
            )
            await producer.publish_event(DRIFTED, event, msg_id=f"d{number}", scope="s")

    async with asyncio.TaskGroup() as group:
        producing = [group.create_task(produce(range(start, total, 4))) for start in range(4)]
        for part in (1, 2):
            await wait_for(lambda: len(seen) >= total * part / 4)  # noqa: B023
            await restart(own_nats, [producer, reader], wait_for)
    assert all(task.done() for task in producing)
    await wait_for(lambda: len(seen) == total, timeout=30)
    info = await producer.client.jetstream().stream_info("traces")
    assert info.state.messages == total  # repeated publishes were recognised
    await producer.close()
    await reader.close()


async def test_a_watch_reads_again_after_an_outage(own_nats: embedded.NatsServer, wait_for: WaitFor) -> None:
    bus = await Bus.connect(own_nats.url, name="test")
    await bus.ensure_streams()
    activation = Activation(
        scope="s", kind="dispatch", epoch=7, hash="h", source="", api=1, cause="test", at_unix_s=1.0
    )
    await bus.publish_event(PROMOTED, activation, msg_id="7", scope="s", kind="dispatch")
    seen: list[int] = []
    watch = await bus.watch_last(PROMOTED, lambda item: seen.append(item.message.epoch))
    await wait_for(watch.synced.is_set)
    seen.clear()
    await restart(own_nats, [bus], wait_for)
    await wait_for(lambda: seen == [7])
    await bus.close()


async def test_draining_while_the_server_is_away_ends(
    own_nats: embedded.NatsServer, wait_for: WaitFor
) -> None:
    bus = await Bus.connect(own_nats.url, name="test")
    await bus.ensure_streams()

    async def handle(item: Delivered[Drifted]) -> None: ...

    await bus.subscribe(CANCEL, lambda item: None)
    await bus.consume(DRIFTED, "reader", handle)
    await bus.watch_last(PROMOTED, lambda item: None)
    await asyncio.to_thread(own_nats.child.stop)
    await wait_for(lambda: not bus.connected)
    await asyncio.wait_for(bus.drain(timeout=1.0), 15)
    assert bus.client.is_closed
