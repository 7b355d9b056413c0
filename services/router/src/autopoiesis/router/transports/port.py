"""The port between the serving core and whatever carries requests to replicas."""

from __future__ import annotations

from typing import Protocol

import msgspec

from autopoiesis.contracts.messages.infer import FailureCode, Generate, Reply
from autopoiesis.router.errors import ApiError
from autopoiesis.router.upload import Upload


class Passage(msgspec.Struct, frozen=True, gc=False):
    """Whole events of a server's own stream, to be handed on as they are."""

    events: bytes
    tokens: int


class Opening(msgspec.Struct, frozen=True, gc=False):
    """How the server's own answer to a relayed request begins; its body follows as passages."""

    status: int
    content_type: str


class Replies(Protocol):
    """What a transport calls back, on the event loop, in the order in which replies were sent.

    `wire` is the `Generate.request_id` that was sent.
    """

    def on_reply(self, wire: str, reply: Reply | Passage | Opening) -> None: ...

    def on_broken(self, wire: str, error: ApiError) -> None:
        """Nothing more comes that could be trusted."""

    def on_gone(self, wire: str, replica: str, reason: str) -> None:
        """Nobody answers for `replica`."""


class Transport(Protocol):
    """Sends requests and hands every reply to `Replies`. No method waits or raises."""

    @property
    def connected(self) -> bool:
        """Whether the bus is."""

    @property
    def direct_ready(self) -> bool:
        """Whether a replica is ready that needs no bus."""

    def send(
        self, replica: str, generate: Generate, headers: dict[str, str], upload: Upload | None = None
    ) -> None:
        """Send, with `upload` in the place of the body if there is one; what goes wrong comes through `Replies`."""

    def cancel(self, wire: str, reason: FailureCode) -> None:
        """Ask the replica to stop, and forget the request."""

    def close(self, wire: str) -> None:
        """Forget the request: replies that still come are dropped."""

    def pause(self, wire: str) -> None:
        """Its client does not keep up: bring no more for now, where the transport can hold it back."""

    def resume(self, wire: str) -> None: ...
