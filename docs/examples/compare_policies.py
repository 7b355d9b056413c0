"""Write a policy and see what it is worth, on traffic and a fleet of your own. Needs `autopoiesis-simulator[plots]`.

python compare_policies.py [--trace FILE] [--fleet SPEC] [--plot FILE]
"""

import argparse
from pathlib import Path

from autopoiesis.simulator import SLO, Trace, compare, load_trace
from autopoiesis.simulator.workload.generate import Lengths, Mix, bursts

MINE = '''
"""To the replica with the most free KV tokens per request it already has; the shortest expected work goes first."""

API = 1


def prioritize(request, ctx):
    return request.prompt_tokens + 10.0 * request.expected_output_tokens


def route(request, replicas, ctx):
    return Assign(max(replicas, key=room).index)


def room(replica):
    return (replica.kv_capacity_tokens - replica.kv_used_tokens) / (1 + replica.running + replica.waiting)
'''

CHAT = Mix("chat", 0.8, Lengths(600, 0.8), Lengths(150, 0.7, high=2048))
REPORTS = Mix("reports", 0.2, Lengths(4000, 0.5), Lengths(500, 0.5, high=2048))
OBJECTIVES = {"chat": SLO(ttft_s=1.0, tpot_s=0.06), "reports": SLO(ttft_s=8.0, tpot_s=0.15, priority=1)}


def traffic(trace: Path | None) -> Trace:
    """Recorded, or bursts of two classes: 8 requests/s for ten minutes."""
    return load_trace(trace) if trace else bursts(8.0, 600.0, mix=(CHAT, REPORTS), seed=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--fleet", default="1xL40S + 2xL4")
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    result = compare(
        {"mine": MINE, "least_requests": "least_requests", "slo_triage": "slo_triage"},
        traffic(given.trace),
        given.fleet,
        OBJECTIVES if given.trace is None else SLO(ttft_s=2.0, tpot_s=0.1),
        loads=(0.7, 1.0),
        load_unit="capacity",
    )
    for standing in result.ranking():
        gain = standing.against_best
        interval = (
            f"{gain.gain:+.1%} ({gain.low:+.1%} to {gain.high:+.1%})" if gain else "too short for an interval"
        )
        print(
            f"{standing.rank} group {standing.group} {standing.policy:16} {standing.figures['goodput']:.2f}/s {interval}"
        )
    if given.plot:
        from autopoiesis.simulator import plots

        plots.overview(result, highlight=["mine"]).savefig(given.plot, dpi=150)


if __name__ == "__main__":
    main()
