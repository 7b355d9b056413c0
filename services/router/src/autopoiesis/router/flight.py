"""One client's request on its way: the way from the serving core to the HTTP answer, and what to remember of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, Protocol

import msgspec
from opentelemetry.trace import Span

from autopoiesis.contracts.messages.infer import Chunk, Finished
from autopoiesis.contracts.messages.telemetry import Outcome
from autopoiesis.dispatch.events import HandOver, Send
from autopoiesis.router.errors import ApiError
from autopoiesis.router.identity import Identity
from autopoiesis.router.intake import Intake
from autopoiesis.router.transports.port import Opening, Passage
from autopoiesis.router.upload import Upload

PING: Final = "ping"
"""Nothing to say yet, but the client's side must not time out."""

CROWDED: Final = 64
"""Items that wait for a slow client, beyond which the replica is held back where its transport can."""

Item = Chunk | Passage | Opening | Finished | ApiError | Literal["ping"]


_PLACE: Final = (
    *("ticket", "wire", "replica", "heard", "prompt_tokens", "priority", "prefill_only", "kv_transfer"),
    *("holds", "fuel", "epoch", "policy", "fallback", "refusal", "send_span"),
)
"""What a flight is elsewhere: its names there, where it runs, and who decided that."""


class Reader(Protocol):
    """The HTTP side of a flight."""

    def read(self, item: Item) -> None:
        """What comes next for the client; a Finished or an ApiError is the last. Neither waits nor raises."""


class Flight:
    """Filled by `Serving`; the HTTP side only reads items. Times are seconds on the clock of `Serving`."""

    arrival: float = 0.0
    arrival_unix: float = 0.0
    deadline: float = 0.0
    wire: str = ""
    """Its name at the replica; each attempt has another."""
    sent: float | None = None
    first_token: float | None = None
    last_token: float = 0.0
    last_item: float = 0.0
    heard: float = 0.0
    """When its replica last said anything of it; 0 if it has not."""
    output_tokens: int = 0
    untold: int = 0
    """Tokens of which the dispatcher does not know yet."""
    told: bool = False
    """It knows of the first token at this replica."""
    prompt_tokens: int = 0
    replica: str = ""
    attempts: int = 0
    holds: int = 0
    fuel: int = 0
    epoch: int = 0
    policy: str = ""
    fallback: bool = False
    priority: int = 0
    """In the engine's queue."""
    prefill_only: bool = False
    """Its replica only computes the prompt; another makes the answer."""
    kv_transfer: Any = None
    """Where the computed prompt is, for the replica that makes the answer: msgspec.Raw."""
    finished: Finished | None = None
    outcome: Outcome | None = None
    error: str = ""
    refusal: ApiError | None = None
    """What the last replica said that would not take it."""
    resumes: int = 0
    """How often it went on elsewhere because a replica failed; `moves` counts those that were retired as well."""
    moves: int = 0
    verbatim: bool = False
    """The client gets the server's own events, its last ones included."""
    on_room: Callable[[], None] | None = None
    """Set while the replica is held back."""
    span: Span | None = None
    send_span: Span | None = None
    held: bool = False
    """Its client takes nothing for now."""
    rival: Flight | None = None
    """The other attempt of the same request, while both run; whichever has a token first goes on."""
    upload: Upload | None = None
    """The body, where more of it comes than `body` holds."""
    shadow: bool = False
    """It is the second attempt, of which its client does not know."""

    def __init__(
        self,
        request_id: str,
        intake: Intake,
        identity: Identity,
        body: msgspec.Raw,
        max_tokens: int,
        block_hashes: tuple[int, ...] = (),
    ) -> None:
        self.request_id = request_id
        self.intake = intake
        self.identity = identity
        self.body = body
        self.max_tokens = max_tokens
        self.block_hashes = block_hashes
        self.ticket = request_id
        """Its name at the dispatcher; each time it goes on elsewhere it is a new arrival there."""
        self.resumable = intake.resumable
        """What the client has is known token by token, so that another replica can go on behind it."""
        self.token_ids: list[int] = []
        """What the client has."""
        self.reader: Reader | None = None
        self.unread: list[Item] = []

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

    @property
    def hedges(self) -> bool:
        """Whether another replica may try as well where its first token is late: it makes tokens, and nothing else comes of it."""
        return self.intake.stream and self.intake.endpoint in {"chat", "completions"} and not self.token_ids

    def decided(self, send: Send, now: float) -> None:
        """Remember where it was sent and why."""
        self.sent, self.heard = now, 0.0
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

    def second(self) -> Flight:
        """Another attempt of this request, in a race with this one."""
        shadow = Flight(
            f"{self.request_id}-hedge",
            self.intake,
            self.identity,
            self.body,
            self.max_tokens,
            self.block_hashes,
        )
        shadow.arrival, shadow.arrival_unix = self.arrival, self.arrival_unix
        shadow.deadline, shadow.last_item = self.deadline, self.last_item
        shadow.span, shadow.rival, shadow.shadow = self.span, self, True
        self.rival = shadow
        return shadow

    def trade(self, other: Flight) -> None:
        """Each goes on as what the other was to dispatcher and replica."""
        for name in _PLACE:
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, theirs)
            setattr(other, name, mine)

    def remember(self, chunk: Chunk) -> None:
        """Keep what the client gets by token ids, as long as they say all of it."""
        if chunk.delta is None and chunk.choice is None and len(chunk.token_ids) == chunk.tokens:
            self.token_ids += chunk.token_ids
        else:
            self.resumable = False

    @property
    def backlog(self) -> int:
        """Items that the client has not taken."""
        return len(self.unread)

    def push(self, item: Item, now: float) -> None:
        """Hand `item` to the HTTP side at time `now`, or keep it while that is held. Never blocks."""
        self.last_item = now
        if self.reader is None or self.held:
            self.unread.append(item)
        else:
            self.reader.read(item)

    def hold(self) -> None:
        """The client takes nothing more for now."""
        self.held = True

    def release(self) -> None:
        """The client takes what waits, and what comes."""
        self.held = False
        items = self.take()
        if self.reader is not None:
            for item in items:
                self.reader.read(item)

    def take(self) -> list[Item]:
        """All items that nobody has read."""
        items, self.unread = self.unread, []
        if self.on_room is not None:
            self.on_room()
            self.on_room = None
        return items
