"""Mixed-integer linear programs, solved by HiGHS with one thread and within bounds: the only place that imports it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import highspy
import numpy as np

VARIABLES: Final = 20_000
CONSTRAINTS: Final = 20_000
ENTRIES: Final = 2_000_000
"""Coefficients that are not zero."""

_ENDED: Final = {
    highspy.HighsModelStatus.kOptimal: "optimal",
    highspy.HighsModelStatus.kInfeasible: "infeasible",
    highspy.HighsModelStatus.kUnboundedOrInfeasible: "infeasible",
}


@dataclass(frozen=True, slots=True)
class Solved:
    """A `policy.toolkit.Solution`."""

    status: str
    objective: float = math.inf
    x: tuple[float, ...] = ()


class HighsMilp:
    """A `policy.toolkit.Milp`. Deterministic unless the time limit is what ends it: give node limits that bind first."""

    def __init__(self) -> None:
        self._lower: list[float] = []
        self._upper: list[float] = []
        self._cost: list[float] = []
        self._integer: list[bool] = []
        self._rows: list[tuple[float, float]] = []
        self._starts: list[int] = [0]
        self._index: list[int] = []
        self._coefficient: list[float] = []

    def variable(self, lower: float, upper: float, cost: float, integer: bool = True) -> int:
        """Add a variable. Raises ValueError for NaN, crossed bounds, an infinite cost, or one variable too many."""
        if len(self._cost) >= VARIABLES:
            raise ValueError(f"a program has at most {VARIABLES} variables")
        _check_bounds(lower, upper)
        if not math.isfinite(cost):
            raise ValueError(f"the cost of a variable is finite, not {cost}")
        self._lower.append(float(lower))
        self._upper.append(float(upper))
        self._cost.append(float(cost))
        self._integer.append(bool(integer))
        return len(self._cost) - 1

    def constraint(self, terms: Mapping[int, float], lower: float, upper: float) -> None:
        """Add a row. Raises ValueError for unknown variables, coefficients that are not finite, or one row too many."""
        if len(self._rows) >= CONSTRAINTS or len(self._index) + len(terms) > ENTRIES:
            raise ValueError(f"a program has at most {CONSTRAINTS} constraints with {ENTRIES} coefficients")
        _check_bounds(lower, upper)
        for variable, coefficient in terms.items():
            if type(variable) is not int or not 0 <= variable < len(self._cost):
                raise ValueError(
                    f"a constraint names a variable from 0 to {len(self._cost) - 1}, as `variable` returned it"
                )
            if not math.isfinite(coefficient):
                raise ValueError(f"coefficients are finite, not {coefficient}")
        self._index.extend(terms)
        self._coefficient.extend(map(float, terms.values()))
        self._starts.append(len(self._index))
        self._rows.append((float(lower), float(upper)))

    def solve(self, node_limit: int = 10_000, time_limit: float = 5.0, gap: float = 0.003) -> Solved:
        """Minimise. `time_limit` is seconds of process time, looked at between nodes and simplex iterations."""
        if type(node_limit) is not int or node_limit < 1:
            raise ValueError(f"node_limit is {node_limit!r}; it is an integer, at least 1")
        if not 0 < time_limit < math.inf or not 0 <= gap < math.inf:
            raise ValueError("time_limit is above 0 and gap at least 0, both finite")
        if not self._cost:
            return Solved("optimal", 0.0)
        solver = _quiet()
        solver.setOptionValue("mip_max_nodes", min(node_limit, 2**31 - 1))
        solver.setOptionValue("mip_rel_gap", gap)
        _interrupt_at(solver, time.process_time() + time_limit)
        solver.passModel(self._program())
        solver.solve()
        return self._read(solver)

    def _program(self) -> highspy.HighsLp:
        program = highspy.HighsLp()
        program.num_col_, program.num_row_ = len(self._cost), len(self._rows)
        program.col_cost_ = np.array(self._cost)
        program.col_lower_, program.col_upper_ = np.array(self._lower), np.array(self._upper)
        rows = np.array(self._rows).reshape(-1, 2)
        program.row_lower_, program.row_upper_ = rows[:, 0].copy(), rows[:, 1].copy()
        program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        program.a_matrix_.start_ = np.array(self._starts, np.int32)
        program.a_matrix_.index_ = np.array(self._index, np.int32)
        program.a_matrix_.value_ = np.array(self._coefficient)
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        program.integrality_ = [kinds[whole] for whole in self._integer]
        return program

    def _read(self, solver: highspy.Highs) -> Solved:
        status = _ENDED.get(solver.getModelStatus(), "unknown")
        info = solver.getInfo()
        if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            return Solved(status if status == "infeasible" else "unknown")
        found = solver.getSolution().col_value
        x = tuple(
            float(round(value)) if whole else value for value, whole in zip(found, self._integer, strict=True)
        )
        return Solved("optimal" if status == "optimal" else "feasible", info.objective_function_value, x)


def _check_bounds(lower: float, upper: float) -> None:
    if not lower <= upper or lower == math.inf or upper == -math.inf:
        raise ValueError(f"lower bound {lower} and upper bound {upper} leave no value")


def _quiet() -> highspy.Highs:
    solver = highspy.Highs()  # type: ignore[no-untyped-call]
    for option, value in (("output_flag", False), ("threads", 1), ("parallel", "off"), ("random_seed", 0)):
        solver.setOptionValue(option, value)
    return solver


def _interrupt_at(solver: highspy.Highs, process_s: float) -> None:
    """HiGHS's own limit is wall clock, which would make a busy machine change plans."""

    def look(event: highspy.highs.HighsCallbackEvent) -> None:
        if time.process_time() >= process_s:
            event.interrupt()

    solver.cbMipInterrupt += look
    solver.cbSimplexInterrupt += look
