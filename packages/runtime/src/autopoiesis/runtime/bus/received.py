"""A message as handlers see it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from nats.aio.msg import Msg

from autopoiesis.contracts.codec import decode
from autopoiesis.contracts.subjects import Subject

M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)
NO_HEADERS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Received(Generic[M_co]):
    """A decoded message and the envelope it came in."""

    message: M_co
    subject: str
    """The concrete subject."""
    pattern: str
    reply: str
    headers: Mapping[str, str]

    @property
    def sequence_read(self) -> int:
        """Position in its stream of a message that was read from there (`Bus.last`), 0 of one that was heard."""
        return int(self.headers.get("Nats-Sequence", 0))

    @property
    def tokens(self) -> dict[str, str]:
        """The pattern's tokens in this subject: ``{"replica": "r1"}`` for ``infer.{replica}`` and ``infer.r1``."""
        pairs = zip(self.pattern.split("."), self.subject.split("."), strict=True)
        return {name[1:-1]: value for name, value in pairs if name.startswith("{")}


@dataclass(frozen=True, slots=True)
class Delivered(Received[M_co]):
    """A message of a stream, to be acknowledged."""

    stream: str
    sequence: int
    """Position in the stream: the same at every redelivery."""
    deliveries: int
    """How often it was delivered, this time included."""
    _answer: Callable[["Delivered[Any]", bytes], Awaitable[None]] = field(repr=False)

    async def ack(self) -> None:
        """Done with it. Fire-and-forget: a lost acknowledgement means a redelivery, so handlers are idempotent."""
        await self._answer(self, Msg.Ack.Ack)

    async def nak(self, delay: float) -> None:
        """Deliver it again after `delay` seconds."""
        await self._answer(self, b'%s {"delay": %d}' % (Msg.Ack.Nak, int(delay * 1e9)))

    async def terminate(self) -> None:
        """Never deliver it again."""
        await self._answer(self, Msg.Ack.Term)

    async def in_progress(self) -> None:
        """Restart the time allowed for acknowledging it."""
        await self._answer(self, Msg.Ack.Progress)


def received(subject: Subject[M], msg: Msg) -> Received[M]:
    """Raises ContractError when the payload is not the subject's message."""
    message: M = decode(subject.message, msg.data, where=msg.subject)
    return Received(message, msg.subject, subject.pattern, msg.reply, msg.headers or NO_HEADERS)


def delivered(
    subject: Subject[M], msg: Msg, answer: Callable[[Delivered[Any], bytes], Awaitable[None]]
) -> Delivered[M]:
    """Raises ContractError when the payload is not the subject's message."""
    plain = received(subject, msg)
    meta = msg.metadata
    return Delivered(
        plain.message,
        plain.subject,
        plain.pattern,
        plain.reply,
        plain.headers,
        stream=meta.stream,
        sequence=meta.sequence.stream,
        deliveries=meta.num_delivered,
        _answer=answer,
    )
