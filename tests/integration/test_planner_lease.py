"""The lease on a real bus, with clocks of the test's own."""

from collections.abc import Awaitable, Callable

import pytest

from autopoiesis.contracts.messages.fleet import PlannerLease
from autopoiesis.contracts.subjects import LEASES, PLANNER_LEASE
from autopoiesis.router.planner.lease import Lease
from autopoiesis.runtime.bus import Bus, OutrunError

Connect = Callable[..., Awaitable[Bus]]


class Clock:
    """Monotonic, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def leases(connect: Connect) -> tuple[Lease, Lease, Clock]:
    bus = await connect("planner")
    await bus.ensure_streams((LEASES,))
    clock = Clock()
    first, second = [
        Lease(await connect(name), scope="s", holder=name, duration_s=6.0, clock=clock)
        for name in ("one", "two")
    ]
    return first, second, clock


async def test_one_holds_it_as_long_as_it_renews(leases: tuple[Lease, Lease, Clock]) -> None:
    first, second, clock = leases
    assert await first.renew(0)
    for _ in range(5):
        clock.now += 3.0
        assert not await second.renew(0)
        assert await first.renew(0)
        assert first.held
        assert not second.held
    assert first.epoch == 1


async def test_a_silent_holder_is_replaced_after_its_time_and_learns_of_it(
    leases: tuple[Lease, Lease, Clock],
) -> None:
    first, second, clock = leases
    await first.renew(0)
    assert not await second.renew(0)
    clock.now += 4.5
    assert not first.held  # it stops deciding before anybody may take over
    assert not await second.renew(0)
    clock.now += 1.6
    assert await second.renew(0)
    assert second.epoch == 2
    assert not await first.renew(0)
    assert not first.held


async def test_a_new_holder_goes_above_every_epoch_that_nodes_have_seen(
    leases: tuple[Lease, Lease, Clock],
) -> None:
    first, _, _ = leases
    assert await first.renew(41)
    assert first.epoch == 42


async def test_a_released_lease_is_taken_at_once(leases: tuple[Lease, Lease, Clock]) -> None:
    first, second, _ = leases
    await first.renew(0)
    await first.release()
    assert not first.held
    assert await second.renew(0)
    assert second.epoch == 2


async def test_only_the_newest_message_can_be_followed(connect: Connect) -> None:
    bus = await connect("planner")
    await bus.ensure_streams((LEASES,))
    first = await bus.publish_after(PLANNER_LEASE, PlannerLease(holder="a", epoch=1), 0, scope="x")
    second = await bus.publish_after(PLANNER_LEASE, PlannerLease(holder="a", epoch=2), first, scope="x")
    for stale in (0, first):
        with pytest.raises(OutrunError):
            await bus.publish_after(PLANNER_LEASE, PlannerLease(holder="b", epoch=3), stale, scope="x")
    found = await bus.last(PLANNER_LEASE, scope="x")
    assert found is not None
    assert (found.message.epoch, found.sequence_read) == (2, second)
