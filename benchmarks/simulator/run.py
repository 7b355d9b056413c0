"""Simulated requests per second of processor time, through the real dispatch core, on a real trace.

    python benchmarks/simulator/run.py --trace AzureLLMInferenceTrace_conv.csv[.gz] [--aisimulate PYTHON] [--json FILE]

The trace is brought to the stated share of each fleet's capacity by adding sessions. Keys:

    rps_N, rps_N_hold          least KV tokens over N replicas at 90 % load; a holding policy at 110 %
    engine_rps                 the replica model alone
    growth                     time of twice the requests over that of the first half, 8 replicas (2 is linear)
    long_rps, long_peak_mib    --long requests in a process of their own, the trace repeated in time, 8 replicas at 90 %
    ratio_aisimulate_8         our rate over AISimulate's on the same requests and fleet, 8 replicas at 90 %;
                               ratio_aisimulate_8_recorded at the trace's own rate. AISimulate routes round robin

Where `make compiled` has made an environment of today's sources, everything is measured in both: each key is then the compiled
figure, and KEY_interpreted the other. Without it each key is the interpreted figure, and there is no other.

AISimulate (`pip install --pre --only-binary aisimulate aisimulate`, in an environment of its own) is found through --aisimulate or
AISIMULATE_PYTHON and is left out where there is none.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from peer import Peer, PeerError
from recorded import recorded, trace_option

from autopoiesis.dispatch import core
from autopoiesis.policy import library
from autopoiesis.simulator.api import SLO, Fleet, Trace, WorldSettings, capacity, load_trace, objectives
from autopoiesis.simulator.engine import Job
from autopoiesis.simulator.replica import Replica
from autopoiesis.simulator.report import make_run
from autopoiesis.simulator.requests.prepared import Prepared
from autopoiesis.simulator.requests.world import World
from autopoiesis.simulator.workload import scale_load

GOAL = SLO(ttft_s=2.0, tpot_s=0.1)
GPU = "H100"
PEER_REQUESTS = 20_000
REPOSITORY = Path(__file__).resolve().parents[2]
COMPILED = REPOSITORY / ".venv-compiled/bin/python"


def loaded(trace: Trace, fleet: Fleet, load: float, requests: int) -> Trace:
    """`requests` of the trace at `load` times the fleet's capacity, the trace repeated in time where it is too short."""
    factor = load * capacity(fleet, trace) / trace.rate
    times = math.ceil(requests / factor / len(trace))
    if times > 1:
        period = trace.duration + 1 / trace.rate
        trace = Trace.of(
            trace.name,
            np.concatenate([trace.arrival + n * period for n in range(times)]),
            np.tile(trace.prompt_tokens, times),
            np.tile(trace.output_tokens, times),
        )
    return scale_load(trace.head(math.ceil(requests / factor)), factor).head(requests)


def world_rate(requests: Trace, fleet: Fleet, policy: str, load: float) -> tuple[float, dict[str, float]]:
    """Requests per second of processor time of the event loop, and the run's summary."""
    settings = WorldSettings()
    prepared = Prepared(requests, objectives(GOAL, requests.classes), fleet.replicas[0].model, settings)
    world = World(prepared, fleet, [library.load(policy)], settings)
    began = time.process_time()
    outcome = world.run()
    took = time.process_time() - began
    return len(requests) / took, make_run(prepared, outcome, load=load).summary()


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


def speed(trace: Trace, requests: int, sizes: list[int]) -> dict[str, float]:
    found: dict[str, float] = {}
    print(f"{'replicas':>8} {'policy':>16} {'load':>5} {'requests/s':>11} {'attainment':>10} {'p95 TTFT':>9}")
    for replicas in sizes:
        fleet = Fleet.parse(f"{replicas}x{GPU}")
        for key, policy, load in (("", "least_kv_tokens", 0.9), ("_hold", "slo_triage_hold", 1.1)):
            rate, summary = world_rate(loaded(trace, fleet, load, requests), fleet, policy, load)
            found[f"rps_{replicas}{key}"] = rate
            print(
                f"{replicas:8d} {policy:>16} {load:5.1f} {rate:11,.0f} {summary['attainment']:10.3f} "
                f"{summary['ttft_s_p95']:8.2f}s"
            )
    return found


def growth(trace: Trace, requests: int) -> float:
    fleet = Fleet.parse(f"8x{GPU}")
    whole = loaded(trace, fleet, 0.9, requests)
    half, full = (
        len(part) / world_rate(part, fleet, "least_kv_tokens", 0.9)[0]
        for part in (whole.head(requests // 2), whole)
    )
    return full / half


def long_run(path: Path, requests: int) -> tuple[float, float]:
    """Rate and peak MiB of this process, which is to be a fresh one."""
    fleet = Fleet.parse(f"8x{GPU}")
    rate, _ = world_rate(loaded(load_trace(path), fleet, 0.9, requests), fleet, "least_kv_tokens", 0.9)
    return rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def against(peer: Peer, trace: Trace, requests: int) -> dict[str, float]:
    """Both simulators on the same requests, one after the other."""
    fleet = Fleet.parse(f"8x{GPU}")
    found = {}
    for key, load in (("", 0.9), ("_recorded", trace.rate / capacity(fleet, trace))):
        part = loaded(trace, fleet, load, requests)
        ours, summary = world_rate(part, fleet, "least_kv_tokens", load)
        theirs = peer.run(part, fleet)
        found[f"ratio_aisimulate_8{key}"] = ours / theirs.rate
        found[f"aisimulate_rps_8{key}"] = theirs.rate
        print(
            f"load {load:.2f}: {ours:,.0f} requests/s, mean TTFT {summary['ttft_s_mean']:.3f} s; AISimulate "
            f"{theirs.version} {theirs.rate:,.0f}, {theirs.ttft_s:.3f} s; ratio {ours / theirs.rate:.1f}"
        )
    return found


def measured(given: argparse.Namespace, trace: Trace) -> dict[str, float]:
    """All figures of the interpreter that runs this."""
    found = speed(trace, given.requests, given.replicas)
    found["engine_rps"] = engine_rate(trace, min(given.requests, 50_000))
    found["growth"] = growth(trace, given.requests)
    print(f"engine alone {found['engine_rps']:,.0f} requests/s; growth {found['growth']:.2f}")
    if given.long:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found["long_rps"], found["long_peak_mib"] = pool.apply(long_run, (given.trace, given.long))
        print(
            f"{given.long:,} requests: {found['long_rps']:,.0f} requests/s, peak {found['long_peak_mib']:.0f} MiB"
        )
    try:
        found |= against(Peer(given.aisimulate), trace, min(given.requests, PEER_REQUESTS))
    except PeerError as error:
        print(f"AISimulate skipped: {error}")
    return found


def is_compiled() -> bool:
    return not core.__file__.endswith(".py")


def compiled() -> dict[str, float] | None:
    """The same figures of the compiled environment; none where it is missing or older than the sources."""
    check = [sys.executable, str(REPOSITORY / "infra/compiled.py"), "--check"]
    if subprocess.run(check, check=False).returncode:
        print("not measured compiled: no environment of today's sources (make compiled)")
        return None
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "compiled.json"
        print("\ncompiled:", flush=True)
        subprocess.run([str(COMPILED), *sys.argv, "--json", str(result)], check=True)
        found: dict[str, float] = json.loads(result.read_text())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    trace_option(parser)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--replicas", type=int, nargs="*", default=[1, 8, 64, 256])
    parser.add_argument("--long", type=int, default=1_000_000, help="requests of the long run, 0 for none")
    parser.add_argument("--aisimulate", default=os.environ.get("AISIMULATE_PYTHON", ""), metavar="PYTHON")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    trace = recorded(given.trace)
    if trace is None:
        return 0
    found = measured(given, trace)
    faster = None if is_compiled() else compiled()
    if faster is not None:
        print(f"\n{'':28}{'interpreted':>12}{'compiled':>12}")
        for key, value in faster.items():
            print(f"{key:28}{found[key]:12,.1f}{value:12,.1f}")
        found = faster | {f"{key}_interpreted": value for key, value in found.items()}
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
