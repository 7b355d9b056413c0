"""Core publish and subscribe over a real nats-server."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from autopoiesis.contracts.messages.infer import Cancel
from autopoiesis.contracts.subjects import CANCEL, HEARTBEAT
from autopoiesis.runtime import embedded
from autopoiesis.runtime.bus import (
    Bus,
    BusUnavailableError,
    DisconnectedError,
    PayloadTooLargeError,
    Received,
)
from autopoiesis.runtime.settings import BusSettings

Connect = Callable[..., Awaitable[Bus]]
WaitFor = Callable[..., Awaitable[None]]


async def test_a_function_is_called_in_order_with_message_and_tokens(bus: Bus, wait_for: WaitFor) -> None:
    seen: list[Received[Cancel]] = []
    await bus.subscribe(CANCEL, seen.append)
    for number in range(100):
        await bus.publish(CANCEL, Cancel(request_id=str(number)), replica="r1")
    await wait_for(lambda: len(seen) == 100)
    assert [item.message.request_id for item in seen] == [str(number) for number in range(100)]
    assert seen[0].tokens == {"replica": "r1"}


async def test_tokens_narrow_a_subscription(bus: Bus, wait_for: WaitFor) -> None:
    seen: list[Received[Cancel]] = []
    await bus.subscribe(CANCEL, seen.append, replica="r2")
    await bus.publish(CANCEL, Cancel(request_id="other"), replica="r1")
    await bus.publish(CANCEL, Cancel(request_id="mine"), replica="r2")
    await wait_for(lambda: seen)
    assert [item.message.request_id for item in seen] == ["mine"]


async def test_a_queue_group_shares(connect: Connect, wait_for: WaitFor) -> None:
    seen: list[Received[Cancel]] = []
    for _ in range(2):
        member = await connect()
        await member.subscribe(CANCEL, seen.append, queue_group="all")
        await member.flush()
    sender = await connect()
    for number in range(50):
        await sender.publish(CANCEL, Cancel(request_id=str(number)), replica="r")
    await sender.flush()
    await wait_for(lambda: len(seen) >= 50)
    assert sorted(int(item.message.request_id) for item in seen) == list(range(50))


async def test_coroutine_handlers_run_in_several_workers(bus: Bus) -> None:
    together = asyncio.Barrier(3)

    async def meet(item: Received[Cancel]) -> None:
        await together.wait()

    subscription = await bus.subscribe(CANCEL, meet, workers=3)
    for number in range(3):
        await bus.publish(CANCEL, Cancel(request_id=str(number)), replica="r")
    await bus.flush()
    await asyncio.wait_for(
        subscription.drain(), 30
    )  # returns only if all three were in their handler at once


async def test_busy_handlers_drop_and_count(bus: Bus, wait_for: WaitFor) -> None:
    release = asyncio.Event()
    handled: list[str] = []

    async def slow(item: Received[Cancel]) -> None:
        await release.wait()
        handled.append(item.message.request_id)

    subscription = await bus.subscribe(CANCEL, slow, pending_msgs=3)
    for number in range(10):
        await bus.publish(CANCEL, Cancel(request_id=str(number)), replica="r")
        await bus.flush()
    await wait_for(lambda: bus.faults["slow_consumer"] > 0)
    release.set()
    await subscription.drain()
    assert len(handled) + bus.faults["slow_consumer"] == 10


async def test_garbage_is_counted_and_does_not_stop_the_subscription(bus: Bus, wait_for: WaitFor) -> None:
    seen: list[Received[Cancel]] = []
    await bus.subscribe(CANCEL, seen.append)
    await bus.send("infer.r.cancel", b"not json")
    await bus.publish(CANCEL, Cancel(request_id="1"), replica="r")
    await wait_for(lambda: seen)
    assert bus.faults["undecodable"] == 1


async def test_a_raising_handler_is_counted_and_does_not_stop_the_subscription(
    bus: Bus, wait_for: WaitFor
) -> None:
    def handler(item: Received[Cancel]) -> None:
        raise ZeroDivisionError

    async def coroutine(item: Received[Cancel]) -> None:
        raise ZeroDivisionError

    await bus.subscribe(CANCEL, handler)
    await bus.subscribe(CANCEL, coroutine)
    for _ in range(2):
        await bus.publish(CANCEL, Cancel(request_id="1"), replica="r")
    await wait_for(lambda: bus.faults["handler"] == 4)


async def test_drain_handles_everything_received(connect: Connect) -> None:
    receiver, sender = await connect(), await connect()
    handled = 0

    async def work(item: Received[Cancel]) -> None:
        nonlocal handled
        await asyncio.sleep(0)
        handled += 1

    await receiver.subscribe(CANCEL, work, workers=2)
    await receiver.flush()
    for number in range(2000):
        await sender.publish(CANCEL, Cancel(request_id=str(number)), replica="r")
    await sender.flush()
    await receiver.drain()
    assert handled == 2000
    assert receiver.client.is_closed


async def test_an_oversized_message_is_refused(bus: Bus) -> None:
    with pytest.raises(PayloadTooLargeError, match="max_payload of 8388608 bytes"):
        await bus.publish(CANCEL, Cancel(request_id="x" * 9_000_000), replica="r")


async def test_a_disconnected_bus_refuses_at_once(bus: Bus) -> None:
    await bus.client.close()
    with pytest.raises(DisconnectedError, match=r"infer\.r\.cancel was not sent"):
        await bus.publish(CANCEL, Cancel(request_id="1"), replica="r")
    assert not await bus.publish_nowait(CANCEL, Cancel(request_id="1"), replica="r")
    assert bus.faults["dropped"] == 1


async def test_an_unexpected_close_is_told(connect: Connect, wait_for: WaitFor) -> None:
    closed = asyncio.Event()
    bus = await connect(on_closed=closed.set)
    await bus.client.close()
    await asyncio.wait_for(closed.wait(), 30)
    closed.clear()
    other = await connect(on_closed=closed.set)
    await other.drain()
    assert not closed.is_set()


async def test_an_absent_server_is_named_with_what_to_set(free_port: int) -> None:
    with pytest.raises(
        BusUnavailableError,
        match=rf"tried NATS at nats://127.0.0.1:{free_port} for 0.3 s: .*Connect call failed.*; set bus.url",
    ):
        await Bus.connect(f"nats://user:hidden@127.0.0.1:{free_port}", name="test", timeout=0.3)


async def test_settings_without_an_address_are_refused() -> None:
    with pytest.raises(BusUnavailableError, match=r"bus\.url is not set"):
        await Bus.open(BusSettings(), "router")


PERMISSIONS = """
authorization { users: [
  {user: worker, password: w, permissions: {publish: ["fleet.>"], subscribe: ["infer.>", "_INBOX.worker.>"]}}
  {user: all, password: a}
] }
"""


@pytest.fixture
def guarded_nats(own_supervisor: embedded.Supervisor) -> embedded.NatsServer:
    return embedded.start_nats(own_supervisor, own_supervisor.data_dir / "nats", config=PERMISSIONS)


async def test_wrong_credentials_fail_at_once(guarded_nats: embedded.NatsServer) -> None:
    with pytest.raises(BusUnavailableError, match=r"(?i)authorization violation"):
        await Bus.connect(guarded_nats.url, name="test", user="worker", password="wrong", timeout=60.0)


async def test_refused_permissions_are_counted(guarded_nats: embedded.NatsServer, wait_for: WaitFor) -> None:
    bus = await Bus.open(BusSettings(url=guarded_nats.url, user="worker", password="w"), "worker")  # type: ignore[arg-type]
    await bus.publish(CANCEL, Cancel(request_id="1"), replica="r")
    await wait_for(lambda: bus.faults["permission"] == 1)
    await bus.subscribe(HEARTBEAT, lambda item: None)
    await wait_for(lambda: bus.faults["permission"] == 2)
    assert bus.connected
    await bus.close()


async def test_a_credentials_file_that_does_not_exist_is_named(nats_url: str) -> None:
    with pytest.raises(BusUnavailableError, match="no file /no/such/file"):
        await Bus.connect(nats_url, name="test", credentials="/no/such/file")
