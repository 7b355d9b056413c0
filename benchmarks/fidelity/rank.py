"""The simulator against a real fleet: does it put policies in the same order?

    python benchmarks/fidelity/rank.py --python VENV/bin/python [--seconds 18] [--repeats 2] [--loads 0.75,1.2] [--json FILE]

Four real vLLMs run on this machine's processor behind the real router. Four busy engines on a few cores would slow each other down,
as no four machines do; therefore each step of their tiny model is drawn out by sleeping to a length that depends on its tokens
and sequences, and differs between the replicas (`paced/paced_worker.py`). Scheduling, batching, caches, telemetry and the way to the client
are vLLM's and ours, undisturbed.

A run under round robin comes first: from its step telemetry each replica's step model is fitted, and from its latencies come the
objectives and the time that requests spend outside the engines. Then each shipped policy serves the same conversations (shared
prefixes, each turn behind all that was said) at each load, live and in the simulator. Load 1.0 is the simulated fleet's capacity for
such requests.

Printed per load: goodput and p95 TTFT, measured beside simulated; Kendall's tau-b between the two orders; how well the measurement
agrees with itself (mean tau between its repeats); and of the pairs of policies in the wrong order, how many differ by less than the
noise of the measurement (two standard errors of a difference; the variance between repeats is pooled over the policies). A quarter
of an hour; nothing else should run meanwhile.

Keys, per load: `tau_goodput`, `tau_ttft`, `self_tau_goodput`, `self_tau_ttft`, `inversions_goodput`, `inversions_ttft` and `..._within_noise`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, count
from pathlib import Path
from typing import Final

import numpy as np
from cpu_engine import BLOCK_TOKENS, CHUNK_TOKENS, KV_TOKENS
from cpu_fleet import FLEET_RUNNING, MODEL, CpuFleet
from scipy.stats import kendalltau

from autopoiesis.cli.load import LoadResult, run_load
from autopoiesis.contracts.messages.fleet import StepModel
from autopoiesis.simulator.api import SLO, Fleet, Trace, WorldSettings, capacity, evaluate_many, objectives
from autopoiesis.simulator.calibrate import fit_affine
from autopoiesis.simulator.engine import EngineConfig
from autopoiesis.simulator.fleet import ReplicaSpec
from autopoiesis.simulator.workload.generate import Lengths, Mix, sessions

POLICIES: Final = (
    "round_robin",
    "least_requests",
    "power_of_two",
    "least_kv_tokens",
    "least_predicted_ttft",
    "session_affinity",
    "sglang_cache_aware",
    "preble",
)
MIX: Final = Mix("default", 1.0, Lengths(120, 0.6, high=400), Lengths(25, 0.6, high=100))
TURNS, THINK_S = 3.0, 1.5
LEAD_TURNS: Final = 8
"""Conversations that began so many thinking times earlier have their later turns in the run."""
SYSTEM_TOKENS: Final = 256
TRACE_BLOCK_TOKENS: Final = 256
"""The router's own: 1024 bytes."""
UNEVEN: Final = 0.03
FIGURES: Final = ("goodput", "ttft")
CALIBRATION_RATE: Final = 4.0
"""Requests per second of the first run."""
CALIBRATION_S: Final = 30.0
STEPS_COME_S: Final = 6.0
"""Workers send steps every five seconds."""


@dataclass(frozen=True)
class Calibrated:
    """The simulated fleet, its objectives, and engine tokens per token of a trace."""

    fleet: Fleet
    slo: SLO
    token_ratio: float
    latency_s: float
    errors: dict[str, float]


def workload(rate: float, seconds: float, seed: int) -> Trace:
    """`rate` requests per second in conversations, from the start on as many as are under way later.

    The first draw from `seed` on with that many requests, give or take `UNEVEN`: a short run may else have a fifth more or less.
    """
    lead = LEAD_TURNS * THINK_S
    for number in count(seed):
        trace = sessions(
            rate / TURNS,
            lead + seconds,
            turns=TURNS,
            think_s=THINK_S,
            system_tokens=SYSTEM_TOKENS,
            mix=MIX,
            block_tokens=TRACE_BLOCK_TOKENS,
            closed_loop=False,
            seed=number,
        )
        part = trace.shifted(-lead).between(0.0, seconds)
        if abs(len(part) / (rate * seconds) - 1) < UNEVEN:
            return part
    raise AssertionError("there is always another seed")


def as_engines_count(trace: Trace, ratio: float) -> Trace:
    """The trace with lengths as the engines' tokenizer counts; the router goes on estimating from bytes."""
    blocks = max(BLOCK_TOKENS, round(TRACE_BLOCK_TOKENS * ratio / BLOCK_TOKENS) * BLOCK_TOKENS)
    return replace(
        trace,
        prompt_tokens=np.maximum(1, np.round(trace.prompt_tokens * ratio)).astype(np.int64),
        prompt_bytes=trace.prompt_tokens * 4,
        block_tokens=blocks,
    )


async def calibrate(fleet: CpuFleet, seed: int) -> Calibrated:
    await fleet.pin("round_robin")
    trace = workload(CALIBRATION_RATE, CALIBRATION_S, seed)
    result = await live(fleet, trace, SLO(ttft_s=math.inf, tpot_s=math.inf), seed)
    await asyncio.sleep(STEPS_COME_S)
    finished = [record for record in result.records if record.outcome == "finished"]
    ratio = sum(record.prompt_tokens for record in finished) / int(trace.prompt_tokens[: len(finished)].sum())
    blocks = as_engines_count(trace, ratio).block_tokens
    specs, errors = [], {}
    for name, beat in sorted(fleet.beats.items()):
        fit = fit_affine(fleet.steps[name])
        errors[name] = fit.error
        config = EngineConfig(
            kv_capacity_tokens=KV_TOKENS,
            max_batched_tokens=CHUNK_TOKENS,
            max_running=FLEET_RUNNING,
            block_tokens=BLOCK_TOKENS,
            prefix_block_tokens=blocks,
        )
        specs.append(ReplicaSpec(name=name, model=MODEL, gpu=beat.gpu, steps=fit.steps, config=config))
    ttft = [record.ttft_s for record in finished if record.ttft_s is not None]
    tpot = [record.tpot_s for record in finished if record.tpot_s is not None]
    slo = SLO(ttft_s=2 * float(np.percentile(ttft, 75)), tpot_s=1.5 * float(np.percentile(tpot, 75)))
    simulated = Fleet(tuple(specs))
    latency = await outside(simulated, trace, ratio, slo, ttft)
    return Calibrated(simulated, slo, ratio, latency, errors)


async def outside(fleet: Fleet, trace: Trace, ratio: float, slo: SLO, ttft: Sequence[float]) -> float:
    """Median seconds by which measured first tokens come later than simulated ones."""
    ours = simulate(Calibrated(fleet, slo, ratio, 0.0, {}), trace, ("round_robin",), 1.0)
    return max(0.0, statistics.median(ttft) - ours["round_robin"]["ttft_p50"])


async def live(fleet: CpuFleet, trace: Trace, slo: SLO, seed: int) -> LoadResult:
    """Prompts of another `seed` are other words, so that no run hits what an earlier one left in the caches."""
    goals = objectives(slo, ("default",))
    return await run_load(
        fleet.url, trace, model=MODEL, classes=goals, lengths="pin", timeout=600.0, seed=seed
    )


def simulate(
    calibrated: Calibrated, trace: Trace, policies: Sequence[str], seconds: float
) -> dict[str, dict[str, float]]:
    """Requests within their objectives per second of the `seconds` in which they arrived, and percentiles of TTFT."""
    reports = evaluate_many(
        policies,
        as_engines_count(trace, calibrated.token_ratio),
        calibrated.fleet,
        calibrated.slo,
        seeds=(0, 1, 2),
        settings=WorldSettings(latency_s=calibrated.latency_s),
    )
    found = {}
    for policy, report in zip(policies, reports, strict=True):
        rows = [run.summary() for run in report.runs]
        mean = {
            name: statistics.fmean(row[name] for row in rows)
            for name in ("attainment", "ttft_s_p95", "ttft_s_p50")
        }
        found[policy] = {
            "goodput": mean["attainment"] * len(trace) / seconds,
            "ttft": mean["ttft_s_p95"],
            "ttft_p50": mean["ttft_s_p50"],
        }
    return found


Measured = dict[str, list[dict[str, float]]]


def compare(measured: Measured, simulated: dict[str, dict[str, float]]) -> dict[str, float]:
    """Print the table of one load; the keys."""
    print(f"{'policy':24} {'goodput/s':>20} {'p95 TTFT s':>20}")
    for policy in POLICIES:
        cells = []
        for name in FIGURES:
            real = statistics.fmean(row[name] for row in measured[policy])
            cells.append(f"{real:9.3f} {simulated[policy][name]:10.3f}")
        print(f"{policy:24} {cells[0]} {cells[1]}")
    keys: dict[str, float] = {}
    for name in FIGURES:
        seen = {policy: [row[name] for row in rows] for policy, rows in measured.items()}
        keys |= agreement(name, seen, {policy: simulated[policy][name] for policy in POLICIES})
    return keys


def agreement(name: str, real: dict[str, list[float]], ours: dict[str, float]) -> dict[str, float]:
    means = {policy: statistics.fmean(values) for policy, values in real.items()}
    wrong = [(a, b) for a, b in combinations(POLICIES, 2) if (means[a] - means[b]) * (ours[a] - ours[b]) < 0]
    noise = 2 * standard_error(real)
    near = [pair for pair in wrong if abs(means[pair[0]] - means[pair[1]]) < noise]
    repeats = len(next(iter(real.values())))
    itself = [
        tau([real[p][i] for p in POLICIES], [real[p][j] for p in POLICIES])
        for i, j in combinations(range(repeats), 2)
    ]
    keys = {
        f"tau_{name}": tau([means[p] for p in POLICIES], [ours[p] for p in POLICIES]),
        f"self_tau_{name}": statistics.fmean(itself) if itself else math.nan,
        f"inversions_{name}": len(wrong),
        f"inversions_{name}_within_noise": len(near),
    }
    print(
        f"{name:>8}: tau {keys[f'tau_{name}']:.2f} (the measurement with itself {keys[f'self_tau_{name}']:.2f});"
        f" {len(wrong)} of {math.comb(len(POLICIES), 2)} pairs in the wrong order, {len(near)} of them within noise"
        f" ({noise:.3f})"
    )
    return keys


def tau(a: Sequence[float], b: Sequence[float]) -> float:
    return float(kendalltau(a, b).statistic)


def standard_error(real: dict[str, list[float]]) -> float:
    """Of the difference of two policies' means; infinite without repeats, where nothing can be told apart."""
    repeats = len(next(iter(real.values())))
    if repeats < 2:
        return math.inf
    return math.sqrt(2 * statistics.fmean(statistics.variance(values) for values in real.values()) / repeats)


async def rank(
    python: str, seconds: float, repeats: int, loads: Sequence[float], seed: int
) -> dict[str, object]:
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {what}", file=sys.stderr, flush=True)

    tell("starting four vLLMs")
    async with CpuFleet(python) as fleet:
        tell("calibrating")
        calibrated = await calibrate(fleet, seed)
        most = capacity(
            calibrated.fleet, as_engines_count(workload(10.0, 300.0, seed), calibrated.token_ratio)
        )
        print_calibration(calibrated, most)
        result: dict[str, object] = {"capacity_rps": most, "step_err": calibrated.errors}
        number = seed
        for load in loads:
            trace = workload(load * most, seconds, seed + 1)
            measured: Measured = {policy: [] for policy in POLICIES}
            for repeat in range(repeats):  # policies in turn: a drift of the machine meets all of them
                for policy in POLICIES:
                    number += 1
                    await fleet.pin(policy)
                    seen = (await live(fleet, trace, calibrated.slo, number)).overall
                    measured[policy].append({"goodput": seen.met / seconds, "ttft": seen.ttft.p95})
                    tell(f"load {load:.0%}, run {repeat + 1} of {repeats}, {policy}: {seen.met} in time")
            for name, beat in sorted(fleet.beats.items()):
                tell(f"{name} now tells of {in_words(beat.step_model)}")
            print(f"\nload {load:.0%}: {len(trace)} requests, measured and simulated")
            result[f"{load:g}"] = compare(measured, simulate(calibrated, trace, POLICIES, seconds))
        return result


def in_words(steps: StepModel | None) -> str:
    """What live predictions rest on; one that is far from the others explains a policy that trusted it."""
    if steps is None:
        return "no step model"
    return (
        f"steps of {steps.base_s * 1e3:.1f} ms + {steps.prefill_token_s * 1e3:.3f} ms/prompt token"
        f" + {steps.kv_token_s * 1e6:.3f} us/KV token + {steps.sequence_s * 1e3:.2f} ms/sequence"
    )


def print_calibration(found: Calibrated, most: float) -> None:
    fits = ", ".join(f"{name} {error:.0%}" for name, error in found.errors.items())
    print(f"capacity {most:.2f} requests/s; step models fitted, median errors: {fits}")
    print(
        f"objectives: first token {found.slo.ttft_s:.3f} s, then {found.slo.tpot_s:.3f} s each;"
        f" {found.latency_s * 1e3:.0f} ms outside the engines; {found.token_ratio:.2f} engine tokens per estimated one"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulated against measured order of policies.")
    parser.add_argument("--python", required=True, help="interpreter that has vLLM and the worker")
    parser.add_argument("--seconds", type=float, default=18.0, help="of each run")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--loads", default="0.75,1.2")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the keys there")
    args = parser.parse_args()
    if not Path(args.python).exists():
        print(f"skipped: no interpreter {args.python}; `make test-vllm` sets one up")
        return 0
    loads = [float(part) for part in args.loads.split(",")]
    result = asyncio.run(rank(args.python, args.seconds, args.repeats, loads, args.seed))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
