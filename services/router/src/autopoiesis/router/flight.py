"""One client's request on its way: the way from the serving core to the HTTP answer, and what to remember of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, Protocol

import msgspec
from opentelemetry.trace import Span

from autopoiesis.contracts.messages.infer import Chunk, Finished
from autopoiesis.contracts.messages.telemetry import Outcome
from autopoiesis.dispatch.events import HandOver, Send
from autopoiesis.router.errors import ApiError
from autopoiesis.router.identity import Identity
from autopoiesis.router.intake import Intake
from autopoiesis.router.transports.port import Passage

PING: Final = "ping"
"""Nothing to say yet, but the client's side must not time out."""

CROWDED: Final = 64
"""Items that wait for a slow client, beyond which the replica is held back where its transport can."""

Item = Chunk | Passage | Finished | ApiError | Literal["ping"]


class Reader(Protocol):
    """The HTTP side of a flight."""

    def read(self, item: Item) -> None:
        """What comes next for the client; a Finished or an ApiError is the last. Neither waits nor raises."""


class Flight:
    """Filled by `Serving`; the HTTP side only reads items. Times are seconds on the clock of `Serving`."""

    __slots__ = (
        "_held",
        "_items",
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
        "kv_transfer",
        "last_item",
        "last_token",
        "max_tokens",
        "on_room",
        "outcome",
        "output_tokens",
        "policy",
        "prefill_only",
        "priority",
        "prompt_tokens",
        "reader",
        "refusal",
        "replica",
        "request_id",
        "resumable",
        "resumes",
        "send_span",
        "sent",
        "span",
        "ticket",
        "token_ids",
        "told",
        "untold",
        "verbatim",
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
        self.arrival = self.arrival_unix = self.deadline = 0.0
        self.ticket = request_id
        """Its name at the dispatcher; each time it goes on elsewhere it is a new arrival there."""
        self.wire = ""
        """Its name at the replica; each attempt has another."""
        self.sent: float | None = None
        self.first_token: float | None = None
        self.last_token = 0.0
        self.last_item = 0.0
        self.output_tokens = 0
        self.untold = 0
        """Tokens of which the dispatcher does not know yet."""
        self.told = False
        """It knows of the first token at this replica."""
        self.prompt_tokens = 0
        self.replica = ""
        self.attempts = self.holds = self.fuel = self.epoch = 0
        self.policy = ""
        self.fallback = False
        self.priority = 0
        """In the engine's queue."""
        self.prefill_only = False
        """Its replica only computes the prompt; another makes the answer."""
        self.kv_transfer: msgspec.Raw | None = None
        """Where the computed prompt is, for the replica that makes the answer."""
        self.finished: Finished | None = None
        self.outcome: Outcome | None = None
        self.error = ""
        self.refusal: ApiError | None = None
        """What the last replica said that would not take it."""
        self.resumable = intake.resumable
        """What the client has is known token by token, so that another replica can go on behind it."""
        self.resumes = 0
        self.token_ids: list[int] = []
        """What the client has."""
        self.verbatim = False
        """The client gets the server's own events, its last ones included."""
        self.on_room: Callable[[], None] | None = None
        """Set while the replica is held back."""
        self.span: Span | None = None
        self.send_span: Span | None = None
        self.reader: Reader | None = None
        self._held = False
        self._items: list[Item] = []

    @property
    def open(self) -> bool:
        """Whether the answer has not ended."""
        return self.outcome is None

    @property
    def splits(self) -> bool:
        """Whether one replica can compute its prompt and another go on."""
        intake = self.intake
        return (
            intake.endpoint != "passthrough"
            and intake.n == intake.prompts == 1
            and self.max_tokens > len(self.token_ids) + 1
        )

    def decided(self, send: Send, now: float) -> None:
        """Remember where it was sent and why."""
        self.sent = now
        self.attempts += 1
        self.wire = self.request_id if self.attempts == 1 else f"{self.request_id}-{self.attempts}"
        self.replica = send.replica
        self.prompt_tokens = send.prompt_tokens
        self.holds = send.holds
        self.fuel = send.fuel
        self.epoch = send.epoch
        self.policy = send.policy
        self.fallback = send.fallback
        self.priority = send.priority
        self.kv_transfer = None

    def handed_over(self, order: HandOver) -> None:
        """Its prompt is computed; `order.replica` goes on under another name."""
        self.wire += "-decode"
        self.replica = order.replica
        self.fallback = order.fallback
        self.fuel = order.fuel
        self.prefill_only = False
        if order.replica == order.source:  # nobody else is there; it has the cache itself
            self.kv_transfer = None

    def remember(self, chunk: Chunk) -> None:
        """Keep what the client gets by token ids, as long as they say all of it."""
        if chunk.delta is None and chunk.choice is None and len(chunk.token_ids) == chunk.tokens:
            self.token_ids += chunk.token_ids
        else:
            self.resumable = False

    @property
    def backlog(self) -> int:
        """Items that the client has not taken."""
        return len(self._items)

    def push(self, item: Item, now: float) -> None:
        """Hand `item` to the HTTP side at time `now`, or keep it while that is held. Never blocks."""
        self.last_item = now
        if self.reader is None or self._held:
            self._items.append(item)
        else:
            self.reader.read(item)

    def hold(self) -> None:
        """The client takes nothing more for now."""
        self._held = True

    def release(self) -> None:
        """The client takes what waits, and what comes."""
        self._held = False
        items = self.take()
        if self.reader is not None:
            for item in items:
                self.reader.read(item)

    def take(self) -> list[Item]:
        """All items that nobody has read."""
        items, self._items = self._items, []
        if self.on_room is not None:
            self.on_room()
            self.on_room = None
        return items
