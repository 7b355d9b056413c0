"""What became of every arrival of one run, and of every replica."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from autopoiesis.contracts.messages.fleet import ReplicaState

OPEN: Final = 0
FINISHED: Final = 1
REJECTED: Final = 2
FAILED: Final = 3
ABANDONED: Final = 4
EXPIRED: Final = 5
UNFINISHED: Final = 6
OUTCOMES: Final = ("open", "finished", "rejected", "failed", "abandoned", "expired", "unfinished")
"""Names of the outcome codes. Only `finished` can meet an objective."""


class Rows:
    """Columns as lists, one entry per arrival of the trace. Times are absolute seconds of the run, NaN where there is none."""

    __slots__ = (
        "arrived",
        "attempts",
        "ended",
        "fallback",
        "first",
        "fuel",
        "holds",
        "outcome",
        "replica",
        "sent",
        "started",
        "tokens",
        "transfer_s",
    )

    def __init__(self, rows: int) -> None:
        nan = math.nan
        self.arrived = [nan] * rows
        self.sent = [nan] * rows
        self.started = [nan] * rows
        """When the engine that gave the first token began with the prompt."""
        self.first = [nan] * rows
        self.ended = [nan] * rows
        self.outcome = [OPEN] * rows
        self.replica = [-1] * rows
        self.attempts = [0] * rows
        self.holds = [0] * rows
        self.fuel = [0] * rows
        self.fallback = [False] * rows
        self.tokens = [0] * rows
        self.transfer_s = [0.0] * rows
        """Of its KV cache from the replica that computed the prompt, waiting for the link included."""


@dataclass(slots=True, kw_only=True)
class ReplicaTotals:
    """One replica over the whole run. Tokens, seconds."""

    name: str
    gpu: str
    tp: int
    price: float
    present_s: float
    """For so long it held its GPUs, loading included."""
    loading_s: float
    busy_s: float
    steps: int
    layer_tokens: int
    kv_tokens_read: int
    kv_capacity_tokens: int
    kv_peak_tokens: int
    tokens_out: int
    preemptions: int
    prefix_queries: int
    prefix_hits: int
    bound_s: float
    """Least time that ideal hardware needs for the same steps."""
    gaps: dict[int, int] = field(default_factory=dict)
    """Inter-token gaps, counted in the replica's logarithmic bins."""
    history: tuple[tuple[float, ReplicaState], ...] = ()
    """Its states and when each began, seconds on the clock of the arrivals."""


class Move(NamedTuple):
    """From `at` seconds on there are to be `counts` replicas by (GPU type, tensor parallelism, role)."""

    at: float
    counts: dict[tuple[str, int, str], int]


@dataclass(slots=True)
class PlanTotals:
    """What a plan policy did over the whole run."""

    steps: int = 0
    reschedules: int = 0
    scheduling_s: float = 0.0
    """Charged for its own time."""
    fuel: int = 0
    moves: list[Move] = field(default_factory=list)
    """Each plan that was not the one in force, in order."""
    faults: dict[str, int] = field(default_factory=dict)

    def fault(self, what: str) -> None:
        self.faults[what] = self.faults.get(what, 0) + 1


@dataclass(slots=True, kw_only=True)
class Outcome:
    """One world's run."""

    rows: Rows
    replicas: list[ReplicaTotals]
    ended_at: float
    faults: dict[str, int]
    """What the active policy did wrong, by fault."""
    quarantined: bool
    decisions: int
    """Answers of `route` that led to a send or a refusal."""
    replica_names: list[str]
    replica_gpus: list[str]
    plan: PlanTotals | None = None
