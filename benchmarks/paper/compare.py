"""Compares a case's policies under two accountings.

*paper-charged*: each rival is charged the scheduling time that the paper prints for it, so that its tables compare like for like;
an evolved policy is charged what it really took, and no less than the paper's own policy. *measured*: everybody's own processor
seconds in the jail, and every hand-written policy is a rival.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cases import EVOLVED, SHARDED, UNSHARDED, Case, Rival, bound_of, measured_rivals
from measure import Bench

from autopoiesis.simulator.intervals import Step, paper
from autopoiesis.simulator.intervals.bound import Bound
from autopoiesis.simulator.intervals.world import Decision, Outcome, PlanRejectedError

NEAREST = {
    "table3/stable": ("table3/volatile",),
    "table3/volatile": ("table3/stable",),
    "fig7/DistServe/ShareGPT": ("fig7/DistServe/LongBench",),
    "fig7/DistServe/LongBench": ("fig7/DistServe/ShareGPT",),
    "fig7/SpotServe/MAF1": ("fig7/SpotServe/MAF2",),
    "fig7/SpotServe/MAF2": ("fig7/SpotServe/MAF1",),
    "table4/trace1": ("table4/trace2",),
    "table4/trace2": ("table4/trace1",),
}
"""Whose winner is taken, unchanged, where a case was not evolved on; then that of `table2/volatile`."""


@dataclass(frozen=True, slots=True)
class Evolved:
    """A winner of the synthesis, and the case it was evolved on."""

    source: str
    on: str


@dataclass(slots=True)
class Compared:
    """Outcomes by policy name. `failed` says why those that are missing are."""

    case: Case
    evolved: Evolved | None
    charged: dict[str, Outcome] = field(default_factory=dict)
    measured: dict[str, Outcome] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    bound: Bound | None = None

    @property
    def gain(self) -> float | None:
        """Tokens per second above the best rival's, paper-charged."""
        return _ahead(self.charged)

    @property
    def cut(self) -> float | None:
        """Total time below the best rival's, as its share, paper-charged."""
        gain = self.gain
        return None if gain is None else 1 - 1 / (1 + gain)

    @property
    def ratio(self) -> float | None:
        """The best rival's total time over the evolved policy's, measured."""
        gain = _ahead(self.measured)
        return None if gain is None else 1 + gain

    @property
    def gap_closed(self) -> float | None:
        """Share of the way from the best rival to the lower bound, measured."""
        best = _best(self.measured)
        if self.bound is None or "evolved" not in self.measured or best is None:
            return None
        return (best - self.measured["evolved"].total_s) / (best - self.bound.total_s)


def compare(case: Case, bench: Bench, *, with_bound: bool = True, paper_only: bool = False) -> Compared:
    """Run everybody; with `paper_only` the paper's rivals and the evolved policy alone."""
    found = Compared(case, winner(case.key))
    for rival in case.rivals:
        outcome = _tried(found, rival.label, rival.source, bench, rival)
        if outcome is not None and rival.windows_s:
            outcome = _with_windows(outcome, rival)
        if outcome is not None:
            found.charged[rival.label] = outcome
    for name, source in ({} if paper_only else measured_rivals(case)).items():
        if (outcome := _tried(found, name, source, bench)) is not None:
            found.measured[name] = outcome
    if found.evolved is not None:
        _evolved(found, found.evolved.source, bench)
    if with_bound:
        found.bound = bound_of(case)
    return found


def winner(key: str) -> Evolved | None:
    """The policy that was evolved on this case, or on the nearest one."""
    for name in (key, *NEAREST.get(key, ()), "table2/volatile"):
        path = EVOLVED / name.replace("/", "-") / "winner.py"
        if path.exists():
            return Evolved(path.read_text(), name)
    return None


def alternatives(case: Case) -> Sequence[tuple[str, Case]]:
    """What the paper leaves open, decided the other way."""
    if case.trace.rounds:
        return []
    if case.key.startswith("table3"):
        return [("attention sharded by tensor parallelism", replace(case, assumptions=SHARDED))]
    if case.key.startswith("table2"):
        other = paper.STABLE_CLUSTER if case.key.endswith("volatile") else paper.VOLATILE_CLUSTER
        steps = tuple(Step(step.loads, dict(other)) for step in case.trace.steps)
        trace = replace(case.trace, name=f"{case.trace.name} on another cluster", steps=steps)
        return [(" + ".join(f"{count} {gpu}" for gpu, count in other.items()), replace(case, trace=trace))]
    return [("attention not sharded by tensor parallelism", replace(case, assumptions=UNSHARDED))]


def _with_windows(outcome: Outcome, rival: Rival) -> Outcome:
    """Overhead windows as in the paper's bars, in proportion to serving time, which is not what it is there.

    One window per step, or, where the paper does not say when they are, together at the steps that rescheduled.
    """
    scale = outcome.serve_s / rival.printed.serve_s if rival.printed.serve_s else 1.0
    if len(rival.windows_s) <= outcome.reschedules < len(outcome.intervals):
        share = scale * sum(rival.windows_s) / outcome.reschedules
        windows = [share if interval.rescheduled else 0.0 for interval in outcome.intervals]
        moved = outcome.reconfigure_s / outcome.reschedules
        left = [max(0.0, window - moved) if window else 0.0 for window in windows]
    else:
        windows = [scale * window for window in rival.windows_s]
        left = [max(0.0, w - i.reconfigure_s) for w, i in zip(windows, outcome.intervals, strict=True)]
    intervals = (replace(i, stale_s=stale) for i, stale in zip(outcome.intervals, left, strict=True))
    return replace(outcome, intervals=tuple(intervals))


def _evolved(found: Compared, source: str, bench: Bench) -> None:
    least = found.case.evolved_per_call_s

    def charge(decision: Decision) -> float:
        return max(decision.scheduling_s, least if decision.rescheduled else 0.0)

    try:
        found.measured["evolved"] = bench.outcome(source, found.case.trace)
        found.charged["evolved"] = bench.outcome(source, found.case.trace, charge=charge)
    except PlanRejectedError as error:
        found.failed["evolved"] = str(error)


def _tried(
    found: Compared, name: str, source: str, bench: Bench, charged: Rival | None = None
) -> Outcome | None:
    def charge(decision: Decision) -> float:
        return charged.per_call_s if charged and decision.rescheduled else 0.0

    try:
        return bench.outcome(source, found.case.trace, charge=charge if charged else None)
    except PlanRejectedError as error:
        found.failed[name] = str(error)
        return None


def _best(outcomes: dict[str, Outcome]) -> float | None:
    return min((o.total_s for name, o in outcomes.items() if name != "evolved"), default=None)


def _ahead(outcomes: dict[str, Outcome]) -> float | None:
    best = _best(outcomes)
    return None if best is None or "evolved" not in outcomes else best / outcomes["evolved"].total_s - 1
