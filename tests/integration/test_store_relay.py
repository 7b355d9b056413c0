"""The outbox: published after commit, in order, at least once, applied once, by one process at a time."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from autopoiesis.contracts.messages.policy import Activation
from autopoiesis.contracts.subjects import ACTIVATIONS, PROMOTED, Subject
from autopoiesis.runtime.bus import Bus
from autopoiesis.store import Store, promotion
from autopoiesis.store.engine import Exclusive
from autopoiesis.store.relay import keep_relaying, relay, resolve

SCOPE = "local/m"
WaitFor = Callable[..., Awaitable[None]]

CRASHES_AFTER_PUBLISHING = """
import asyncio, os, signal, sys
from autopoiesis.runtime.bus import Bus
from autopoiesis.store import Store
from autopoiesis.store.relay import relay

async def main(database, nats):
    bus = await Bus.connect(nats, name="crashing")
    store = await Store.open(database)

    async def publish(subject, message, **rest):
        await bus.publish_event(subject, message, **rest)
        os.kill(os.getpid(), signal.SIGKILL)

    async with store.exclusive("relay:evaluator") as lock:
        await relay(lock, "evaluator", publish)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def store(migrated_url: str) -> AsyncIterator[Store]:
    async with await Store.open(migrated_url) as opened:
        yield opened


async def promote(store: Store, *hashes: str) -> list[int]:
    epochs = []
    for hash_ in hashes:
        async with store.begin() as unit:
            await unit.policies.add(hash=hash_, kind="dispatch", api=1, source=hash_, origin="library")
            current = await unit.activations.current(SCOPE, "dispatch")
            expected = current.policy.hash if current else None
            activation = await promotion.promote(
                unit, SCOPE, "dispatch", hash_, expected=expected, cause="test"
            )
        epochs.append(activation.epoch)
    return epochs


class Sink:
    """Stands for the stream."""

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.down = False

    async def __call__(self, subject: Subject[Any], message: Any, *, msg_id: str, **tokens: str) -> None:
        if self.down:
            raise ConnectionError("the bus is away")
        assert (subject, tokens["kind"]) == (PROMOTED, "dispatch")
        self.epochs.append(message.epoch)


async def test_nothing_is_published_of_what_did_not_commit(store: Store) -> None:
    sink = Sink()

    async def change_ones_mind() -> None:
        async with store.begin() as unit:
            await unit.policies.add(hash="a", kind="dispatch", api=1, source="a", origin="library")
            await promotion.promote(unit, SCOPE, "dispatch", "a", expected=None, cause="test")
            raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError, match="changed my mind"):
        await change_ones_mind()
    async with store.exclusive("relay:evaluator") as lock:
        assert await relay(lock, "evaluator", sink) == 0
    assert sink.epochs == []


async def test_publishes_in_order_and_each_once(store: Store) -> None:
    sink = Sink()
    epochs = await promote(store, "a", "b", "a", "b")
    async with store.exclusive("relay:evaluator") as lock:
        assert await relay(lock, "evaluator", sink) == 4
        assert await relay(lock, "evaluator", sink) == 0
        assert await relay(lock, "observer", sink) == 0
    assert sink.epochs == epochs


async def test_what_could_not_be_published_waits(store: Store, wait_for: WaitFor) -> None:
    sink = Sink()
    sink.down = True
    epochs = await promote(store, "a", "b")
    task = asyncio.create_task(keep_relaying(store, "evaluator", sink, poll_s=0.01))
    sink.down = False
    await wait_for(lambda: sink.epochs == epochs)
    task.cancel()


async def test_one_leads_and_another_takes_over_when_its_connection_dies(
    store: Store, migrated_url: str, wait_for: WaitFor
) -> None:
    leaders: list[str] = []

    def lead(name: str) -> Any:
        @asynccontextmanager
        async def leading(_: Exclusive) -> AsyncIterator[None]:
            leaders.append(name)
            yield

        return leading

    sink = Sink()
    first = asyncio.create_task(keep_relaying(store, "evaluator", sink, leading=lead("first"), poll_s=0.01))
    await wait_for(lambda: leaders == ["first"])
    async with await Store.open(migrated_url) as other:
        second = asyncio.create_task(
            keep_relaying(other, "evaluator", sink, leading=lead("second"), poll_s=0.01)
        )
        admin = await asyncpg.connect(migrated_url)
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        await wait_for(lambda: _positive(admin, waiting))
        assert leaders == ["first"]
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        await wait_for(lambda: leaders[:2] == ["first", "second"])
        epochs = await promote(store, "a", "b")
        await wait_for(lambda: sink.epochs == epochs)
        await admin.close()
        for task in (first, second):
            task.cancel()
        await asyncio.gather(first, second, return_exceptions=True)


async def _positive(connection: asyncpg.Connection, query: str) -> bool:
    return bool(await connection.fetchval(query))


async def test_killed_between_publishing_and_marking_it_is_sent_again_and_applied_once(
    store: Store, migrated_url: str, nats_url: str
) -> None:
    bus = await Bus.connect(nats_url, name="test")
    await bus.ensure_streams([ACTIVATIONS], [PROMOTED])
    (epoch,) = await promote(store, "a")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CRASHES_AFTER_PUBLISHING, migrated_url, nats_url
    )
    assert await process.wait() == -signal.SIGKILL
    sent: list[int] = []

    async def publish(subject: Subject[Any], message: Activation, *, msg_id: str, **tokens: str) -> None:
        stored = await bus.publish_event(subject, message, msg_id=msg_id, timeout=10.0, **tokens)
        assert stored.duplicate
        sent.append(message.epoch)

    async with store.exclusive("relay:evaluator") as lock:
        assert await relay(lock, "evaluator", publish) == 1
    assert sent == [epoch]
    kept = await bus.last_all(PROMOTED)
    assert [received.message.epoch for received in kept] == [epoch]
    await bus.close()


def test_every_subject_name_is_resolved_to_its_entry() -> None:
    assert resolve("policy.promoted.s.dispatch") == (PROMOTED, {"scope": "s", "kind": "dispatch"})
    with pytest.raises(ValueError, match=r"nobody\.knows"):
        resolve("nobody.knows")
