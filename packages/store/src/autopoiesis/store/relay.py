"""The second half of the outbox: publish what committed transactions decided to publish."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Protocol

from opentelemetry import context, propagate

from autopoiesis.contracts.codec import decode
from autopoiesis.contracts.subjects import REGISTRY, Subject
from autopoiesis.store.engine import Exclusive, Store
from autopoiesis.store.models import Outgoing

log = logging.getLogger(__name__)

KEEP_S = 7 * 86_400.0
"""How long published messages stay in the table."""
PRUNE_EVERY_S = 3600.0
POLL_S = 0.2
PATIENCE_S = 5.0
"""Longest wait before trying again after a failure."""


class Publish(Protocol):
    """Stores one event and returns when the stream has it: `Bus.publish_event`."""

    async def __call__(
        self, subject: Subject[Any], message: Any, *, msg_id: str, **tokens: str
    ) -> object: ...


Leading = Callable[[Exclusive], AbstractAsyncContextManager[object]]


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
            await _publish(row, publish)
            async with lock.begin() as unit:
                await unit.outbox.mark_published(row.id)
            done += 1
        if not waiting:
            return done


async def keep_relaying(
    store: Store, owner: str, publish: Publish, *, leading: Leading | None = None, poll_s: float = POLL_S
) -> None:
    """Relay `owner`'s outbox for ever, as the one process in this database that does; return only by cancellation.

    `leading` is entered each time the lock was won and left when it was lost: work for the one who leads. Whatever
    fails (database, bus) is logged, the lock let go, and all of it tried again.
    """
    delay = poll_s
    while True:
        try:
            async with store.exclusive(f"relay:{owner}") as lock:
                log.info("relaying the outbox of %s", owner)
                async with leading(lock) if leading else nullcontext():
                    pruned = -math.inf
                    while True:
                        await relay(lock, owner, publish)
                        delay = poll_s
                        if time.monotonic() - pruned > PRUNE_EVERY_S:
                            async with lock.begin() as unit:
                                await unit.outbox.prune(owner, older_than_s=KEEP_S)
                            pruned = time.monotonic()
                        await asyncio.sleep(poll_s)
        except Exception as error:
            log.warning("the outbox of %s waits: %s; trying again in %.1f s", owner, error, delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, PATIENCE_S)


async def _publish(row: Outgoing, publish: Publish) -> None:
    subject, tokens = resolve(row.subject)
    message = decode(subject.message, row.payload.encode(), where=row.subject)
    token = context.attach(propagate.extract(row.headers))
    try:
        await publish(subject, message, msg_id=row.message_id, **tokens)
    finally:
        context.detach(token)


def resolve(name: str) -> tuple[Subject[Any], dict[str, str]]:
    """The registry's entry for a concrete subject, and the tokens in it. Raises ValueError for one it does not know."""
    parts = name.split(".")
    for subject in REGISTRY:
        pattern = subject.pattern.split(".")
        if len(pattern) != len(parts):
            continue
        tokens = {
            token[1:-1]: part for token, part in zip(pattern, parts, strict=True) if token.startswith("{")
        }
        if subject.at(**tokens) == name:
            return subject, tokens
    raise ValueError(f"no subject of the registry is called {name!r}")
