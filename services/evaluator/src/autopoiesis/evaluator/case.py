"""One candidate on its way through the gates, and what was found out about it."""

from dataclasses import dataclass, field

from autopoiesis.contracts.messages.policy import Judgement, Proposed, Score, Verdict
from autopoiesis.simulator.statistics import Gain
from autopoiesis.store.models import Snapshot

NO_GAIN = Gain(0.0, 0.0, 0.0, 0)


@dataclass(frozen=True, slots=True)
class Arm:
    """A policy that takes part in a comparison."""

    hash: str
    source: str
    name: str = ""


@dataclass(slots=True)
class Findings:
    """What gates learned; the judgement is made of it."""

    gain: Gain = NO_GAIN
    confidence: float = 0.0
    best_baseline: Arm | None = None
    dominated_by: Arm | None = None
    """A shipped policy that makes the candidate needless."""
    gain_over_baseline: float = 0.0
    scores: tuple[Score, ...] = ()
    incumbent_scores: tuple[Score, ...] = ()
    faults: int = 0
    fuel_mean: float = 0.0
    model_error: float | None = None
    gate: str = ""
    """The last gate it came to."""


@dataclass(slots=True)
class Case:
    """A verified candidate against what is in force, on one window."""

    proposal: Proposed
    candidate: Arm
    incumbent: Arm
    baselines: tuple[Arm, ...]
    window: Snapshot
    beside: Arm | None
    """The dispatch policy in force, while plan policies are compared: it routes for each of them. None for dispatch policies."""
    seed: int
    """Drawn afresh for this evaluation; candidate and rivals share what follows from it."""
    findings: Findings = field(default_factory=Findings)

    def judgement(self, verdict: Verdict, reason: str, *, simulator: str) -> Judgement:
        found = self.findings
        return Judgement(
            scope=self.proposal.scope,
            kind=self.proposal.kind,
            hash=self.candidate.hash,
            snapshot=self.window.hash,
            sealed=self.window.sealed_hash,
            verdict=verdict,
            reason=reason,
            incumbent=self.incumbent.hash,
            gain=found.gain.gain,
            gain_low=found.gain.low,
            gain_high=found.gain.high,
            confidence=found.confidence,
            best_baseline=found.best_baseline.name if found.best_baseline else "",
            gain_over_baseline=found.gain_over_baseline,
            scores=found.scores,
            incumbent_scores=found.incumbent_scores,
            faults=found.faults,
            fuel_mean=found.fuel_mean,
            simulator=simulator,
            model_error=found.model_error,
        )


def unjudged(proposal: Proposed, reason: str, *, simulator: str, incumbent: str = "") -> Judgement:
    """The rejection of a proposal that no gate could look at."""
    return Judgement(
        scope=proposal.scope,
        kind=proposal.kind,
        hash=proposal.hash,
        snapshot=proposal.snapshot,
        sealed=proposal.sealed,
        verdict="reject",
        reason=reason,
        incumbent=incumbent,
        gain=0.0,
        gain_low=0.0,
        gain_high=0.0,
        confidence=0.0,
        simulator=simulator,
    )
