"""The paper's comparisons: on which trace, against whom, what it charges them for scheduling, and what it prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import agentic

from autopoiesis.policy import library
from autopoiesis.simulator.intervals import Assumptions, CostModel, PlanTrace, paper
from autopoiesis.simulator.intervals.bound import Bound, lower_bound
from autopoiesis.simulator.intervals.generate import KINDS

HERE = Path(__file__).parent
EVOLVED = HERE / "evolved"
DATA = HERE.parents[2] / "shared" / "data" / "paper"
"""Where the paper's figures lie unless `--data` says otherwise: beside the checkout."""
KIND_OF = {
    "volatile": "table2/volatile",
    "stable": "table2/stable",
    "elastic": "table3/",
    "spot": "fig7/SpotServe/",
    "phased": "fig7/DistServe/",
}
"""Cases by the kind of generated trace that they resemble."""
FIRST_SEED = 1000
"""Of generated traces to evolve on."""
BOUNDED_TYPES = 3
"""GPU types beyond which the bound's states do not fit in memory."""

SHARDED, UNSHARDED = Assumptions(), Assumptions(shard_attention=False)
"""Table 3's serving time of full migration on the stable trace, 277.4 s by its tokens per second, needs attention that tensor
parallelism does not divide; Table 2's need attention that it does."""


PIPELINE = (
    (
        "a model's entries with role='prefill' and those with role='decode' are a pipeline: t_serve is the slower side's time "
        "(toolkit.prefill_time and decode_time of its batch) plus one prompt's prefill; beside mixed entries they count for nothing"
    ),
)
"""What a proposer has to know of roles beyond the interface."""


@dataclass(frozen=True, slots=True)
class Printed:
    """A row of the paper's tables, seconds; N and the parts are not printed everywhere."""

    reschedules: int | None = None
    stale_s: float | None = None
    reconfigure_s: float | None = None
    serve_s: float | None = None
    tokens_per_s: float | None = None
    total_s: float | None = None


@dataclass(frozen=True, slots=True)
class Rival:
    """A policy and how the paper-charged accounting charges it: seconds per call of `schedule`, or overhead windows.

    `windows_s` are scheduling and reconfiguration together, as Figure 7 draws them: step by step, or fewer than steps. They are scaled by our serving time
    over the paper's, so that overhead keeps its share; what our own reconfiguration takes of one is subtracted, the rest is scheduling.
    """

    label: str
    source: str
    printed: Printed = field(default_factory=Printed)
    per_call_s: float = 0.0
    windows_s: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison. `evolved` is what the paper prints for its own policy; it is charged no less than that per call."""

    key: str
    trace: PlanTrace
    rivals: tuple[Rival, ...]
    evolved: Printed
    evolved_per_call_s: float = 0.0
    assumptions: Assumptions = SHARDED
    rules: Sequence[str] = ()
    """What a proposer has to know beyond the interface."""

    @property
    def folder(self) -> Path:
        """Where its evolved policy and the recording of how it came about are kept."""
        return EVOLVED / self.key.replace("/", "-")


def load(data: Path) -> dict[str, Case]:
    """Every comparison by its key, `table2/volatile` and so on; Table 4 only where its traces are, in `traces` beside `data`'s folder.

    Raises OSError where the figures are not there.
    """
    found = cases(paper.read(data / "traces.json"), json.loads((data / "figure7.json").read_text()))
    try:
        slices = agentic.traces(data.parents[1] / "traces")
    except OSError:
        return found
    return found | {case.key: case for case in _table4(slices)}


def cases(figures: Mapping[str, Any], bars: Mapping[str, Any]) -> dict[str, Case]:
    """Every comparison by its key, `table2/volatile` and so on."""
    found = [*_table2(figures), *_table3(figures), *_figure7(figures, bars)]
    return {case.key: case for case in found}


def _table2(figures: Mapping[str, Any]) -> list[Case]:
    volatile = (
        _rival("greedy", "plan_greedy", Printed(10, 65.1, 244.8, 422.1, 95_723)),
        _rival("ILP once", "plan_milp_once", Printed(1, 104.7, 0.0, 686.5, 88_558)),
    )
    stable = (
        _rival("greedy", "plan_greedy", Printed(10, 27.2, 38.0, 120.5, 436_353)),
        _rival("ILP once", "plan_milp_once", Printed(1, 34.3, 0.0, 113.3, 548_851)),
    )
    return [
        Case("table2/volatile", paper.volatile(figures), volatile, Printed(9, 17.5, 217.6, 416.3, 107_578), 17.5 / 9),
        Case("table2/stable", paper.stable(figures), stable, Printed(2, 4.3, 4.2, 115.8, 651_222), 4.3 / 2),
    ]  # fmt: skip


def _table3(figures: Mapping[str, Any]) -> list[Case]:
    rows = {
        "volatile": (
            (9.7, 108.8, 8_433),
            (1.6, 8.4, 13_304),
            (0.7, 44.4, 14_843),
        ),
        "stable": (
            (9.6, 67.9, 11_080),
            (2.1, 6.3, 10_187),
            (0.6, 30.8, 12_731),
        ),
    }
    found = []
    for which, (full, minimal, own) in rows.items():
        rivals = (
            _rival("full migration", "plan_full_migration", _elastic_row(*full)),
            _rival("minimal migration", "plan_minimal_migration", _elastic_row(*minimal)),
        )
        trace = paper.elastic(figures, which)
        found.append(Case(f"table3/{which}", trace, rivals, _elastic_row(*own), own[0] / 5, UNSHARDED))
    return found


def _elastic_row(stale: float, moved: float, rate: float) -> Printed:
    return Printed(5, stale, moved, None, rate)


def _table4(slices: Sequence[PlanTrace]) -> list[Case]:
    rows = (
        ((0.1, 10.4), (6.9, 25.0), (1.3, 5.6)),
        ((0.1, 18.0), (2.2, 10.3), (0.4, 6.7)),
    )
    found = []
    for trace, row in zip(slices, rows, strict=True):
        greedy, milp, own = (Printed(stale_s=s, serve_s=t, total_s=s + t) for s, t in row)
        calls = len(trace.steps)
        rivals = (
            Rival("greedy", source_of("agentic_greedy"), greedy, per_call_s=row[0][0] / calls),
            Rival("MILP", source_of("agentic_milp"), milp, per_call_s=row[1][0] / calls),
        )
        found.append(Case(trace.name, trace, rivals, own, row[2][0] / calls, rules=agentic.RULES))
    return found


def _figure7(figures: Mapping[str, Any], bars: Mapping[str, Any]) -> list[Case]:
    makers: dict[str, tuple[Callable[..., PlanTrace], str]] = {
        "DistServe": (paper.homogeneous, "distserve"),
        "HexGen": (paper.heterogeneous, "hexgen"),
        "SpotServe": (paper.spot, "spotserve"),
    }
    found = []
    for name, row in bars.items():
        if "/" not in name:
            continue
        system, data = name.split("/")
        make, policy = makers[system]
        if system == "SpotServe":
            theirs, own = (_spot_row(row, side) for side in ("baseline", "autopoiesis"))
            rival = Rival(system, source_of(policy), theirs, windows_s=row["baseline_reconfig_windows"])
        else:
            theirs, own = (_bar_row(row[side]) for side in ("baseline", "autopoiesis"))
            rival = Rival(system, source_of(policy), theirs, windows_s=[over for over, _ in row["baseline"]])
        rules = PIPELINE if system == "DistServe" else ()
        found.append(Case(f"fig7/{name}", make(figures, data), (rival,), own, rules=rules))
    return found


def _bar_row(windows: Sequence[Sequence[float]]) -> Printed:
    overhead, serving = (sum(column) for column in zip(*windows, strict=True))
    return Printed(serve_s=serving, total_s=overhead + serving)


def _spot_row(row: Mapping[str, Any], side: str) -> Printed:
    total, moved = row[f"{side}_total"], row[f"{side}_overhead"]
    return Printed(reconfigure_s=moved, serve_s=total - moved, total_s=total)


def _rival(label: str, name: str, printed: Printed) -> Rival:
    calls, stale = printed.reschedules, printed.stale_s
    per_call = stale / calls if stale and calls else 0.0
    return Rival(label, source_of(name), printed, per_call_s=per_call)


def source_of(name: str) -> str:
    """A plan policy of ours, or one shipped with the product. Raises KeyError."""
    own = HERE / "baselines" / f"{name}.py"
    return own.read_text() if own.exists() else library.source(name)


def seeds(case: Case) -> dict[str, str]:
    """What a synthesis on this case begins with: every hand-written plan policy by name, of calls the paper's two."""
    if case.trace.rounds:
        return {rival.label: rival.source for rival in case.rivals}
    shipped = (name for name in library.names("plan", every=True) if name != "plan_keep")
    named = {
        **{name: library.source(name) for name in shipped},
        "greedy_bisection": source_of("greedy_bisection"),
    }
    known = set(named.values())
    return named | {rival.label: rival.source for rival in case.rivals if rival.source not in known}


def measured_rivals(case: Case) -> dict[str, str]:
    """Who is compared under measured time, by name: the seeds, and for calls a stronger one of ours that no search has seen."""
    ours = {"agentic_milp_cached": source_of("agentic_milp_cached")} if case.trace.rounds else {}
    return seeds(case) | ours


def others(case: Case, count: int) -> list[PlanTrace]:
    """Generated traces of the case's kind to evolve on beside its own; `fresh.py` takes other seeds. None for kinds without a generator."""
    kind = next((kind for kind, prefix in KIND_OF.items() if case.key.startswith(prefix)), None)
    return [KINDS[kind](FIRST_SEED + number) for number in range(count)] if kind else []


def bound_of(case: Case) -> Bound | None:
    """The lower bound on the total time; None where four GPU types make too many states, and for calls."""
    if case.trace.rounds or len(case.trace.pools) > BOUNDED_TYPES:
        return None
    return lower_bound(case.trace, CostModel(case.assumptions))
