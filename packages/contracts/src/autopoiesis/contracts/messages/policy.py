"""The life of a policy: proposed, judged, promoted, faulted, rolled back."""

from typing import Literal

import msgspec

Kind = Literal["dispatch", "plan"]
Origin = Literal["library", "llm", "mutator", "archive", "operator"]
Verdict = Literal["promote", "advise", "reject"]


class Proposed(msgspec.Struct, frozen=True, kw_only=True):
    scope: str
    kind: Kind
    hash: str
    source: str
    """Linked source, whole."""
    api: int
    origin: Origin
    parents: tuple[str, ...] = ()
    snapshot: str = ""
    """The open snapshot it was written from."""
    sealed: str = ""
    """The sealed half of the same window."""
    rank: int = 0
    """Place among this cycle's candidates by the synthesizer's own score, 0 the best."""
    cycle: str = ""


class Score(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One policy at one load, over all seeds and blocks."""

    load: float
    goodput: float
    """Requests per s that met their SLO, over all arrivals."""
    attainment: float
    rejected: float
    """Share of arrivals."""
    ttft_p95_s: float
    tpot_p95_s: float


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """The evaluator's verdict, sent as `policy.evaluated` or `policy.rejected`."""

    scope: str
    kind: Kind
    hash: str
    snapshot: str
    sealed: str
    verdict: Verdict
    reason: str
    incumbent: str
    gain: float
    """Relative goodput gain over the incumbent on the sealed blocks (0.1 = +10 %)."""
    gain_low: float
    gain_high: float
    """Confidence interval of `gain`."""
    confidence: float
    best_baseline: str = ""
    gain_over_baseline: float = 0.0
    scores: tuple[Score, ...] = ()
    incumbent_scores: tuple[Score, ...] = ()
    faults: int = 0
    fuel_mean: float = 0.0
    simulator: str = ""
    """Simulator version: scores of different versions are never compared."""
    model_error: float | None = None
    """Relative error of the simulator against what was measured live, where known."""


class Activation(msgspec.Struct, frozen=True, kw_only=True):
    """The one message that makes a policy active. Epochs rise; an older epoch than the one in force is ignored."""

    scope: str
    kind: Kind
    epoch: int
    hash: str
    source: str
    api: int
    cause: str
    """Why, for people: `evaluated: +12 % goodput`, `operator: …`, `rollback: …`."""
    at_unix_s: float
    name: str = ""
    """Library name or title, for display."""


class Faulted(msgspec.Struct, frozen=True, kw_only=True):
    scope: str
    kind: Kind
    epoch: int
    hash: str
    service: str
    """The router or planner instance that saw it."""
    fault: str
    """Type and message, without request content."""
    line: int = 0
    strikes: int = 1
    quarantined: bool = False
    at_unix_s: float = 0.0
