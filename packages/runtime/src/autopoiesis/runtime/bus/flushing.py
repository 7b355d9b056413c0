"""Flush and drain that keep their promise.

nats-py 2.16 writes the PING of `flush` straight to the socket, ahead of what waits in its buffer. So its flush may return
before the server has seen the last publish, and its drain drops messages: the server answers the PING before it reads the
UNSUB, and what it sends in between meets a subscription that no longer exists.
"""

import contextlib

import nats.errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription

ENDED = (
    nats.errors.ConnectionClosedError,
    nats.errors.ConnectionDrainingError,
    nats.errors.ConnectionReconnectingError,
    nats.errors.BadSubscriptionError,
    nats.errors.FlushTimeoutError,
)
"""The connection has ended or is away, and its subscriptions with it."""


async def flush(client: Client) -> None:
    """Return when the server has processed all that was sent before: the first round trip outlasts the buffer's flush."""
    await client.flush()
    await client.flush()


async def drain(client: Client, subscription: Subscription) -> None:
    """Receive no more; return when the callback has seen everything that was received."""
    with contextlib.suppress(*ENDED):
        await client._send_unsubscribe(subscription._id)  # noqa: SLF001
        await flush(client)
        await subscription._pending_queue.join()  # noqa: SLF001
    await cancel(client, subscription)


async def cancel(client: Client, subscription: Subscription) -> None:
    """Receive no more; what waits is dropped."""
    with contextlib.suppress(*ENDED):
        await subscription.unsubscribe()
