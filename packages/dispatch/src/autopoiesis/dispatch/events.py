"""What goes into the dispatcher and what comes out.

Events are facts with the time they became known; actions are orders to whoever owns the wires (the router) or the clock
(the simulator). Plain data: a recorded list of events replays to identical actions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from autopoiesis.contracts.messages.fleet import Heartbeat
from autopoiesis.contracts.messages.infer import FailureCode
from autopoiesis.contracts.messages.policy import Activation


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A request reached this router. `request_id` is unique; the dispatcher numbers arrivals itself."""

    request_id: str
    model: str
    prompt_bytes: int
    max_tokens: int
    """The client's limit or the model's: an upper bound, never the true length."""
    priority: int = 0
    klass: str = ""
    tenant: str = ""
    session: str = ""
    workflow: str = ""
    adapter: str = ""
    modality: int = 0
    ttft_slo: float = math.inf
    tpot_slo: float = math.inf
    deadline: float = math.inf
    """Absolute, on the clock of `now`."""
    block_hashes: tuple[int, ...] = ()
    """Rolling hashes of the prompt's blocks of `DispatchSettings.block_tokens` tokens."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat arrived."""

    heartbeat: Heartbeat


@dataclass(frozen=True, slots=True)
class ReplicaGone:
    """A send met no responder, a connection ended, or the node said goodbye: known at once, not by missed heartbeats."""

    replica: str
    reason: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """`count` more tokens of a request reached this router; the first such event is the first token."""

    request_id: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The replica ended a request. `code` is none where it finished."""

    request_id: str
    code: FailureCode | None = None
    prompt_tokens: int = 0
    """The engine's count, 0 where it did not say."""
    output_tokens: int = 0
    cached_tokens: int = 0
    natural: bool = True
    """The model stopped by itself: the length is the true one, not cut by a limit."""


@dataclass(frozen=True, slots=True)
class Left:
    """The client went away."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Activated:
    """An activation arrived; epochs at or below the one in force are ignored."""

    activation: Activation
    force: bool = False
    """Applied whatever its epoch: an operator pinned a policy on this router, or removed the pin."""


@dataclass(frozen=True, slots=True)
class Wake:
    """`Dispatcher.next_wake` has passed."""


Event = Arrival | Beat | ReplicaGone | Tokens | Ended | Left | Activated | Wake


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send the request to `replica`; `nth` goes into `Generate.nth`."""

    request_id: str
    replica: str
    nth: int
    prompt_tokens: int
    """The estimate that the decision used."""
    priority: int = 0
    decode: str = ""
    """Replica that decodes, where prefill and decode are apart."""
    attempt: int = 1
    epoch: int = 0
    policy: str = ""
    fallback: bool = False
    holds: int = 0
    fuel: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Answer the client now; nothing was sent to it yet. The request is over for the dispatcher."""

    request_id: str
    reason: Literal["rejected", "queue_full", "no_replica", "deadline"]
    """429 for the first two, 503 for no_replica, 504 for deadline."""
    message: str
    retry_after: float
    epoch: int = 0
    policy: str = ""
    holds: int = 0
    fuel: int = 0


@dataclass(frozen=True, slots=True)
class Abort:
    """Tell `replica` to stop generating."""

    request_id: str
    replica: str
    code: FailureCode


@dataclass(frozen=True, slots=True)
class Lost:
    """The replica failed under a request that cannot be sent again (tokens are out, or attempts are used up)."""

    request_id: str
    replica: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The active policy raised, ran out of fuel or answered nonsense; the fallback decided instead."""

    hash: str
    epoch: int
    fault: str
    line: int = 0
    strikes: int = 1
    quarantined: bool = False


@dataclass(frozen=True, slots=True)
class Swapped:
    """A new policy decides from here on."""

    hash: str
    epoch: int
    refused: str = ""
    """Not empty: the source did not verify here and the former policy stays; why."""


Action = Send | Refuse | Abort | Lost | Fault | Swapped
