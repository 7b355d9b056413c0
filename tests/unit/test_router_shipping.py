"""Telemetry: batched, retried under one name, bounded."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from autopoiesis.contracts.codec import encode
from autopoiesis.contracts.messages.telemetry import RequestBatch, RequestRecord
from autopoiesis.router import shipping
from autopoiesis.router.shipping import BATCH_BYTES, BATCH_RECORDS, Shipper


def record(number: int, hashes: int = 0) -> RequestRecord:
    return RequestRecord(
        request_id=f"r{number}",
        scope="local/m",
        model="m",
        arrival_unix_s=0.0,
        stream=False,
        prompt_bytes=1,
        prompt_tokens=1,
        prompt_tokens_estimated=1,
        max_tokens=1,
        output_tokens=1,
        output_censored=False,
        outcome="finished",
        block_hashes=(2**63 - 1,) * hashes,
    )


class Stream:
    """Stores batches by name, as JetStream does; fails while `away`."""

    def __init__(self) -> None:
        self.away = False
        self.tries: list[str] = []
        self.stored: dict[str, RequestBatch] = {}

    async def publish(self, batch: RequestBatch, name: str) -> None:
        self.tries.append(name)
        if self.away:
            raise ConnectionError("away")
        self.stored.setdefault(name, batch)

    @property
    def records(self) -> list[str]:
        return [record.request_id for batch in self.stored.values() for record in batch.records]


def shipper(stream: Stream, **options: Any) -> Shipper:
    return Shipper(stream.publish, router="router", incarnation="i1", **options)


async def test_everything_is_shipped_once_and_in_order() -> None:
    stream = Stream()
    ship = shipper(stream)
    for number in range(2 * BATCH_RECORDS + 1):
        ship.add(record(number))
    assert await ship.flush(1.0) == 0
    assert stream.records == [f"r{number}" for number in range(2 * BATCH_RECORDS + 1)]
    assert list(stream.stored) == ["router-i1-1", "router-i1-2", "router-i1-3"]


async def test_a_batch_stays_under_its_bytes() -> None:
    stream = Stream()
    ship = shipper(stream)
    for number in range(50):
        ship.add(record(number, hashes=2000))
    await ship.flush(1.0)
    assert len(stream.records) == 50
    assert all(len(encode(batch)) <= BATCH_BYTES for batch in stream.stored.values())


async def test_a_failed_batch_is_tried_again_under_its_name(
    monkeypatch: pytest.MonkeyPatch, wait_for: Callable[..., Any]
) -> None:
    monkeypatch.setattr(shipping, "_RETRY_S", 0.001)
    stream = Stream()
    stream.away = True
    ship = shipper(stream, interval_s=0.001)
    task = asyncio.create_task(ship.run())
    ship.add(record(1))
    await wait_for(lambda: len(stream.tries) > 2)
    ship.add(record(2))
    stream.away = False
    await wait_for(lambda: len(stream.records) == 2)
    task.cancel()
    assert set(stream.tries[:3]) == {"router-i1-1"}
    assert stream.records == ["r1", "r2"]


async def test_the_buffer_is_bounded_and_drops_the_oldest() -> None:
    stream = Stream()
    ship = shipper(stream, capacity=10)
    for number in range(15):
        ship.add(record(number))
    assert ship.dropped == 5
    await ship.flush(1.0)
    assert stream.records == [f"r{number}" for number in range(5, 15)]


async def test_flush_gives_up_in_time() -> None:
    stream = Stream()
    stream.away = True
    ship = shipper(stream)
    ship.add(record(1))
    assert await ship.flush(0.01) == 1
    assert ship.waiting == 1


async def test_nothing_is_kept_where_no_bus_will_be() -> None:
    stream = Stream()
    shipper = Shipper(stream.publish, router="r", incarnation="1", wanted=False)
    shipper.add(record(1))
    assert (shipper.waiting, shipper.dropped) == (0, 0)
    assert await shipper.flush(1.0) == 0
    assert not stream.tries
