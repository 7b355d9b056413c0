"""What came out of the jail against what went in: the arrivals, lengths and objectives are taken from the window itself."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopoiesis.contracts.slo import Objectives
from autopoiesis.evaluator.scoring import Replay
from autopoiesis.simulator.job import BadResultError, Cell, column
from autopoiesis.simulator.requests.outcome import FINISHED, REJECTED
from autopoiesis.simulator.workload.scaling import scale_load
from autopoiesis.simulator.workload.window import Window

CLOCK_S = 1e-6


def audited(cell: Cell, window: Window, *, planned: bool = False) -> Replay:
    """One cell as a replay, its verdicts made anew from times and objectives; faults and fuel are the plan policy's if it was
    `planned`.

    Raises BadResultError unless it accounts for every scored arrival once, in order, with the class, and where finished
    the length, that the window gives it at this load with this seed.
    """
    trace = scale_load(window.trace, cell.load, cell.seed).uncensored(cell.seed)
    start = window.info.scored_from_s
    rows = np.flatnonzero(trace.arrival >= start)
    arrival, outcome = column(cell, "arrival_s"), column(cell, "outcome")
    if len(arrival) != len(rows):
        raise BadResultError(f"{len(arrival)} arrivals; the window has {len(rows)} at this load")
    if (np.abs(arrival - (trace.arrival[rows] - start)) > CLOCK_S).any():
        raise BadResultError("arrivals are not at the times that the window gives")
    expected = np.array(trace.classes)[trace.klass[rows]]
    klass = np.array(cell.classes)[column(cell, "klass")]
    if (klass != expected).any():
        raise BadResultError("arrivals are not of the classes that the window gives")
    done = outcome == FINISHED
    if (column(cell, "tokens")[done] != trace.output_tokens[rows][done]).any():
        raise BadResultError("a finished request does not have its length")
    if planned != (cell.planned is not None):
        raise BadResultError("its plan is missing" if planned else "nobody was to plan")
    faults, fuel = cell.faults, int(column(cell, "fuel").sum())
    if cell.planned is not None:
        faults, fuel = cell.planned.faults, cell.planned.fuel
    ttft, tpot = column(cell, "ttft_s"), column(cell, "tpot_s")
    return Replay(
        load=cell.load,
        seed=cell.seed,
        span_s=window.info.end_unix_s - window.info.start_unix_s - start,
        arrival_s=arrival,
        klass=klass,
        gpu=np.array(cell.gpus)[column(cell, "gpu")],
        met=_met(done, ttft, tpot, klass, window.info.objectives),
        rejected=outcome == REJECTED,
        ttft_s=ttft,
        tpot_s=tpot,
        faults=sum(faults.values()),
        fuel=fuel,
    )


def _met(
    done: NDArray[np.bool_], ttft: Any, tpot: Any, klass: NDArray[np.str_], objectives: Objectives
) -> NDArray[np.bool_]:
    """`contracts.slo.met` for whole columns."""
    goals = {str(name): objectives.of(str(name)) for name in np.unique(klass)}
    limits = {name: (_limit(goal.ttft_s), _limit(goal.tpot_s)) for name, goal in goals.items()}
    allowed = np.array([limits[name] for name in klass.tolist()]).reshape(-1, 2)
    with np.errstate(invalid="ignore"):
        met: NDArray[np.bool_] = done & (ttft <= allowed[:, 0]) & ~(tpot > allowed[:, 1])
    return met


def _limit(goal: float | None) -> float:
    return np.inf if goal is None else goal
