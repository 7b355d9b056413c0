"""One connection to NATS, typed by the subject registry."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

import nats.errors
from nats.aio.client import Client, Server

from autopoiesis.contracts.codec import encode
from autopoiesis.contracts.subjects import REGISTRY, STREAMS, Service, Stream, Subject, streams_of
from autopoiesis.runtime.bus import faults as kinds
from autopoiesis.runtime.bus import flushing, jetstream
from autopoiesis.runtime.bus.consumer import Consumer, DeliveryHandler
from autopoiesis.runtime.bus.errors import BusUnavailableError, DisconnectedError, PayloadTooLargeError
from autopoiesis.runtime.bus.faults import Faults
from autopoiesis.runtime.bus.received import Received
from autopoiesis.runtime.bus.subscription import Handler, Subscription
from autopoiesis.runtime.bus.tracing import publishing
from autopoiesis.runtime.bus.watch import Watch
from autopoiesis.runtime.settings import BusSettings

log = logging.getLogger(__name__)
M = TypeVar("M")

PENDING_MSGS: Final = 65_536
PENDING_BYTES: Final = 64 * 1024 * 1024
DRAIN_TIMEOUT: Final = 5
Hook = Callable[[], None]


class Bus:
    """Publish and subscribe by `Subject`. Reconnects for ever; every time is seconds, every size bytes.

    `faults` counts what fails asynchronously: refused permissions, dropped messages, undecodable payloads.
    `on_closed` is called if the connection closes for good without `close` having been called: end the process then,
    its supervisor starts a fresh one.
    """

    def __init__(self, client: Client, *, on_closed: Hook | None = None) -> None:
        self.client = client
        self.streams: Sequence[Stream] = STREAMS
        """What `ensure_streams` sees to: all, or what the service that `open` was called for may touch."""
        self.faults = Faults()
        self.on_slow: dict[int, Callable[[str], None]] = {}
        """By subscription id: called with the subject of a message dropped there."""
        self._reconnect_hooks: list[Hook] = []
        self._on_closed = on_closed
        self._closing = False
        self._open: list[Subscription[Any] | Watch[Any] | Consumer[Any]] = []

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        name: str,
        user: str = "",
        password: str = "",
        credentials: str = "",
        inbox_prefix: str = "_INBOX",
        on_closed: Hook | None = None,
        timeout: float | None = 10.0,
    ) -> Self:
        """Connect to `url` (commas separate several servers).

        `credentials`: path of a .creds or nkey seed file, or an nkey seed (``SU…``), instead of user and password.
        `timeout` None waits for ever. Raises `BusUnavailableError` saying what was tried and what to set.
        """
        client = Client()
        bus = cls(client, on_closed=on_closed)
        options: dict[str, Any] = {
            "servers": url.split(","),
            "name": name,
            "inbox_prefix": inbox_prefix,
            **_authentication(user, password, credentials),
        }
        refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        reasons: list[str] = []

        async def on_error(error: Exception) -> None:
            if attempt.done():
                bus._on_error(error)
                return
            reasons.append(str(error) or type(error).__name__)
            if "authorization" in str(error).lower() and not refused.done():
                refused.set_result(str(error))

        attempt: asyncio.Future[Any] = asyncio.ensure_future(
            client.connect(
                **options,
                error_cb=on_error,
                closed_cb=bus._on_close,
                disconnected_cb=bus._on_disconnect,
                reconnected_cb=bus._on_reconnect,
                reconnect_to_server_handler=_next_server,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.2,  # type: ignore[arg-type] # annotated int, used as seconds
                connect_timeout=5,
                ping_interval=5,
                max_outstanding_pings=2,
                drain_timeout=DRAIN_TIMEOUT,
            )
        )
        await asyncio.wait([attempt, refused], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if attempt.done():
            refused.cancel()
            attempt.result()
            return bus
        attempt.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await attempt
        what = refused.result() if refused.done() else reasons[-1] if reasons else "no answer"
        waited = "" if refused.done() else f" for {timeout:g} s"
        raise BusUnavailableError(
            f"tried NATS at {_without_password(url)}{waited}: {what}; set bus.url (and bus.credentials) to a running server"
        )

    @classmethod
    async def open(
        cls,
        settings: BusSettings,
        service: Service,
        *,
        instance: str = "",
        on_closed: Hook | None = None,
        timeout: float | None = 10.0,
    ) -> Self:
        """`connect` as the section `bus` says, with the inboxes and the streams that are `service`'s own."""
        if not settings.url:
            raise BusUnavailableError(
                "bus.url is not set: give the address of a NATS server, for instance nats://127.0.0.1:4222"
            )
        bus = await cls.connect(
            settings.url,
            name=f"{service} {instance}".strip(),
            user=settings.user,
            password=settings.password,
            credentials=settings.credentials,
            inbox_prefix=f"_INBOX.{service}",
            on_closed=on_closed,
            timeout=timeout,
        )
        bus.streams = streams_of(service)
        return bus

    @property
    def connected(self) -> bool:
        return self.client.is_connected

    @property
    def max_payload(self) -> int:
        return self.client.max_payload

    def on_reconnect(self, hook: Hook) -> None:
        """Call `hook` after each reconnect, when subscriptions are back in place."""
        self._reconnect_hooks.append(hook)

    # -- core

    async def publish(
        self,
        subject: Subject[M],
        message: M,
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
        **tokens: str,
    ) -> None:
        """At most once, now. Raises `DisconnectedError` rather than buffer, `PayloadTooLargeError`."""
        await self.send(subject.at(**tokens), encode(message), reply=reply, headers=headers)  # type: ignore[arg-type]

    async def send(
        self, name: str, payload: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """`publish`, for a subject name and payload made before."""
        if not self.client.is_connected:
            raise DisconnectedError(f"not connected to NATS: {name} was not sent")
        if len(payload) > self.client.max_payload:
            raise PayloadTooLargeError(len(payload), self.client.max_payload)
        await self.client.publish(name, payload, reply, dict(headers) if headers else None)

    async def publish_nowait(self, subject: Subject[M], message: M, **tokens: str) -> bool:
        """Publish to a stream without waiting for its acknowledgement; False (and counted) when it had to be dropped."""
        try:
            await self.send(subject.at(**tokens), encode(message))  # type: ignore[arg-type]
        except DisconnectedError as error:
            self.faults.add(kinds.DROPPED, str(error))
            return False
        return True

    async def subscribe(
        self,
        subject: Subject[M],
        handler: Handler[M],
        *,
        queue_group: str = "",
        pending_msgs: int = PENDING_MSGS,
        pending_bytes: int = PENDING_BYTES,
        workers: int = 1,
        **tokens: str,
    ) -> Subscription[M]:
        """Call `handler` with each message `Received`; tokens not given are wildcards.

        A plain function runs in the reading loop, in order: it must be cheap. A coroutine function runs in `workers`
        tasks behind a queue of `pending_msgs`; what does not fit is dropped and counted in `faults`.
        """
        subscription = Subscription(
            self.client, subject, handler, self.faults, workers=workers, bound=pending_msgs
        )
        await subscription.start(subject.wildcard(**tokens), queue_group, pending_msgs, pending_bytes)
        self._open.append(subscription)
        return subscription

    async def flush(self) -> None:
        """Return when the server has processed everything sent so far (subscriptions included)."""
        await flushing.flush(self.client)

    # -- streams

    async def ensure_streams(
        self, streams: Sequence[Stream] | None = None, subjects: Sequence[Subject[Any]] = REGISTRY
    ) -> None:
        """Create or update streams as the registry says; idempotent, and safe when several processes do it at once.

        `streams` default to those of the service (see `open`). Raises `StreamConflictError` when an existing stream
        cannot be changed into what the registry says, `BusUnavailableError` when JetStream does not answer.
        """
        await jetstream.ensure_streams(self.client, self.streams if streams is None else streams, subjects)

    async def publish_event(
        self, subject: Subject[M], message: M, *, msg_id: str, timeout: float = 30.0, **tokens: str
    ) -> jetstream.Stored:
        """Store an event, repeating until acknowledged; the stream drops repeats by `msg_id`.

        Carries the current trace context. Raises `PublishFailedError` after `timeout` seconds, over reconnects.
        """
        payload = encode(message)  # type: ignore[arg-type]
        with publishing(subject) as headers:
            return await jetstream.publish(
                self.client, subject, subject.at(**tokens), payload, msg_id, timeout, headers
            )

    async def publish_after(self, subject: Subject[M], message: M, sequence: int, **tokens: str) -> int:
        """Store an event if `sequence`, as `Received.sequence_read` told it (0: none), is still its subject's newest.

        Returns the new sequence. Raises `OutrunError` if it is not, `PublishFailedError` where it is not known whether
        this was stored, `DisconnectedError`.
        """
        payload = encode(message)  # type: ignore[arg-type]
        return await jetstream.publish_after(self.client, subject.at(**tokens), payload, sequence)

    async def last(self, subject: Subject[M], **tokens: str) -> Received[M] | None:
        """The newest message kept on one concrete subject, or None."""
        found = await jetstream.last_per_subject(self.client, subject, subject.at(**tokens), self.faults)
        return found[0] if found else None

    async def last_all(self, subject: Subject[M], **tokens: str) -> list[Received[M]]:
        """The newest message of every concrete subject that matches; tokens not given are wildcards."""
        return await jetstream.last_per_subject(self.client, subject, subject.wildcard(**tokens), self.faults)

    async def watch_last(
        self,
        subject: Subject[M],
        handler: Callable[[Received[M]], None],
        *,
        timeout: float = 5.0,
        **tokens: str,
    ) -> Watch[M]:
        """Subscribe, then read the newest message per subject, and again at every reconnect.

        `handler` may see a message more than once and an old one after a newer one: apply by epoch. Returns when the
        first reading is done, or after `timeout` seconds (then it goes on trying; see `Watch.synced`).
        """
        live = Subscription(self.client, subject, handler, self.faults, workers=1, bound=PENDING_MSGS)
        await live.start(subject.wildcard(**tokens), "", PENDING_MSGS, PENDING_BYTES)
        await self.flush()
        watch = Watch(self, subject, handler, live, tokens)
        self._open.append(watch)
        await watch.wait_synced(timeout)
        return watch

    async def consume(
        self,
        subjects: Subject[M] | Sequence[Subject[Any]],
        durable: str,
        handler: DeliveryHandler[M],
        *,
        batch: int = 64,
        workers: int = 1,
        ack_wait: float = 30.0,
        max_deliver: int = 5,
        backoff: Sequence[float] = (1.0, 5.0, 30.0),
        manual_ack: bool = False,
        only_new: bool = False,
        since_s: float | None = None,
        tokens: Mapping[str, str] | None = None,
    ) -> Consumer[M]:
        """Handle a stream's messages, at least once each, by a durable pull consumer that all replicas of a service share.

        The handler's return acknowledges; `Retry(delay)` or another exception has the message delivered again after
        `backoff` (seconds, by delivery), `Terminate` never again, and so does the `max_deliver`-th failure. Handlers
        longer than `ack_wait` are fine: held messages are extended. With `manual_ack` the handler's owner calls
        ``delivered.ack()``, perhaps much later. Undecodable messages are terminated, logged and counted. A new consumer
        begins with all that the stream holds, or with what comes after it (`only_new`). With `since_s` it begins anew at every
        call, with what was published so many seconds ago, whatever was acknowledged before: for state kept in memory.
        """
        wanted = (subjects,) if isinstance(subjects, Subject) else tuple(subjects)
        consumer = Consumer(
            self,
            wanted,
            durable,
            handler,
            batch=batch,
            workers=workers,
            ack_wait=ack_wait,
            max_deliver=max_deliver,
            backoff=tuple(backoff),
            manual_ack=manual_ack,
            only_new=only_new,
            since_s=since_s,
            filters=tuple(subject.wildcard(**(tokens or {})) for subject in wanted),
        )
        await consumer.start()
        self._open.append(consumer)
        return consumer

    # -- ending

    async def drain(self, *, timeout: float = 10.0) -> None:
        """Stop consumers and watches, let subscriptions finish what they hold, send what is pending, close.

        A worker publishes its draining heartbeat and drains its request subscription before. Bounded by `timeout`.
        """
        self._closing = True
        try:
            async with asyncio.timeout(timeout):
                for part in reversed(self._open):
                    await part.drain()
        except TimeoutError:
            log.warning("bus: handlers did not finish within %g s of draining", timeout)
        with contextlib.suppress(nats.errors.Error, OSError):  # the server may be away or go away
            await self.client.drain()
        await self.close()

    async def close(self) -> None:
        """Close now; what handlers hold is abandoned (and stream messages are delivered again)."""
        self._closing = True
        for part in self._open:
            await part.cancel()
        self._open.clear()
        if not self.client.is_closed:
            with contextlib.suppress(OSError):  # what was still pending cannot be sent: the server is away
                await self.client.close()

    # -- callbacks of the client

    def _on_error(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        if isinstance(error, nats.errors.SlowConsumerError):
            self.faults.add(
                kinds.SLOW_CONSUMER, f"{error.subject}: dropped a message, its subscription is full"
            )
            hook = self.on_slow.get(error.sid)
            if hook is not None:
                hook(error.subject)
        elif "permissions violation" in text.lower():
            self.faults.add(kinds.PERMISSION, text)
        else:
            self.faults.add(kinds.CONNECTION, text)

    async def _on_disconnect(self) -> None:
        if not self._closing:
            log.warning("bus: disconnected from NATS; reconnecting")

    async def _on_reconnect(self) -> None:
        self.faults.recovered()
        log.info("bus: reconnected to NATS")
        for hook in self._reconnect_hooks:
            hook()

    async def _on_close(self) -> None:
        if not self._closing:
            log.critical("bus: the connection to NATS closed for good")
            if self._on_closed is not None:
                self._on_closed()


def _next_server(servers: list[Server], info: dict[str, Any]) -> tuple[Server, float]:
    """Reconnect to the server tried least, after a growing, jittered delay (a fleet must not return in step)."""
    server = min(servers, key=lambda candidate: candidate.reconnects)
    return server, min(2.0, 0.05 * 2 ** min(server.reconnects, 6)) * random.uniform(0.5, 1.0)


def _authentication(user: str, password: str, credentials: str) -> dict[str, str]:
    if not credentials:
        return {"user": user, "password": password} if user else {}
    if credentials.startswith("SU") and "/" not in credentials:
        return {"nkeys_seed_str": credentials}
    path = Path(credentials).expanduser()
    if not path.is_file():
        raise BusUnavailableError(
            f"bus.credentials: there is no file {path}; it is the path of a .creds or nkey seed file, or an nkey seed"
        )
    return {"user_credentials" if path.suffix == ".creds" else "nkeys_seed": str(path)}


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
