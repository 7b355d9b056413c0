"""What an evaluation found: one record per arrival as columns, and figures drawn from them.

Every run is checked against conservation laws when its report is made: a violation raises `ConservationError` and no figure comes out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autopoiesis.contracts.slo import Objectives
from autopoiesis.simulator.extras import pandas
from autopoiesis.simulator.replica import GAP_BINS_PER_E
from autopoiesis.simulator.requests.outcome import (
    ABANDONED,
    FAILED,
    FINISHED,
    OPEN,
    OUTCOMES,
    REJECTED,
    Outcome,
    PlanTotals,
    ReplicaTotals,
)
from autopoiesis.simulator.requests.prepared import Prepared

if TYPE_CHECKING:
    import pandas as pd

Column = npt.NDArray[Any]
PERCENTILES = (50, 95, 99)
PARTS = ("queue_wait_s", "engine_wait_s", "prefill_s", "transfer_s")
"""Of a request's way until its second token can come."""


class ConservationError(AssertionError):
    """The simulator broke a law that no parameter can excuse: a bug, never a property of a policy."""


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """One policy, one load, one seed. Columns have one entry per arrival of the trace, in its order; times are seconds.

    `ttft_s`, `e2e_s` and `queue_wait_s` count from arrival; `tpot_s` is per output token after the first; NaN where there is none.
    """

    load: float
    seed: int
    arrival_s: Column
    scored: Column
    """Not of the warm-up."""
    klass: Column
    outcome: Column
    ttft_s: Column
    tpot_s: Column
    e2e_s: Column
    ended_s: Column
    """When it ended, however it did, on the clock of `arrival_s`."""
    queue_wait_s: Column
    """Until the router sent it for the last time."""
    engine_wait_s: Column
    """From there until the engine began with the prompt."""
    prefill_s: Column
    """From there to the first token."""
    met: Column
    """Finished within its class's objectives."""
    tokens: Column
    prompt_tokens: Column
    replica: Column
    session: Column
    attempts: Column
    holds: Column
    fuel: Column
    fallback: Column
    transfer_s: Column
    """Moving the KV cache from a replica that computes prompts to one that decodes; 0 where nothing moved."""
    classes: tuple[str, ...]
    replicas: tuple[ReplicaTotals, ...]
    span_s: float
    """Length of the scored window."""
    faults: dict[str, int]
    quarantined: bool
    makespan_s: float = 0.0
    """From the first scored arrival to the end of the run."""
    plan: PlanTotals | None = None
    """Of the plan policy, where one ran."""

    def __len__(self) -> int:
        return int(self.scored.sum())

    def __repr__(self) -> str:
        met = f"{self.attainment():.1%} in time" if len(self) else "none scored"
        return f"<Run at load {self.load:g}, seed {self.seed}: {len(self)} arrivals, {met}>"

    @property
    def gpu(self) -> Column:
        """GPU type that served each arrival, empty if none did."""
        names = np.array([*(totals.gpu for totals in self.replicas), ""])
        return names[self.replica]

    def attainment(self, among: Column | None = None) -> float:
        """Share of scored arrivals that met their objectives; of those `among`, where given. NaN where there are none."""
        rows = self.scored if among is None else self.scored & among
        return float(self.met[rows].mean()) if rows.any() else math.nan

    def summary(self) -> dict[str, float]:
        """Figures by name, over scored arrivals. Goodput is requests per second within objectives."""
        scored = self.scored
        out: dict[str, float] = {
            "load": self.load,
            "seed": self.seed,
            "arrivals": len(self),
            "attainment": self.attainment(),
            "goodput": float(self.met[scored].sum()) / self.span_s if self.span_s else 0.0,
            "rejected": float((self.outcome[scored] == REJECTED).mean()) if len(self) else 0.0,
            "finished": float((self.outcome[scored] == FINISHED).mean()) if len(self) else 0.0,
            "abandoned": float((self.outcome[scored] == ABANDONED).mean()) if len(self) else 0.0,
            "failed": float((self.outcome[scored] == FAILED).mean()) if len(self) else 0.0,
            "retried": float((self.attempts[scored] > 1).mean()) if len(self) else 0.0,
            "tokens_per_s": float(self.tokens[scored].sum()) / self.span_s if self.span_s else 0.0,
        }
        for name in ("ttft_s", "tpot_s", "e2e_s", *PARTS):
            out |= _percentiles(name, getattr(self, name)[scored])
        out |= self._gap_percentiles()
        present = sum(totals.present_s for totals in self.replicas)
        out["utilisation"] = sum(totals.busy_s for totals in self.replicas) / present if present else 0.0
        out["gpu_s"] = sum(totals.present_s * totals.tp for totals in self.replicas)
        out["loading_gpu_s"] = sum(totals.loading_s * totals.tp for totals in self.replicas)
        out["cost"] = sum(totals.present_s * totals.price / 3600 for totals in self.replicas)
        out["preemptions"] = sum(totals.preemptions for totals in self.replicas)
        queries = sum(totals.prefix_queries for totals in self.replicas)
        out["prefix_hit_share"] = (
            sum(totals.prefix_hits for totals in self.replicas) / queries if queries else 0.0
        )
        out["fairness"] = self.fairness()
        out["fuel"] = float(self.fuel[scored].mean()) if len(self) else 0.0
        out["fallback"] = float(self.fallback[scored].mean()) if len(self) else 0.0
        out["faults"] = sum(self.faults.values())
        plan = self.plan or PlanTotals()
        out["makespan_s"] = self.makespan_s
        out["reschedules"] = plan.reschedules
        out["scheduling_s"] = plan.scheduling_s
        out["plan_faults"] = sum(plan.faults.values())
        return out

    def by_class(self) -> dict[str, float]:
        """Attainment of each class."""
        return {name: self.attainment(self.klass == n) for n, name in enumerate(self.classes)}

    def by_gpu(self) -> dict[str, float]:
        """Attainment of what each GPU type served."""
        gpu = self.gpu
        return {
            name: self.attainment(gpu == name) for name in sorted({totals.gpu for totals in self.replicas})
        }

    def fairness(self) -> float:
        """Jain's index over sessions' mean pace (output tokens over time to the end); 1 is even. NaN without sessions."""
        rows = self.scored & (self.session > 0) & (self.outcome == FINISHED) & (self.e2e_s > 0)
        if not rows.any():
            return math.nan
        _, of_row = np.unique(self.session[rows], return_inverse=True)
        pace = np.bincount(of_row, self.tokens[rows]) / np.bincount(of_row, self.e2e_s[rows])
        return float(pace.sum() ** 2 / (len(pace) * (pace**2).sum()))

    def _gap_percentiles(self) -> dict[str, float]:
        counts: dict[int, int] = {}
        for totals in self.replicas:
            for gap, count in totals.gaps.items():
                counts[gap] = counts.get(gap, 0) + count
        bins = np.array(sorted(counts))
        if not len(bins):
            return {f"itl_s_p{p}": math.nan for p in PERCENTILES}
        shares = np.cumsum([counts[gap] for gap in bins.tolist()])
        places = np.searchsorted(shares, [shares[-1] * p / 100 for p in PERCENTILES])
        return {
            f"itl_s_p{p}": math.exp(bins[n] / GAP_BINS_PER_E)
            for p, n in zip(PERCENTILES, places.tolist(), strict=True)
        }

    def to_pandas(self) -> pd.DataFrame:
        """One row per arrival. Needs the extra `pandas`."""
        columns = {
            name: getattr(self, name)
            for name in (
                "arrival_s", "scored", "ttft_s", "tpot_s", "e2e_s", *PARTS, "met", "tokens", "prompt_tokens", "session",
                "attempts", "holds", "fuel", "fallback",
            )
        }  # fmt: skip
        frame: pd.DataFrame = pandas().DataFrame(columns)
        frame.insert(0, "load", self.load)
        frame.insert(1, "seed", self.seed)
        frame["class"] = np.array(self.classes)[self.klass]
        frame["outcome"] = np.array(OUTCOMES)[self.outcome]
        frame["replica"] = np.array([*(totals.name for totals in self.replicas), ""])[self.replica]
        frame["gpu"] = self.gpu
        return frame


@dataclass(frozen=True, repr=False)
class Report:
    """One policy over loads and seeds."""

    policy: str
    """Its hash."""
    objectives: Objectives
    runs: tuple[Run, ...] = field(default=())

    def __repr__(self) -> str:
        return f"<Report on policy {self.policy[:12]}: {', '.join(map(repr, self.runs))}>"

    def summary(self) -> list[dict[str, float]]:
        """Per load, means over seeds of each run's figures; loads rising."""
        out = []
        for load in sorted({run.load for run in self.runs}):
            rows = [run.summary() for run in self.runs if run.load == load]
            out.append(
                {key: _mean([row[key] for row in rows]) for key in rows[0] if key != "seed"}
                | {"seeds": len(rows)}
            )
        return out

    def goodput(self) -> float:
        """Mean over loads and seeds, requests per second within objectives."""
        return _mean([run.summary()["goodput"] for run in self.runs])

    def attainment(self) -> float:
        """Mean over loads and seeds."""
        return _mean([run.attainment() for run in self.runs])

    def by_class(self) -> dict[str, float]:
        """Attainment of each class, mean over loads and seeds."""
        return _merged([run.by_class() for run in self.runs])

    def by_gpu(self) -> dict[str, float]:
        """Attainment of what each GPU type served, mean over loads and seeds."""
        return _merged([run.by_gpu() for run in self.runs])

    def faults(self) -> dict[str, int]:
        """How often the policy failed, by fault."""
        out: dict[str, int] = {}
        for run in self.runs:
            for fault, count in run.faults.items():
                out[fault] = out.get(fault, 0) + count
        return out

    def to_pandas(self) -> pd.DataFrame:
        """One row per arrival, load and seed. Needs the extra `pandas`."""
        frame: pd.DataFrame = pandas().concat([run.to_pandas() for run in self.runs], ignore_index=True)
        return frame


def make_run(prepared: Prepared, outcome: Outcome, *, load: float, scored_from_s: float = 0.0) -> Run:
    """Columns of one world's outcome, checked. Raises `ConservationError`."""
    trace, rows = prepared.trace, outcome.rows
    code = np.array(rows.outcome, np.int8)
    arrived = np.array(rows.arrived)
    arrival = np.where(np.isnan(arrived), trace.arrival, arrived)
    sent, started = np.array(rows.sent), np.array(rows.started)
    first, ended = np.array(rows.first), np.array(rows.ended)
    tokens = np.array(rows.tokens, np.int64)
    done = code == FINISHED
    ttft = first - arrival
    with np.errstate(invalid="ignore", divide="ignore"):
        tpot = np.where(done & (tokens > 1), (ended - first) / (tokens - 1), np.nan)
    # No tokens, or one: no pace to miss.
    met = done & (ttft <= prepared.ttft_slo) & ~(tpot > prepared.tpot_slo)
    scored = arrival >= scored_from_s
    run = Run(
        load=load,
        seed=prepared.seed,
        arrival_s=arrival,
        scored=scored,
        klass=trace.klass,
        outcome=code,
        ttft_s=ttft,
        tpot_s=tpot,
        e2e_s=np.where(done, ended - arrival, np.nan),
        ended_s=ended,
        queue_wait_s=sent - arrival,
        engine_wait_s=started - sent,
        prefill_s=first - started,
        met=met,
        tokens=tokens,
        prompt_tokens=trace.prompt_tokens,
        replica=np.array(rows.replica, np.int64),
        session=trace.session,
        attempts=np.array(rows.attempts, np.int64),
        holds=np.array(rows.holds, np.int64),
        fuel=np.array(rows.fuel, np.int64),
        fallback=np.array(rows.fallback, np.bool_),
        transfer_s=np.array(rows.transfer_s),
        classes=trace.classes,
        replicas=tuple(outcome.replicas),
        span_s=max(0.0, float(arrival.max(initial=0.0)) - scored_from_s) if scored.any() else 0.0,
        faults=dict(outcome.faults),
        quarantined=outcome.quarantined,
        makespan_s=max(0.0, outcome.ended_at - float(arrival[scored].min(initial=math.inf))),
        plan=outcome.plan,
    )
    _check(run, trace.output_tokens, ended)
    return run


def _check(run: Run, output: Column, ended: Column) -> None:
    """Each arrival ended once (the world raises at a second end), tokens are conserved, time and physics hold."""
    done = run.outcome == FINISHED
    _law(not (run.outcome == OPEN).any(), "an arrival is still open", run.outcome == OPEN)
    _law(
        bool((run.tokens[done] == output[done]).all()),
        "a finished request lacks tokens, or has too many",
        done,
    )
    _law(not np.isnan(run.ttft_s[done]).any(), "a finished request has no first token", done)
    with np.errstate(invalid="ignore"):
        for name in ("ttft_s", "tpot_s", "e2e_s", *PARTS):
            _law(
                not (getattr(run, name) < 0).any(),
                f"{name} is negative: time ran back",
                getattr(run, name) < 0,
            )
        _law(not (run.ttft_s[done] > run.e2e_s[done] + 1e-9).any(), "a first token after the last", done)
        _law(not (run.arrival_s + run.queue_wait_s > ended + 1e-9).any(), "sent after its end", done)
    for totals in run.replicas:
        if totals.kv_peak_tokens > totals.kv_capacity_tokens:
            raise ConservationError(
                f"{totals.name}: {totals.kv_peak_tokens} KV tokens, {totals.kv_capacity_tokens} fit"
            )
        if totals.busy_s < totals.bound_s * (1 - 1e-9):
            raise ConservationError(
                f"{totals.name}: {totals.busy_s:.6g} s of steps, ideal hardware needs {totals.bound_s:.6g} s"
            )


def _law(holds: bool, broken: str, where: Column) -> None:
    if not holds:
        raise ConservationError(f"{broken} (first suspect: row {int(np.flatnonzero(where)[0])})")


def _percentiles(name: str, values: Column) -> dict[str, float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return {f"{name}_mean": math.nan, **{f"{name}_p{p}": math.nan for p in PERCENTILES}}
    found = np.percentile(known, PERCENTILES).tolist()
    return {
        f"{name}_mean": float(known.mean()),
        **{f"{name}_p{p}": v for p, v in zip(PERCENTILES, found, strict=True)},
    }


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _merged(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: _mean([part[name] for part in parts if name in part]) for name in names}
