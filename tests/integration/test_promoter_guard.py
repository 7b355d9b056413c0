"""Promotion reaches the stream, heals it, and is taken back when the policy does harm."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from autopoiesis.contracts.messages.policy import Activation, Faulted
from autopoiesis.contracts.messages.telemetry import RequestBatch, RequestRecord
from autopoiesis.contracts.subjects import FAULTED, PROMOTED, REQUEST_TELEMETRY, ROLLED_BACK, slug
from autopoiesis.evaluator.guard import Guard
from autopoiesis.evaluator.promoter import Promoter
from autopoiesis.evaluator.settings import EvaluatorSettings
from autopoiesis.runtime.bus import Bus
from autopoiesis.store import Mode, Store, operations, promotion

SCOPE = "local/m"
SETTINGS = EvaluatorSettings()
WaitFor = Callable[..., Awaitable[None]]


@pytest.fixture
async def store(migrated_url: str) -> AsyncIterator[Store]:
    async with await Store.open(migrated_url) as opened:
        yield opened


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    bus = await Bus.connect(nats_url, name="test")
    await bus.ensure_streams()
    yield bus
    await bus.close()


def promoter(store: Store, bus: Bus, mode: Mode = "auto") -> Promoter:
    return Promoter(store, bus, Guard(store, SETTINGS, configured=mode), poll_s=0.01)


@pytest.fixture
async def running(store: Store, bus: Bus, wait_for: WaitFor) -> AsyncIterator[None]:
    one = promoter(store, bus)
    task = asyncio.create_task(one.run())
    await wait_for(lambda: one.leading)
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def promote(store: Store, *hashes: str) -> list[Activation]:
    done = []
    for hash_ in hashes:
        async with store.begin() as unit:
            await unit.policies.add(hash=hash_, kind="dispatch", api=1, source=hash_, origin="library")
            current = await unit.activations.current(SCOPE, "dispatch")
            expected = current.policy.hash if current else None
            done.append(
                await promotion.promote(unit, SCOPE, "dispatch", hash_, expected=expected, cause="test")
            )
    return done


async def in_force(store: Store) -> str:
    return (await operations.in_force(store))[0].policy.hash


async def test_what_is_in_force_is_published_and_published_again_to_an_emptied_stream(
    store: Store, bus: Bus, wait_for: WaitFor
) -> None:
    await promote(store, "old", "new")
    operator = await operations.rollback(store, SCOPE, "dispatch")

    async def run_until_published() -> None:
        task = asyncio.create_task(promoter(store, bus).run())

        async def published() -> bool:
            return [item.message for item in await bus.last_all(ROLLED_BACK)] == [operator]

        await wait_for(published)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    await run_until_published()
    assert [item.message.hash for item in await bus.last_all(PROMOTED)] == ["new"]
    await bus.client.jetstream().purge_stream("activations")
    await run_until_published()


async def test_a_database_begun_anew_goes_on_above_the_epochs_that_were_heard(
    store: Store, bus: Bus, wait_for: WaitFor
) -> None:
    heard = Activation(
        scope=SCOPE, kind="dispatch", epoch=500, hash="lost", source="", api=1, cause="", at_unix_s=0.0
    )
    await bus.publish_event(PROMOTED, heard, msg_id="before", scope=slug(SCOPE), kind="dispatch")
    (old,) = await promote(store, "old")
    assert old.epoch < 500
    one = promoter(store, bus)
    task = asyncio.create_task(one.run())
    await wait_for(lambda: one.leading)
    (kept,) = await bus.last_all(PROMOTED)
    assert (kept.message.hash, kept.message.epoch) == ("old", 501)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.usefixtures("running")
async def test_a_quarantined_policy_is_rolled_back(store: Store, bus: Bus, wait_for: WaitFor) -> None:
    old, new = await promote(store, "old", "new")
    for nth, (epoch, quarantined) in enumerate([(new.epoch, False), (old.epoch, True), (new.epoch, True)]):
        message = Faulted(
            scope=SCOPE,
            kind="dispatch",
            epoch=epoch,
            hash="new",
            service="router-1",
            fault="ZeroDivisionError",
            strikes=5,
            quarantined=quarantined,
        )
        await bus.publish_event(FAULTED, message, msg_id=f"fault-{nth}", scope="s", kind="dispatch")

    async def back() -> bool:
        return bool(await bus.last_all(ROLLED_BACK))

    await wait_for(back)
    activation = (await bus.last_all(ROLLED_BACK))[0].message
    assert activation.hash == "old"
    assert activation.cause == "rollback: quarantined by router-1 after 5 faults: ZeroDivisionError"
    assert len(await operations.history(store, SCOPE, "dispatch")) == 3


def records(
    epoch: int, start: float, end: float, *, attained: float, rate: float = 10.0
) -> list[RequestRecord]:
    count = round((end - start) * rate)
    return [
        RequestRecord(
            request_id=f"{epoch}-{nth}",
            scope=SCOPE,
            model="m",
            arrival_unix_s=start + nth / rate,
            stream=True,
            prompt_bytes=400,
            prompt_tokens=100,
            prompt_tokens_estimated=100,
            max_tokens=100,
            output_tokens=100,
            output_censored=False,
            outcome="finished",
            ttft_slo_s=1.0,
            ttft_s=0.5 if (nth * 7919) % 100 < attained * 100 else 2.0,
            epoch=epoch,
        )
        for nth in range(count)
    ]


async def publish(bus: Bus, items: list[RequestRecord], *, name: str) -> None:
    for number, first in enumerate(range(0, len(items), 20)):
        batch = RequestBatch(
            router="r", incarnation="1", batch=number, records=tuple(items[first : first + 20])
        )
        await bus.publish_event(REQUEST_TELEMETRY, batch, msg_id=f"{name}-{number}", router="r")


async def counted(bus: Bus, wait_for: WaitFor) -> None:
    """Wait until the guard has seen all telemetry that was published."""

    async def handled() -> bool:
        info = await bus.client.jetstream().consumer_info("telemetry", "evaluator-guard-requests")
        return (info.num_pending, info.num_ack_pending) == (0, 0)

    await wait_for(handled)


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    ("attained", "final"), [(0.6, "old"), (0.93, "new")], ids=["harm is taken back", "noise is not"]
)
async def test_a_loss_of_attainment_is_rolled_back(
    store: Store, bus: Bus, wait_for: WaitFor, attained: float, final: str
) -> None:
    old, new = await promote(store, "old", "new")
    at = new.at_unix_s
    await publish(bus, records(old.epoch, at - 90, at, attained=0.95), name="before")
    await publish(bus, records(new.epoch, at, at + 120, attained=attained), name="after")

    await counted(bus, wait_for)
    assert await in_force(store) == final
    newest = (await operations.history(store, SCOPE, "dispatch"))[0].activation
    assert ("attainment fell by 3" in newest.cause) == (final == "old")


async def test_a_new_leader_knows_what_the_one_before_it_had_counted(
    store: Store, bus: Bus, wait_for: WaitFor
) -> None:
    old, new = await promote(store, "old", "new")
    at = new.at_unix_s
    parts = [
        records(old.epoch, at - 90, at, attained=0.95) + records(new.epoch, at, at + 20, attained=0.6),
        records(new.epoch, at + 20, at + 120, attained=0.6),
    ]
    for number, part in enumerate(parts):
        one = promoter(store, bus)
        task = asyncio.create_task(one.run())
        await wait_for(lambda one=one: one.leading)
        await publish(bus, part, name=f"part-{number}")
        await counted(bus, wait_for)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await in_force(store) == ("new", "old")[number]


async def test_only_mode_auto_rolls_back(store: Store, bus: Bus, wait_for: WaitFor) -> None:
    one = promoter(store, bus, mode="advise")
    task = asyncio.create_task(one.run())
    await wait_for(lambda: one.leading)
    _, new = await promote(store, "old", "new")
    message = Faulted(
        scope=SCOPE,
        kind="dispatch",
        epoch=new.epoch,
        hash="new",
        service="router-1",
        fault="ZeroDivisionError",
        quarantined=True,
    )

    async def send(number: int) -> None:
        await bus.publish_event(FAULTED, message, msg_id=f"fault-{number}", scope="s", kind="dispatch")

        async def handled() -> bool:
            info = await bus.client.jetstream().consumer_info("policy-events", "evaluator-guard-faults")
            return info.ack_floor is not None and info.ack_floor.stream_seq == number

        await wait_for(handled)

    await send(1)
    assert await in_force(store) == "new"
    await operations.set_mode(store, SCOPE, "auto")
    await send(2)
    assert await in_force(store) == "old"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
