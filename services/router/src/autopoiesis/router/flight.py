"""One client's request on its way: the mailbox between the serving core and the HTTP answer, and what to remember of it."""

from __future__ import annotations

import asyncio
from typing import Final, Literal

import msgspec
from opentelemetry.trace import Span

from autopoiesis.contracts.messages.infer import Chunk, Finished
from autopoiesis.contracts.messages.telemetry import Outcome
from autopoiesis.dispatch.events import Send
from autopoiesis.router.errors import ApiError
from autopoiesis.router.identity import Identity
from autopoiesis.router.intake import Intake

PING: Final = "ping"
"""Nothing to say yet, but the client's side must not time out."""

Item = Chunk | Finished | ApiError | Literal["ping"]


class Flight:
    """Filled by `Serving`; the HTTP side only takes items. Times are seconds on the clock of `Serving`."""

    __slots__ = (
        "_items",
        "_waiter",
        "arrival",
        "arrival_unix",
        "attempts",
        "block_hashes",
        "body",
        "deadline",
        "epoch",
        "error",
        "fallback",
        "finished",
        "first_token",
        "fuel",
        "holds",
        "identity",
        "intake",
        "last_item",
        "last_token",
        "max_tokens",
        "outcome",
        "output_tokens",
        "policy",
        "prompt_tokens",
        "replica",
        "request_id",
        "send_span",
        "sent",
        "span",
        "wire",
    )

    def __init__(
        self,
        request_id: str,
        intake: Intake,
        identity: Identity,
        body: msgspec.Raw,
        *,
        max_tokens: int,
        block_hashes: tuple[int, ...] = (),
    ) -> None:
        self.request_id = request_id
        self.intake = intake
        self.identity = identity
        self.body = body
        self.max_tokens = max_tokens
        self.block_hashes = block_hashes
        self.arrival = 0.0
        self.arrival_unix = 0.0
        self.deadline = 0.0
        self.wire = ""
        self.sent: float | None = None
        self.first_token: float | None = None
        self.last_token = 0.0
        self.last_item = 0.0
        self.output_tokens = 0
        self.prompt_tokens = 0
        self.replica = ""
        self.attempts = 0
        self.holds = 0
        self.fuel = 0
        self.epoch = 0
        self.policy = ""
        self.fallback = False
        self.finished: Finished | None = None
        self.outcome: Outcome | None = None
        self.error = ""
        self.span: Span | None = None
        self.send_span: Span | None = None
        self._items: list[Item] = []
        self._waiter: asyncio.Future[None] | None = None

    @property
    def open(self) -> bool:
        """Whether the answer has not ended."""
        return self.outcome is None

    def decided(self, send: Send, now: float) -> None:
        """Remember where it was sent and why. Each attempt has a name of its own on the wire, `wire`."""
        self.sent = now
        self.wire = self.request_id if send.attempt == 1 else f"{self.request_id}-{send.attempt}"
        self.replica = send.replica
        self.prompt_tokens = send.prompt_tokens
        self.attempts = send.attempt
        self.holds = send.holds
        self.fuel = send.fuel
        self.epoch = send.epoch
        self.policy = send.policy
        self.fallback = send.fallback

    def push(self, item: Item, now: float) -> None:
        """Hand `item` to the HTTP side at time `now`. Never blocks."""
        self.last_item = now
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> list[Item]:
        """All items since the last call, at least one; the last of all is a Finished or an ApiError."""
        if not self._items:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        items, self._items = self._items, []
        return items
