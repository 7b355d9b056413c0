"""The second half of the outbox: publish what committed transactions decided to publish."""

from collections.abc import Awaitable, Callable

from autopoiesis.store.engine import Exclusive
from autopoiesis.store.models import Outgoing

Publish = Callable[[Outgoing], Awaitable[None]]
"""Publishes one message and returns when the stream has it."""

KEEP_S = 7 * 86_400.0


async def relay(lock: Exclusive, owner: str, publish: Publish) -> int:
    """Publish everything that waits for `owner`, in order; returns how many messages that were.

    A crash between publishing and marking publishes again, under the same message id. When `publish` raises, what was
    published before stays marked and the rest waits for the next call.
    """
    done = 0
    while True:
        async with lock.begin() as unit:
            waiting = await unit.outbox.waiting(owner)
        for row in waiting:
            await publish(row)
            async with lock.begin() as unit:
                await unit.outbox.mark_published(row.id)
            done += 1
        if not waiting:
            return done


async def prune(lock: Exclusive, owner: str) -> None:
    """Forget messages that `owner` published more than a week ago."""
    async with lock.begin() as unit:
        await unit.outbox.prune(owner, older_than_s=KEEP_S)
