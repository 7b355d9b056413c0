"""What travels where: one typed entry per subject.

`docs/subjects.md` and the NATS permissions are generated from this registry (`python -m autopoiesis.contracts.docs`).
"""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar

from autopoiesis.contracts.messages import fleet, infer, policy, telemetry, trace

M = TypeVar("M")

Delivery = Literal["core", "stream", "last", "work"]
"""core: at most once, now. stream: kept and replayable. last: kept, newest per subject. work: kept until one consumer acks."""

Service = Literal["router", "planner", "worker", "observer", "synthesizer", "evaluator"]

_TOKEN = re.compile(r"[A-Za-z0-9_-]+")
_FIELD = re.compile(r"\{(\w+)\}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")

ROUTER_INBOX: Final = "_INBOX.router"
"""Prefix of every router's reply subjects: `_INBOX.router.<router>.<request>`."""


def slug(name: str) -> str:
    """A subject token for any name, `Qwen/Qwen3-8B` for instance; distinct names give distinct tokens."""
    if _TOKEN.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{_UNSAFE.sub('-', name).strip('-')}-{digest}"


@dataclass(frozen=True)
class Stream:
    """A JetStream stream that keeps one or more subjects."""

    name: str
    retention: Literal["limits", "workqueue"]
    max_age_s: float
    max_bytes: int
    per_subject: int = -1
    """Messages kept per subject, -1 for all."""
    duplicate_window_s: float = 120.0


@dataclass(frozen=True)
class Subject(Generic[M]):
    """A subject, the message it carries, how it is delivered and who speaks and listens."""

    pattern: str
    message: Any
    delivery: Delivery
    owner: Service
    """The service whose words these are; it publishes."""
    listeners: tuple[Service, ...]
    about: str
    stream: Stream | None = None
    publishers: tuple[Service, ...] = field(default=())
    """Other services that may publish."""
    live: tuple[Service, ...] = field(default=())
    """Listeners who hear a stream's messages as they are published, without reading the stream."""

    def at(self, **tokens: str) -> str:
        """The concrete subject; every token of the pattern must be given and be one NATS token (see `slug`)."""
        wanted = self.tokens
        if set(tokens) != set(wanted):
            raise ValueError(
                f"{self.pattern} needs {', '.join(wanted) or 'no tokens'}; got {', '.join(tokens) or 'none'}"
            )
        for name, value in tokens.items():
            if not _TOKEN.fullmatch(value):
                raise ValueError(f"{name}={value!r} cannot be a subject token; use slug({value!r})")
        return _FIELD.sub(lambda m: tokens[m[1]], self.pattern)

    def wildcard(self, **tokens: str) -> str:
        """The subscription that matches every concrete subject, with the given tokens fixed."""
        return _FIELD.sub(lambda m: tokens.get(m[1], "*"), self.pattern)

    @property
    def tokens(self) -> tuple[str, ...]:
        return tuple(_FIELD.findall(self.pattern))


HOUR, DAY = 3600.0, 86400.0
MIB: Final = 1 << 20

TELEMETRY = Stream("telemetry", "limits", max_age_s=DAY, max_bytes=1024 * MIB)
STEPS = Stream("steps", "limits", max_age_s=6 * HOUR, max_bytes=256 * MIB)
TRACES = Stream("traces", "limits", max_age_s=30 * DAY, max_bytes=64 * MIB)
PROPOSALS = Stream("proposals", "workqueue", max_age_s=DAY, max_bytes=256 * MIB)
POLICY_EVENTS = Stream("policy-events", "limits", max_age_s=90 * DAY, max_bytes=256 * MIB)
ACTIVATIONS = Stream("activations", "limits", max_age_s=0.0, max_bytes=64 * MIB, per_subject=1)
LEASES = Stream("leases", "limits", max_age_s=0.0, max_bytes=MIB, per_subject=1)
DESIRED = Stream("desired", "limits", max_age_s=0.0, max_bytes=64 * MIB, per_subject=1)
PLANS = Stream("plans", "limits", max_age_s=90 * DAY, max_bytes=64 * MIB)
PLAN_STEPS = Stream("plan-steps", "limits", max_age_s=6 * HOUR, max_bytes=64 * MIB)

STREAMS: Final = (
    TELEMETRY,
    STEPS,
    TRACES,
    PROPOSALS,
    POLICY_EVENTS,
    ACTIVATIONS,
    LEASES,
    DESIRED,
    PLANS,
    PLAN_STEPS,
)

GENERATE: Subject[infer.Generate] = Subject(
    "infer.{replica}",
    infer.Generate,
    "core",
    "router",
    ("worker",),
    "run one request; answers go to the reply inbox",
)
CANCEL: Subject[infer.Cancel] = Subject(
    "infer.{replica}.cancel",
    infer.Cancel,
    "core",
    "router",
    ("worker",),
    "the client left or the deadline passed",
)
HEARTBEAT: Subject[fleet.Heartbeat] = Subject(
    "fleet.heartbeat.{node}.{replica}",
    fleet.Heartbeat,
    "core",
    "worker",
    ("router", "planner", "observer"),
    "state of one replica, every 250 ms; of servers attached to a router, by that router",
    publishers=("router",),
)
NODE: Subject[fleet.NodeInventory] = Subject(
    "fleet.node.{node}", fleet.NodeInventory, "core", "worker", ("planner", "observer"), "what a machine has"
)
DESIRED_STATE: Subject[fleet.DesiredState] = Subject(
    "fleet.desired.{node}",
    fleet.DesiredState,
    "last",
    "planner",
    ("worker", "planner"),
    "all that should run on a node",
    DESIRED,
)
PLANNER_LEASE: Subject[fleet.PlannerLease] = Subject(
    "fleet.lease.{scope}",
    fleet.PlannerLease,
    "last",
    "planner",
    ("planner",),
    "which planner decides; written only over the message its writer has read",
    LEASES,
)
PLAN_CHANGED: Subject[fleet.PlanChanged] = Subject(
    "plan.changed.{scope}",
    fleet.PlanChanged,
    "stream",
    "planner",
    ("observer",),
    "what changed and why",
    PLANS,
)
PLAN_OBSERVED: Subject[fleet.PlanObserved] = Subject(
    "plan.observed.{scope}",
    fleet.PlanObserved,
    "stream",
    "planner",
    ("observer",),
    "what the planner saw at a monitoring step",
    PLAN_STEPS,
)
REQUEST_TELEMETRY: Subject[telemetry.RequestBatch] = Subject(
    "telemetry.request.{router}",
    telemetry.RequestBatch,
    "stream",
    "router",
    ("observer", "evaluator"),
    "one record per arrival, batched",
    TELEMETRY,
    live=("planner",),
)
STEP_TELEMETRY: Subject[telemetry.StepBatch] = Subject(
    "telemetry.step.{replica}",
    telemetry.StepBatch,
    "stream",
    "worker",
    ("observer",),
    "sampled engine steps",
    STEPS,
)
SNAPSHOT: Subject[trace.SnapshotReady] = Subject(
    "trace.snapshot.{scope}",
    trace.SnapshotReady,
    "stream",
    "observer",
    ("synthesizer", "evaluator"),
    "a new window's names",
    TRACES,
)
DRIFTED: Subject[trace.Drifted] = Subject(
    "trace.drifted.{scope}",
    trace.Drifted,
    "stream",
    "observer",
    ("synthesizer", "evaluator"),
    "the workload moved",
    TRACES,
)
PROPOSED: Subject[policy.Proposed] = Subject(
    "policy.proposed.{scope}.{kind}",
    policy.Proposed,
    "work",
    "synthesizer",
    ("evaluator",),
    "a candidate to prove",
    PROPOSALS,
)
EVALUATED: Subject[policy.Judgement] = Subject(
    "policy.evaluated.{scope}.{kind}",
    policy.Judgement,
    "stream",
    "evaluator",
    ("synthesizer", "observer"),
    "a candidate that passed, with its numbers",
    POLICY_EVENTS,
)
REJECTED: Subject[policy.Judgement] = Subject(
    "policy.rejected.{scope}.{kind}",
    policy.Judgement,
    "stream",
    "evaluator",
    ("synthesizer", "observer"),
    "a candidate that did not, and why",
    POLICY_EVENTS,
)
FAULTED: Subject[policy.Faulted] = Subject(
    "policy.faulted.{scope}.{kind}",
    policy.Faulted,
    "stream",
    "router",
    ("evaluator", "observer"),
    "the active policy raised, ran out of fuel, or answered nonsense",
    POLICY_EVENTS,
    publishers=("planner",),
)
PROMOTED: Subject[policy.Activation] = Subject(
    "policy.promoted.{scope}.{kind}",
    policy.Activation,
    "last",
    "evaluator",
    ("router", "planner", "observer", "synthesizer"),
    "an activation, whole, source included",
    ACTIVATIONS,
)
ROLLED_BACK: Subject[policy.Activation] = Subject(
    "policy.rolled_back.{scope}.{kind}",
    policy.Activation,
    "last",
    "evaluator",
    ("router", "planner", "observer", "synthesizer"),
    "an activation that goes back to an earlier policy",
    ACTIVATIONS,
)

REGISTRY: Final[tuple[Subject[Any], ...]] = (
    GENERATE,
    CANCEL,
    HEARTBEAT,
    NODE,
    PLANNER_LEASE,
    DESIRED_STATE,
    PLAN_CHANGED,
    PLAN_OBSERVED,
    REQUEST_TELEMETRY,
    STEP_TELEMETRY,
    SNAPSHOT,
    DRIFTED,
    PROPOSED,
    EVALUATED,
    REJECTED,
    FAULTED,
    PROMOTED,
    ROLLED_BACK,
)


def streams_of(service: Service) -> tuple[Stream, ...]:
    """The streams a service publishes to or listens to: those its NATS user may make and read."""
    subjects = (s for s in REGISTRY if service in (s.owner, *s.publishers, *s.listeners))
    return tuple(dict.fromkeys(s.stream for s in subjects if s.stream is not None))
