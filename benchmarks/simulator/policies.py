"""Which policy is best where: loads x routers x policies on a mixed fleet, on a real trace.

    python benchmarks/simulator/policies.py --trace AzureLLMInferenceTrace_conv.csv[.gz] [--span 900] [--json FILE]

Loads are shares of the fleet's capacity, reached by adding sessions; every policy meets the same arrivals. 30 % of the requests are
batch ones with wider objectives. Prints goodput (requests per second within objectives) with half the range over seeds, then
attainment per class and goodput per GPU type, and says whether one load-only baseline leads at every load.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from recorded import recorded, trace_option

from autopoiesis.simulator.api import SLO, Fleet, Report, Run, capacity, evaluate_many
from autopoiesis.simulator.workload import Trace
from autopoiesis.simulator.workload.generate import classified

LOAD_ONLY = (
    "round_robin",
    "power_of_two",
    "least_requests",
    "least_kv_tokens",
    "capacity_proportional",
    "least_predicted_ttft",
)
KNOWING = ("slo_triage", "slo_triage_hold")
WARM_UP_S, WARM_UP_SHARE = 60.0, 0.1
"""Not scored: so many seconds of the span, or less where the span is short."""
GOALS = {"interactive": SLO(ttft_s=2.0, tpot_s=0.1), "batch": SLO(ttft_s=10.0, tpot_s=0.2, priority=1)}

Cell = dict[str, float]


def study(
    trace: Trace,
    fleet: Fleet,
    policies: Sequence[str],
    loads: Sequence[float],
    routers: Sequence[int],
    seeds: Sequence[int],
) -> dict[int, dict[str, dict[float, Cell]]]:
    """Figures by number of routers, policy and load."""
    warmup_s = min(WARM_UP_S, WARM_UP_SHARE * float(trace.arrival[-1]))
    found: dict[int, dict[str, dict[float, Cell]]] = {}
    for count in routers:
        reports = evaluate_many(
            policies,
            trace,
            fleet,
            GOALS,
            loads,
            seeds,
            routers=count,
            load_unit="capacity",
            warmup_s=warmup_s,
        )
        found[count] = {
            name: {load: cell(report, load) for load in loads}
            for name, report in zip(policies, reports, strict=True)
        }
        print_goodput(count, found[count], loads)
        print_parts(found[count], loads)
    return found


def cell(report: Report, load: float) -> Cell:
    """One policy at one load: means over seeds, and half the range of goodput."""
    runs = [run for run in report.runs if run.load == load]
    goodputs = [goodput(run, run.scored) for run in runs]
    figures = {
        "goodput": float(np.mean(goodputs)),
        "spread": (max(goodputs) - min(goodputs)) / 2,
        "attainment": float(np.mean([run.attainment() for run in runs])),
    }
    for name in GOALS:
        figures[f"attainment_{name}"] = float(np.mean([run.by_class()[name] for run in runs]))
    for gpu in sorted({totals.gpu for run in runs for totals in run.replicas}):
        figures[f"goodput_{gpu}"] = float(np.mean([goodput(run, run.gpu == gpu) for run in runs]))
    return figures


def goodput(run: Run, among: np.ndarray) -> float:
    """Requests per second within objectives."""
    return float((run.met & run.scored & among).sum()) / run.span_s


def print_goodput(routers: int, rows: dict[str, dict[float, Cell]], loads: Sequence[float]) -> None:
    print(f"\ngoodput (requests/s within objectives, +- half the range over seeds), {routers} router(s)")
    print(f"{'policy':>24}" + "".join(f"{f'load {load:g}':>16}" for load in loads))
    for name, by_load in rows.items():
        cells = [f"{by_load[load]['goodput']:9.2f} +-{by_load[load]['spread']:4.2f}" for load in loads]
        print(f"{name:>24}" + "".join(cells))
    leaders = [leader(rows, load) for load in loads]
    print(f"{'best load-only':>24}" + "".join(f"{name[:15]:>16}" for name in leaders))


def print_parts(rows: dict[str, dict[float, Cell]], loads: Sequence[float]) -> None:
    names = [key for key in next(iter(rows.values()))[loads[0]] if "_" in key]
    print(f"{'at load':>24}" + "".join(f"{name:>24}" for name in names))
    for load in dict.fromkeys((loads[0], loads[len(loads) // 2], loads[-1])):
        for name, by_load in rows.items():
            figures = "".join(f"{by_load[load][key]:24.3f}" for key in names)
            print(f"{f'{name[:18]} {load:g}':>24}" + figures)


def leader(rows: dict[str, dict[float, Cell]], load: float) -> str:
    return max((name for name in rows if name in LOAD_ONLY), key=lambda name: rows[name][load]["goodput"])


def conclude(found: dict[int, dict[str, dict[float, Cell]]], loads: Sequence[float]) -> dict[str, object]:
    """Does one load-only baseline lead everywhere, and how far is each from the best of its kind where it does worst?"""
    worst: dict[str, float] = {}
    for rows in found.values():
        for load in loads:
            best = rows[leader(rows, load)][load]["goodput"]
            for name in rows:
                share = rows[name][load]["goodput"] / best if best else 1.0
                worst[name] = min(worst.get(name, 2.0), share)
    print("\nleast share of the best load-only baseline's goodput, over all loads and numbers of routers")
    for name, share in sorted(worst.items(), key=lambda item: -item[1]):
        print(f"{name:>24} {share:7.3f}")
    everywhere = [name for name in LOAD_ONLY if worst.get(name, 0.0) >= 1.0]
    print(f"best everywhere among load-only baselines: {', '.join(everywhere) or 'none'}")
    return {"least_share": worst, "best_everywhere": everywhere}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    trace_option(parser)
    parser.add_argument("--fleet", default="2xH100 + 4xL4")
    parser.add_argument("--model", default="Llama-3.1-8B")
    parser.add_argument("--span", type=float, default=900.0, help="seconds of the trace, from its start")
    parser.add_argument("--loads", type=float, nargs="*", default=[0.6, 0.75, 0.9, 1.0, 1.15, 1.3])
    parser.add_argument("--routers", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--policies", nargs="*", default=[*LOAD_ONLY, *KNOWING])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    trace = recorded(given.trace)
    if trace is None:
        return 0
    trace = classified(trace.between(0.0, given.span), [("interactive", 0.7), ("batch", 0.3)])
    fleet = Fleet.parse(given.fleet, given.model)
    rate = capacity(fleet, trace)
    print(f"{given.fleet}, {given.model}: load 1.0 is {rate:.1f} requests/s; {len(trace)} requests recorded")
    found = study(trace, fleet, given.policies, given.loads, given.routers, given.seeds)
    result = {"capacity": rate, "cells": found, **conclude(found, given.loads)}
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
