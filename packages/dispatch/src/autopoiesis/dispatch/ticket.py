"""One request on its way through this router."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from autopoiesis.dispatch.parties import NO_SESSION, NO_TENANT

if TYPE_CHECKING:
    from autopoiesis.dispatch.events import Arrival
    from autopoiesis.dispatch.models import ModelState
    from autopoiesis.dispatch.replicas import ReplicaState
    from autopoiesis.dispatch.workflows import WorkflowState


class Ticket:
    """State of one request from its arrival to its end. Times are on the clock of `now`."""

    __slots__ = (
        "adapter",
        "arrival",
        "attempts",
        "charged",
        "decode",
        "due",
        "event",
        "excused",
        "expected_output",
        "first_at",
        "fuel",
        "hold_until",
        "holds",
        "included",
        "key",
        "model",
        "no_replica_since",
        "nth",
        "prompt_tokens",
        "queued",
        "raw_tpot",
        "raw_ttft",
        "replica",
        "sent_at",
        "seq",
        "session",
        "tenant",
        "tokens",
        "uncached",
        "workflow",
    )

    def __init__(
        self, event: Arrival, seq: int, arrival: float, model: ModelState, prompt_tokens: int
    ) -> None:
        """`prompt_tokens` as estimated."""
        self.event = event
        self.seq = seq
        self.arrival = arrival
        self.model = model
        self.prompt_tokens = prompt_tokens
        self.expected_output = 0.0
        self.tenant = NO_TENANT
        self.session = NO_SESSION
        self.workflow: WorkflowState | None = None
        self.adapter = 0
        self.attempts = 0
        """Sends that failed."""
        self.excused = 0
        """Of them, those to replicas that were leaving: a change of the plan is no failure."""
        self.holds = 0
        self.fuel = 0
        self.queued = False
        self.key = 0.0
        self.hold_until = math.inf
        """When the fallback decides; inf before the first HOLD."""
        self.due = math.inf
        """The earliest timer that was set for it while it is queued."""
        self.no_replica_since: float | None = None
        self.replica: ReplicaState | None = None
        """Where it runs now."""
        self.decode: ReplicaState | None = None
        """Where it is to decode, if the policy said so when it was sent."""
        self.nth = 0
        self.sent_at = 0.0
        self.uncached = 0
        """Prompt tokens that the replica has to compute, as estimated at the send."""
        self.raw_ttft = 0.0
        self.raw_tpot = 0.0
        """Predictions at the send, before correction; 0 where none was made."""
        self.included = False
        """The replica's last heartbeat counts it."""
        self.first_at: float | None = None
        self.tokens = 0
        self.charged = 0
        """Output tokens that its tenant was charged so far."""
