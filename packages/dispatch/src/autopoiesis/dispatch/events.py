"""What goes into the dispatcher and what comes out.

Events are facts with the time they became known; actions are orders to whoever owns the wires (the router) or the clock
(the simulator). Plain data: a recorded list of events replays to identical actions. Structs rather than frozen dataclasses,
because those cost fifteen times as much to make.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from autopoiesis.contracts.messages.fleet import Heartbeat
from autopoiesis.contracts.messages.infer import FailureCode
from autopoiesis.contracts.messages.policy import Activation


class Arrival(msgspec.Struct, frozen=True, gc=False, tag=True, kw_only=True):
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
    begun: bool = False
    """Its client has the beginning of the answer: it is not turned away any more."""
    moved: bool = False
    """Its replica was retired under it: it waits for another one until its deadline, however long there is none."""


class Beat(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A heartbeat arrived."""

    heartbeat: Heartbeat


class ReplicaGone(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A send met no responder, a connection ended, or the node said goodbye: known at once, not by missed heartbeats."""

    replica: str
    reason: str


class Tokens(msgspec.Struct, frozen=True, gc=False, tag=True):
    """`count` more tokens of a request reached this router; the first such event is the first token."""

    request_id: str
    count: int


class Ended(msgspec.Struct, frozen=True, gc=False, tag=True, kw_only=True):
    """The replica ended a request. `code` is none where it finished."""

    request_id: str
    code: FailureCode | None = None
    prompt_tokens: int = 0
    """The engine's count, 0 where it did not say."""
    output_tokens: int = 0
    cached_tokens: int = 0
    natural: bool = True
    """The model stopped by itself: the length is the true one, not cut by a limit."""
    first_token_s: float = 0.0
    """Seconds from the send to the first token, for answers that came whole, without `Tokens` before."""


class Bounced(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The replica did not take the request (it drains, it lost its engine, its own queue is full); nothing was produced.

    Unlike `Ended` this is not the end: the dispatcher answers with another `Send`, holds the request, or says `Lost`.
    """

    request_id: str
    reason: str
    leaving: bool = False
    """The replica was told to go; that may be known before its heartbeat says so."""


class Left(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The client went away."""

    request_id: str


class Activated(msgspec.Struct, frozen=True, gc=False, tag=True):
    """An activation arrived; epochs at or below the one in force are ignored."""

    activation: Activation
    force: bool = False
    """Applied whatever its epoch: an operator pinned a policy on this router, or removed the pin."""


class Wake(msgspec.Struct, frozen=True, gc=False, tag=True):
    """`Dispatcher.next_wake` has passed."""


class Prefilled(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A replica that only computes prompts is done with this one.

    Its first token came before (the simulator's replicas), or comes from the replica that decodes (vLLM's).
    """

    request_id: str


Event = Arrival | Beat | ReplicaGone | Tokens | Ended | Bounced | Left | Activated | Wake | Prefilled


class Send(msgspec.Struct, frozen=True, gc=False, tag=True, kw_only=True):
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


class Refuse(msgspec.Struct, frozen=True, gc=False, tag=True, kw_only=True):
    """Answer the client now; nothing was sent to it yet. The request is over for the dispatcher."""

    request_id: str
    reason: Literal["rejected", "queue_full", "overloaded", "no_replica", "deadline"]
    """429 for the first three, 503 for no_replica, 504 for deadline."""
    message: str
    retry_after: float
    epoch: int = 0
    policy: str = ""
    holds: int = 0
    fuel: int = 0


class Abort(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Tell `replica` to stop generating."""

    request_id: str
    replica: str
    code: FailureCode


class Lost(msgspec.Struct, frozen=True, gc=False, tag=True):
    """The replica failed under a request that cannot be sent again (tokens are out, or attempts are used up)."""

    request_id: str
    replica: str
    reason: str


class Fault(msgspec.Struct, frozen=True, gc=False, tag=True, kw_only=True):
    """The active policy raised, ran out of fuel or answered nonsense; the fallback decided instead."""

    hash: str
    epoch: int
    fault: str
    line: int = 0
    strikes: int = 1
    quarantined: bool = False


class Swapped(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A new policy decides from here on."""

    hash: str
    epoch: int
    refused: str = ""
    """Not empty: the source did not verify here and the former policy stays; why."""


class HandOver(msgspec.Struct, frozen=True, gc=False, tag=True, kw_only=True):
    """Move the KV cache of a computed prompt from `source` to `replica`, which goes on; equal where it stays."""

    request_id: str
    source: str
    replica: str
    nth: int
    """Counts among the sends to `replica`."""
    fallback: bool = False
    fuel: int = 0


Action = Send | Refuse | Abort | Lost | Fault | Swapped | HandOver
