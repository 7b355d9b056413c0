"""The simulator as a job for the jail: bytes in, bytes out.

The answer is columns, one entry per scored arrival; `replayed` re-reads them outside and checks what must hold, so that a
candidate cannot talk its way to a score.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import numpy.ma  # NumPy would load these two at first use, when the jail can open no file any more
import numpy.random

from autopoiesis.policy.language import policy_hash
from autopoiesis.simulator.api import evaluate_snapshot
from autopoiesis.simulator.report import Run
from autopoiesis.simulator.requests.outcome import FINISHED, OUTCOMES, REJECTED
from autopoiesis.simulator.requests.settings import WorldSettings
from autopoiesis.simulator.workload.window import unpack


class ReplayJob(msgspec.Struct, frozen=True, kw_only=True):
    """Replay one policy on one window."""

    policy: str
    """Source text, linked, or a library name."""
    plan: str = ""
    """The same of a plan policy that plans meanwhile; empty: the fleet changes as it did then."""
    window: bytes
    """A packed `Window`: Parquet stays outside, its library starts threads and the jail forks."""
    lead: bytes = b""
    """A packed `Window` that is served before, unscored; empty for none."""
    loads: tuple[float, ...] = (1.0,)
    """Multiples of the recorded load."""
    seeds: tuple[int, ...] = (0,)
    fuel: int | None = None
    routers: int | None = None
    """None: as many as the window says."""
    step_noise: float = 0.0


class PlanMove(msgspec.Struct, frozen=True, kw_only=True):
    """A plan that was not the one in force: replicas by (GPU type, tensor parallelism, role)."""

    at_s: float
    """From the start of the scored window."""
    counts: tuple[tuple[str, int, str, int], ...]


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan policy did in one run."""

    steps: int
    reschedules: int
    scheduling_s: float
    """Charged: its plans came into effect that much later."""
    fuel: int
    moves: tuple[PlanMove, ...]
    faults: dict[str, int]
    gpu_s: float
    """GPU seconds held by replicas, those of loading included."""
    loading_gpu_s: float


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One load and seed. Columns are little-endian arrays as bytes, one entry per scored arrival in order of arrival."""

    load: float
    seed: int
    span_s: float
    classes: tuple[str, ...]
    gpus: tuple[str, ...]
    """Types by number; the last is the empty string, for arrivals that none served."""
    arrival_s: bytes
    """float64, from the start of the scored window."""
    ttft_s: bytes
    """float64, NaN without a first token."""
    tpot_s: bytes
    """float64, NaN with fewer than two tokens."""
    klass: bytes
    """int32, an index into `classes`."""
    gpu: bytes
    """int32, an index into `gpus`."""
    outcome: bytes
    """int8, an index into `outcomes` of the result."""
    met: bytes
    """One byte each, 0 or 1."""
    tokens: bytes
    """int64, output tokens."""
    fuel: bytes
    """int64, of the decision."""
    faults: dict[str, int]
    quarantined: bool
    summary: dict[str, float]
    planned: Planned | None = None


class ReplayResult(msgspec.Struct, frozen=True, kw_only=True):
    policy: str
    """Hash."""
    plan: str = ""
    """Hash of the plan policy, empty where none planned."""
    outcomes: tuple[str, ...]
    cells: tuple[Cell, ...]


class BadResultError(ValueError):
    """A result that no honest run can have."""


def run(payload: bytes) -> bytes:
    """`ReplayJob` to `ReplayResult`, both MessagePack. Raises what `evaluate_snapshot` raises."""
    job = msgspec.msgpack.decode(payload, type=ReplayJob)
    settings = WorldSettings(step_noise=job.step_noise)
    window = unpack(job.window)
    if job.routers is not None:
        window = replace(window, info=msgspec.structs.replace(window.info, routers=job.routers))
    lead = unpack(job.lead) if job.lead else None
    report = evaluate_snapshot(
        job.policy,
        window,
        job.loads,
        job.seeds,
        fuel=job.fuel,
        settings=settings,
        lead=lead,
        plan=job.plan,
    )
    cells = tuple(_cell(found, window.info.scored_from_s) for found in report.runs)
    plan = policy_hash(job.plan, "plan") if job.plan else ""
    return msgspec.msgpack.encode(
        ReplayResult(policy=report.policy, plan=plan, outcomes=OUTCOMES, cells=cells)
    )


def replayed(payload: bytes, job: ReplayJob) -> ReplayResult:
    """A result, decoded and checked against what was asked. Raises `BadResultError`."""
    try:
        result = msgspec.msgpack.decode(payload, type=ReplayResult)
    except msgspec.DecodeError as error:
        raise BadResultError(f"not a replay's result: {error}") from None
    asked = [(load, seed) for load in job.loads for seed in job.seeds]
    if [(cell.load, cell.seed) for cell in result.cells] != asked:
        raise BadResultError("cells are not those that were asked for")
    if result.outcomes != OUTCOMES:
        raise BadResultError("outcomes have other names")
    for cell in result.cells:
        _check(cell)
    return result


def column(cell: Cell, name: str) -> Any:
    """A column of a cell as a NumPy array (read-only)."""
    kinds = {"klass": "<i4", "gpu": "<i4", "outcome": "<i1", "met": "?", "tokens": "<i8", "fuel": "<i8"}
    return np.frombuffer(getattr(cell, name), kinds.get(name, "<f8"))


def _cell(found: Run, scored_from_s: float) -> Cell:
    rows = np.flatnonzero(found.scored)
    rows = rows[np.argsort(found.arrival_s[rows], kind="stable")]
    gpus = (*dict.fromkeys(totals.gpu for totals in found.replicas), "")
    number = np.array([*(gpus.index(totals.gpu) for totals in found.replicas), len(gpus) - 1], "<i4")

    def packed(values: Any, kind: str) -> bytes:
        return bytes(np.ascontiguousarray(values[rows], kind).data)

    return Cell(
        load=found.load,
        seed=found.seed,
        span_s=found.span_s,
        classes=found.classes,
        gpus=gpus,
        arrival_s=packed(found.arrival_s - scored_from_s, "<f8"),
        ttft_s=packed(found.ttft_s, "<f8"),
        tpot_s=packed(found.tpot_s, "<f8"),
        klass=packed(found.klass, "<i4"),
        gpu=packed(number[found.replica], "<i4"),
        outcome=packed(found.outcome, "<i1"),
        met=packed(found.met, "?"),
        tokens=packed(found.tokens, "<i8"),
        fuel=packed(found.fuel, "<i8"),
        faults=found.faults,
        quarantined=found.quarantined,
        summary={key: value for key, value in found.summary().items() if math.isfinite(value)},
        planned=_planned(found, scored_from_s),
    )


def _planned(found: Run, scored_from_s: float) -> Planned | None:
    plan = found.plan
    if plan is None:
        return None
    moves = tuple(
        PlanMove(
            at_s=move.at - scored_from_s, counts=tuple((*kind, n) for kind, n in sorted(move.counts.items()))
        )
        for move in plan.moves
    )
    return Planned(
        steps=plan.steps,
        reschedules=plan.reschedules,
        scheduling_s=plan.scheduling_s,
        fuel=plan.fuel,
        moves=moves,
        faults=plan.faults,
        gpu_s=sum(totals.present_s * totals.tp for totals in found.replicas),
        loading_gpu_s=sum(totals.loading_s * totals.tp for totals in found.replicas),
    )


def _check(cell: Cell) -> None:
    names = ("arrival_s", "ttft_s", "tpot_s", "klass", "gpu", "outcome", "met", "tokens", "fuel")
    try:
        columns = {name: column(cell, name) for name in names}
    except ValueError as error:
        raise BadResultError(f"a column of load {cell.load:g} is cut short: {error}") from None
    if len({len(values) for values in columns.values()}) != 1:
        raise BadResultError(f"columns of load {cell.load:g} differ in length")
    done = columns["outcome"] == FINISHED
    with np.errstate(invalid="ignore"):
        laws = {
            "a request that did not finish met its objectives": (columns["met"] & ~done).any(),
            "a finished request has no token": (columns["tokens"][done] < 1).any(),
            "a finished request has no first token": np.isnan(columns["ttft_s"][done]).any(),
            "a rejected request has tokens": (columns["tokens"][columns["outcome"] == REJECTED] > 0).any(),
            "a time is negative": (columns["ttft_s"] < 0).any() or (columns["tpot_s"] < 0).any(),
            "arrivals are out of order": (np.diff(columns["arrival_s"]) < 0).any(),
            "an unknown class": ((columns["klass"] < 0) | (columns["klass"] >= len(cell.classes))).any(),
            "an unknown GPU": ((columns["gpu"] < 0) | (columns["gpu"] >= len(cell.gpus))).any(),
        }
    broken = [name for name, is_broken in laws.items() if is_broken]
    if broken:
        raise BadResultError(f"load {cell.load:g}, seed {cell.seed}: {'; '.join(broken)}")
