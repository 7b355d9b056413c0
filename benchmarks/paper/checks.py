"""What the comparison should show: shapes and sizes of the paper's evidence, each met or not."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from compare import Compared

from autopoiesis.policy import library
from autopoiesis.policy.language import compile_policy
from autopoiesis.simulator.intervals import CostModel, PlanTrace
from autopoiesis.simulator.intervals.world import account, decide

SIZES = {
    "table2": {"volatile": {"gain": 0.124, "gap_closed": 0.8}, "stable": {"gain": 0.186, "gap_closed": 0.8}},
    "table3": {"volatile": {"gain": 0.116}, "stable": {"gain": 0.149}},
    "table4": {"trace1": {"cut": 0.35}, "trace2": {"cut": 0.43}},
    "fig7": {"mean_ratio": 1.34, "max_ratio": 1.53},
    "fresh": {"mean_ratio": 1.0},
    "online": {"gain_net": 0.0},
}
"""Least figures: those that the paper prints for itself; for fresh traces and online no loss."""
ACCOUNT_S = 0.020


@dataclass(frozen=True, slots=True)
class Check:
    what: str
    met: bool | None
    """None: there is nothing to check yet."""
    found: str

    def __str__(self) -> str:
        said = {True: "met", False: "NOT MET", None: "missing"}[self.met]
        return f"{said:8} {self.what}: {self.found}"


def sizes(
    result: Mapping[str, Any], asked: Mapping[str, Any] | None = None, path: str = ""
) -> Iterator[Check]:
    """Every figure of the result that there is a least one for."""
    for name, least in (SIZES if asked is None else asked).items():
        where = f"{path}.{name}" if path else name
        if asked is None and name not in result:
            continue
        found = result.get(name)
        if isinstance(least, Mapping):
            yield from sizes(found or {}, least, where)
        elif found is None:
            yield Check(f"{where} >= {least:g}", None, "no figure")
        else:
            yield Check(f"{where} >= {least:g}", found >= least, f"{found:.3f}")


def shapes(found: Compared) -> Iterator[Check]:
    """Who wins where, and how often the evolved policy reschedules."""
    table, _, which = found.case.key.partition("/")
    total = {name: outcome.total_s for name, outcome in found.charged.items()}
    orders = {
        "table2/volatile": ("greedy", "ILP once"),
        "table2/stable": ("ILP once", "greedy"),
        "table3/volatile": ("minimal migration", "full migration"),
        "table3/stable": ("full migration", "minimal migration"),
    }
    if found.case.key in orders:
        first, second = orders[found.case.key]
        yield Check(f"{found.case.key}: {first} beats {second}", total[first] < total[second], f"{total[first]:.1f} s, {total[second]:.1f} s")  # fmt: skip
    if "evolved" not in total:
        return
    rivals = {name: seconds for name, seconds in total.items() if name != "evolved"}
    yield Check(f"{found.case.key}: evolved beats all", total["evolved"] < min(rivals.values()), f"{total['evolved']:.1f} s, best rival {min(rivals.values()):.1f} s")  # fmt: skip
    if table == "table2":
        about = {"volatile": 9, "stable": 2}[which]
        calls = found.charged["evolved"].reschedules
        yield Check(f"{found.case.key}: N about {about}", abs(calls - about) <= 1, f"{calls}")
    if found.ratio is not None:
        yield Check(f"{found.case.key}: measured, not below the best rival", found.ratio >= 1, f"ratio {found.ratio:.3f}")  # fmt: skip


def accounting(trace: PlanTrace) -> Check:
    """Processor time of a full trace without the solver's: the world's part, with a cost model that knows nothing yet."""
    decisions = decide(compile_policy(library.source("plan_greedy"), "plan"), trace, CostModel())
    began = time.process_time()
    account(trace, decisions, CostModel())
    took = time.process_time() - began
    return Check(f"{trace.name}: a full trace without solver time within {ACCOUNT_S * 1e3:.0f} ms", took <= ACCOUNT_S, f"{took * 1e3:.1f} ms")  # fmt: skip
