"""One request on its way through this router."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from autopoiesis.dispatch.parties import NO_SESSION, NO_TENANT, Party

if TYPE_CHECKING:
    from autopoiesis.dispatch.events import Arrival
    from autopoiesis.dispatch.models import ModelState
    from autopoiesis.dispatch.replicas import ReplicaState
    from autopoiesis.dispatch.workflows import WorkflowState


class Ticket(msgspec.Struct, eq=False):
    """State of one request from its arrival to its end. Times are on the clock of `now`.

    A struct, because its many defaults then cost nothing to set.
    """

    event: Arrival
    seq: int
    arrival: float
    model: ModelState
    prompt_tokens: int
    """As estimated."""
    expected_output: float = 0.0
    tenant: Party = NO_TENANT
    session: Party = NO_SESSION
    workflow: WorkflowState | None = None
    adapter: int = 0
    attempts: int = 0
    """Sends that failed."""
    excused: int = 0
    """Of them, those to replicas that were leaving: a change of the plan is no failure."""
    holds: int = 0
    fuel: int = 0
    queued: bool = False
    key: float = 0.0
    hold_until: float = math.inf
    """When the fallback decides; inf before the first HOLD."""
    due: float = math.inf
    """The earliest timer that was set for it while it is queued."""
    no_replica_since: float | None = None
    replica: ReplicaState | None = None
    """Where it runs now."""
    decode: ReplicaState | None = None
    """Where it is to decode, if the policy said so when it was sent."""
    nth: int = 0
    sent_at: float = 0.0
    uncached: int = 0
    """Prompt tokens that the replica has to compute, as estimated at the send."""
    raw_ttft: float = 0.0
    raw_tpot: float = 0.0
    """Predictions at the send, before correction; 0 where none was made."""
    included: bool = False
    """The replica's last heartbeat counts it."""
    first_at: float | None = None
    tokens: int = 0
    charged: int = 0
    """Output tokens that its tenant was charged so far."""
