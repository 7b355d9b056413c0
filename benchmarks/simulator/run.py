"""Simulated requests per second of processor time, through the real dispatch core, on a real trace.

    python benchmarks/simulator/run.py --trace AzureLLMInferenceTrace_conv.csv[.gz] [--json FILE]

The trace is brought to the stated share of each fleet's capacity by adding sessions. Keys: `rps_N` least KV tokens over N replicas at
90 % load, `rps_N_hold` a holding policy at 110 %, `engine_rps` the replica model alone, `growth` the time of twice the requests
over that of the first half (2 is linear), `peak_mib`.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import time
from pathlib import Path

from autopoiesis.policy import library
from autopoiesis.simulator.api import SLO, Fleet, Trace, WorldSettings, capacity, load_trace, objectives
from autopoiesis.simulator.engine import Job
from autopoiesis.simulator.replica import Replica
from autopoiesis.simulator.report import make_run
from autopoiesis.simulator.requests.prepared import Prepared
from autopoiesis.simulator.requests.world import World
from autopoiesis.simulator.workload import TraceError, scale_load

GOAL = SLO(ttft_s=2.0, tpot_s=0.1)
GPU = "H100"


def world_rate(
    trace: Trace, replicas: int, policy: str, load: float, requests: int
) -> tuple[float, dict[str, float]]:
    """Requests per second of processor time of the event loop, and the run's summary."""
    fleet = Fleet.parse(f"{replicas}x{GPU}")
    settings = WorldSettings()
    factor = load * capacity(fleet, trace) / trace.rate
    scaled = scale_load(trace.head(math.ceil(requests / factor)), factor).head(requests)
    prepared = Prepared(scaled, objectives(GOAL, trace.classes), fleet.replicas[0].model, settings)
    world = World(prepared, fleet, [library.load(policy)], settings)
    began = time.process_time()
    outcome = world.run()
    took = time.process_time() - began
    return len(scaled) / took, make_run(prepared, outcome, load=load).summary()


def engine_rate(trace: Trace, requests: int) -> float:
    """One replica alone at 90 % load, without routers."""
    fleet = Fleet.parse(f"1x{GPU}")
    scaled = scale_load(trace, 0.9 * capacity(fleet, trace) / trace.rate).head(requests)
    replica = Replica(fleet.replicas[0].steps, fleet.replicas[0].config)
    arrivals = zip(
        scaled.arrival.tolist(), scaled.prompt_tokens.tolist(), scaled.output_tokens.tolist(), strict=True
    )
    jobs = [(at, Job(row, prompt, output)) for row, (at, prompt, output) in enumerate(arrivals)]
    began = time.process_time()
    for at, job in jobs:
        replica.advance(at)
        replica.submit(at, job)
    replica.advance(float("inf"))
    return len(scaled) / (time.process_time() - began)


def measure(trace: Trace, requests: int, sizes: list[int]) -> dict[str, float]:
    found = {"engine_rps": engine_rate(trace, min(requests, 50_000))}
    print(f"{'replicas':>8} {'policy':>16} {'load':>5} {'requests/s':>11} {'attainment':>10} {'p95 TTFT':>9}")
    for replicas in sizes:
        for key, policy, load in (("", "least_kv_tokens", 0.9), ("_hold", "slo_triage_hold", 1.1)):
            rate, summary = world_rate(trace, replicas, policy, load, requests)
            found[f"rps_{replicas}{key}"] = rate
            print(
                f"{replicas:8d} {policy:>16} {load:5.1f} {rate:11,.0f} {summary['attainment']:10.3f} "
                f"{summary['ttft_s_p95']:8.2f}s"
            )
    half = requests / 2 / world_rate(trace, 8, "least_kv_tokens", 0.9, requests // 2)[0]
    found["growth"] = (
        requests / found.get("rps_8", world_rate(trace, 8, "least_kv_tokens", 0.9, requests)[0]) / half
    )
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"engine alone {found['engine_rps']:,.0f} requests/s; growth {found['growth']:.2f}; {found['peak_mib']:.0f} MiB"
    )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trace", type=Path, default=Path("AzureLLMInferenceTrace_conv.csv"))
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--replicas", type=int, nargs="*", default=[8, 64])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    try:
        trace = load_trace(given.trace)
    except TraceError as error:
        print(
            f"skipped: {error}. Get the trace from github.com/Azure/AzurePublicDataset and pass it with --trace."
        )
        return 0
    found = measure(trace, given.requests, given.replicas)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
