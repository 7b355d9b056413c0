"""Agentic workflows on a prefill-decode cluster: does a router that knows workflows serve them sooner?

    python benchmarks/agentic/run.py --trace agentic_coding_sessions.jsonl.gz [--rate 1 4] [--policy FILE] [--picture FILE] [--json FILE]

Sessions of the trace are workflows: a call arrives when the calls it waits for have ended. What counts is the time C of a whole
workflow against its horizon H, the time it takes alone on the same cluster: Req95 is the smallest factor within which 95 % of all
workflows end, that percentile of C/H (nearest rank), as in HexAGenT (arXiv 2605.16637). All policies meet the same workflows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from policies import compared, name_of

from autopoiesis.simulator import SLO, Fleet, Run, Trace, WorldSettings, evaluate, evaluate_many, load_trace
from autopoiesis.simulator.extras import figure_class
from autopoiesis.simulator.plots import COLOURS, DASHES

INSTANCES = "2xA100-80/tp4:{role} + 3xH100/tp4:{role} + 3xH200/tp4:{role}"
FLEET = " + ".join(INSTANCES.format(role=role) for role in ("prefill", "decode"))
"""HexAGenT's Hetero-1; how many GPUs an instance has is not known, four hold the model and a cache."""
PATIENT_S = 3600.0
"""Held calls are the policy's for so long; the router's own bound would hand them to its fallback."""
ANY_TIME = SLO()
ALONE = name_of("HexAGenT", "joint")


def workflows(
    path: Path, count: int, calls: int, rate: float, scale: float, longest_gap_s: float, seed: int
) -> Trace:
    """The first `calls` calls of the first `count` sessions, starting as a Poisson process of `rate` per second."""
    whole = load_trace(
        path, sessions=count, sessions_per_s=rate, scale=scale, longest_gap_s=longest_gap_s, seed=seed
    )
    place = np.zeros(len(whole), np.int64)
    seen: dict[int, int] = {}
    for row, session in enumerate(whole.session.tolist()):
        place[row] = seen[session] = seen.get(session, -1) + 1
    return whole.take(np.flatnonzero(place < calls))


def spans(run: Run) -> dict[int, float]:
    """Seconds from each session's first arrival to its last end. Raises ValueError where a call was not served."""
    if np.isnan(run.e2e_s).any():
        raise ValueError(f"{int(np.isnan(run.e2e_s).sum())} calls were not served; no ratio without them")
    return {
        int(session): float(run.ended_s[rows].max() - run.arrival_s[rows].min())
        for session in np.unique(run.session)
        for rows in [run.session == session]
    }


def horizons(trace: Trace, fleet: Fleet, policy: str, settings: WorldSettings) -> dict[int, float]:
    """Seconds that each workflow takes alone on the idle cluster."""
    found: dict[int, float] = {}
    for session in np.unique(trace.session).tolist():
        alone = trace.take(np.flatnonzero(trace.session == session))
        alone = alone.shifted(1.0 - float(alone.arrival[0]))
        found |= spans(evaluate(policy, alone, fleet, ANY_TIME, settings=settings).runs[0])
    return found


def ratios(
    policies: Mapping[str, str], trace: Trace, fleet: Fleet, settings: WorldSettings
) -> dict[str, list[float]]:
    """C/H of every workflow under every policy."""
    alone = horizons(trace, fleet, policies[ALONE], settings)
    reports = evaluate_many(list(policies.values()), trace, fleet, ANY_TIME, settings=settings)
    found = {}
    for name, report in zip(policies, reports, strict=True):
        if faults := report.faults():
            raise ValueError(f"{name} failed and the fallback decided: {faults}")
        found[name] = [took / alone[session] for session, took in spans(report.runs[0]).items()]
    return found


def nearest_rank(values: Sequence[float], percent: int) -> float:
    return float(np.percentile(values, percent, method="inverted_cdf"))


def table(found: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Best Req95 first."""
    rows = [
        {
            "policy": name,
            "workflows": len(values),
            "mean": float(np.mean(values)),
            "req50": nearest_rank(values, 50),
            "req95": nearest_rank(values, 95),
            "req99": nearest_rank(values, 99),
        }
        for name, values in found.items()
    ]
    return sorted(rows, key=lambda row: (row["req95"], row["req99"]))


def draw(found: Mapping[str, Sequence[float]], file: Path) -> None:
    """Share of workflows that end within each factor of their horizon."""
    figure = figure_class()(figsize=(8.5, 4.4), layout="constrained")
    axis = figure.subplots()
    for (name, values), colour, dash in zip(found.items(), COLOURS, DASHES, strict=False):
        axis.step(np.sort(values), 100 * np.arange(1, len(values) + 1) / len(values), where="post", label=name, color=colour, linestyle=dash)  # fmt: skip
    axis.axhline(95, color="#888888", linewidth=0.7)
    axis.set(
        xlabel="time of the workflow over its time alone (C/H)",
        ylabel="workflows (%)",
        xscale="log",
        ylim=(0, 101),
    )
    axis.xaxis.set_major_formatter("{x:g}")
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    figure.savefig(file, dpi=150)


def at_rate(
    given: argparse.Namespace, rate: float, policies: Mapping[str, str], fleet: Fleet, settings: WorldSettings
) -> dict[str, list[float]]:
    """C/H by policy, all seeds together."""
    found: dict[str, list[float]] = {name: [] for name in policies}
    for seed in range(given.seeds):
        trace = workflows(
            given.trace, given.workflows, given.calls, rate, given.scale, given.longest_gap, seed
        )
        for name, values in ratios(policies, trace, fleet, settings).items():
            found[name] += values
    return found


def show(rate: float, rows: Sequence[Mapping[str, Any]]) -> None:
    print(
        f"\n{rate:g} workflows/s{'':15} {'mean':>6} {'Req50':>6} {'Req95':>6} {'Req99':>6}   C/H, lower is better"
    )
    for row in rows:
        print(
            f"{row['policy']:28} {row['mean']:6.2f} {row['req50']:6.2f} {row['req95']:6.2f} {row['req99']:6.2f}"
        )


def main(words: Sequence[str] | None = None) -> int:
    given = arguments(words)
    settings = WorldSettings()
    settings = replace(settings, dispatch=replace(settings.dispatch, hold_max_s=PATIENT_S))
    policies = compared() | {path.stem: path.read_text() for path in given.policy}
    fleet = Fleet.parse(given.fleet, given.model)
    print(
        f"{given.seeds} x {given.workflows} workflows, up to {given.calls} calls each, {len(fleet.replicas)} instances of {given.model}"
    )
    rows = []
    for rate in given.rate:
        found = at_rate(given, rate, policies, fleet, settings)
        ranked = table(found)
        show(rate, ranked)
        rows += [{"rate": rate, **row} for row in ranked]
    if given.json:
        given.json.write_text(json.dumps({"asked": vars(given), "rows": rows}, default=str, indent=1) + "\n")
    if given.picture:
        draw(found, given.picture)
    return 0


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trace", type=Path, required=True, help="agentic sessions, one a line (callanjfox/kv-cache-tester)"
    )
    parser.add_argument("--workflows", type=int, default=100)
    parser.add_argument("--calls", type=int, default=8, help="of each workflow, at most")
    parser.add_argument(
        "--rate", type=float, nargs="+", default=[1.0, 2.0, 4.0, 8.0], help="workflows that start per second"
    )
    parser.add_argument(
        "--scale",
        type=float,
        default=1 / 16,
        help="of all lengths: prompts of the trace run to 500,000 tokens",
    )
    parser.add_argument(
        "--longest-gap", type=float, default=0.0, help="seconds a tool or a person may take between calls"
    )
    parser.add_argument("--fleet", default=FLEET)
    parser.add_argument("--model", default="Llama-3.1-70B")
    parser.add_argument("--seeds", type=int, default=3, help="each draws the workflows' starts anew")
    parser.add_argument(
        "--policy", type=Path, action="append", default=[], help="a policy of yours; may repeat"
    )
    parser.add_argument("--picture", type=Path, help="of the last rate")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
