"""The simulator against a real fleet: does it put policies in the same order?

    python benchmarks/fidelity/rank.py --python VENV/bin/python [--seconds 15] [--repeats 2] [--loads 0.75,1.2]
        [--keep FILE] [--record FILE] [--json FILE]

Four real vLLMs run on this machine's processor behind the real router. Four busy engines on a few cores would slow each other down,
as no four machines do; therefore each step of their tiny model is drawn out by sleeping to a length that depends on its tokens
and sequences, and differs between the replicas (`paced/paced_worker.py`). Scheduling, batching, caches, telemetry and the way to the client
are vLLM's and ours, undisturbed.

A run under round robin comes first: from its step telemetry each replica's step model is fitted, and from its latencies come the
objectives and the time that requests spend outside the engines. Then each shipped policy serves the same conversations (shared
prefixes, each turn behind all that was said) at each load, live and in the simulator; in every run they are conversations
of other people with other words. Load 1.0 is the simulated fleet's capacity for such requests.

Printed per load: goodput and p95 TTFT, measured (mean of the repeats, and half of their range) beside simulated; Kendall's tau-b
between the two orders; how well the measurement agrees with itself (mean tau between its repeats); and of the pairs of policies in
the wrong order, how many differ by less than the noise of the measurement (two standard errors of a difference; the variance
between repeats is pooled over the policies). Last how much longer the replicas' steps took than they were drawn out to: more than
a few per cent means that the machine had other work.

Twelve minutes on a quiet machine. With `--keep` every run is kept as soon as it is over, and the same command goes on where it was
broken off. `--record` has the router write what `predictions.py` reads.

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
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from agreement import compare, mean
from cpu_engine import BLOCK_TOKENS, CHUNK_TOKENS, KV_TOKENS
from cpu_fleet import FLEET_RUNNING, MODEL, PROMPT_TOKEN_S, SEQUENCE_S, STEP_S, CpuFleet
from kept import Kept, KeptError

from autopoiesis.cli.load import LoadResult, run_load
from autopoiesis.contracts.messages.telemetry import StepRecord
from autopoiesis.simulator.api import SLO, Fleet, Trace, WorldSettings, capacity, evaluate_many, objectives
from autopoiesis.simulator.calibrate import fit_affine
from autopoiesis.simulator.engine import EngineConfig
from autopoiesis.simulator.fleet import ReplicaSpec
from autopoiesis.simulator.steptime import AffineSteps
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
CALIBRATION_RATE: Final = 4.0
"""Requests per second of the first run."""
CALIBRATION_S: Final = 30.0
STEPS_COME_S: Final = 6.0
"""Workers send steps every five seconds."""
NAMES_PER_RUN: Final = 1_000_000


class Calibrated(msgspec.Struct, kw_only=True):
    """What the first run shows. Seconds; `token_ratio`: engine tokens per token of a trace."""

    steps: dict[str, tuple[float, float, float, float]]
    """By replica, coefficients of `AffineSteps`."""
    gpus: dict[str, str]
    ttft_s: float
    tpot_s: float
    token_ratio: float
    latency_s: float = 0.0
    errors: dict[str, float]

    @property
    def slo(self) -> SLO:
        return SLO(ttft_s=self.ttft_s, tpot_s=self.tpot_s)

    @property
    def fleet(self) -> Fleet:
        config = EngineConfig(
            kv_capacity_tokens=KV_TOKENS,
            max_batched_tokens=CHUNK_TOKENS,
            max_running=FLEET_RUNNING,
            block_tokens=BLOCK_TOKENS,
            prefix_block_tokens=self.block_tokens,
        )
        return Fleet(
            tuple(
                ReplicaSpec(
                    name=name, model=MODEL, gpu=self.gpus[name], steps=AffineSteps(*steps), config=config
                )
                for name, steps in self.steps.items()
            )
        )

    @property
    def block_tokens(self) -> int:
        """Engine tokens of one of the router's blocks, in whole blocks of the engine."""
        return max(BLOCK_TOKENS, round(TRACE_BLOCK_TOKENS * self.token_ratio / BLOCK_TOKENS) * BLOCK_TOKENS)

    def counted(self, trace: Trace) -> Trace:
        """The trace with lengths as the engines' tokenizer counts, and limits as the load generator sets them.

        The router goes on estimating from bytes.
        """
        return replace(
            trace,
            prompt_tokens=np.maximum(1, np.round(trace.prompt_tokens * self.token_ratio)).astype(np.int64),
            prompt_bytes=trace.prompt_tokens * 4,
            max_tokens=trace.output_tokens,
            block_tokens=self.block_tokens,
        )


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


async def calibrate(fleet: CpuFleet, seed: int) -> Calibrated:
    await fleet.pin("round_robin")
    trace = workload(CALIBRATION_RATE, CALIBRATION_S, seed)
    result = await live(fleet, trace, SLO(ttft_s=math.inf, tpot_s=math.inf), seed)
    await asyncio.sleep(STEPS_COME_S)
    finished = [record for record in result.records if record.outcome == "finished"]
    ttft = [record.ttft_s for record in finished if record.ttft_s is not None]
    tpot = [record.tpot_s for record in finished if record.tpot_s is not None]
    fits = {name: fit_affine(fleet.steps[name]) for name in sorted(fleet.beats)}
    found = Calibrated(
        steps={name: fit.steps.step_coefficients() for name, fit in fits.items()},
        gpus={name: beat.gpu for name, beat in fleet.beats.items()},
        ttft_s=2 * float(np.percentile(ttft, 75)),
        tpot_s=1.5 * float(np.percentile(tpot, 75)),
        token_ratio=sum(r.prompt_tokens for r in finished) / int(trace.prompt_tokens[: len(finished)].sum()),
        errors={name: fit.error for name, fit in fits.items()},
    )
    ours = simulate(found, trace, None, ("round_robin",), CALIBRATION_S)["round_robin"]["ttft_p50"]
    found.latency_s = max(0.0, statistics.median(ttft) - ours)
    return found


def of_run(trace: Trace, run: int) -> Trace:
    """The trace with sessions of the run's own: routers remember where they sent a session."""
    return replace(trace, session=np.where(trace.session > 0, trace.session + run * NAMES_PER_RUN, 0))


async def live(fleet: CpuFleet, trace: Trace, slo: SLO, run: int) -> LoadResult:
    """Of another `run` the prompts are other words and the sessions others, so that nothing an earlier one left helps or harms."""
    goals = objectives(slo, ("default",))
    return await run_load(
        fleet.url, of_run(trace, run), model=MODEL, classes=goals, lengths="pin", timeout=600.0, seed=run
    )


def simulate(
    calibrated: Calibrated, trace: Trace, lead: Trace | None, policies: Sequence[str], seconds: float
) -> dict[str, dict[str, float]]:
    """Requests within their objectives per second of the `seconds` in which they arrived, and percentiles of TTFT.

    `lead` comes before, unscored: live routers too have seen requests before. Means over runs in which each replica once is the
    first that the router heard of: a policy that follows one prefix sends the rest where the first request went.
    """
    order = calibrated.fleet.replicas
    summaries: dict[str, list[dict[str, float]]] = {policy: [] for policy in policies}
    for first in range(len(order)):
        reports = evaluate_many(
            policies,
            calibrated.counted(trace),
            Fleet((*order[first:], *order[:first])),
            calibrated.slo,
            seeds=(first,),
            settings=WorldSettings(latency_s=calibrated.latency_s),
            lead=calibrated.counted(lead) if lead is not None else None,
        )
        for policy, report in zip(policies, reports, strict=True):
            summaries[policy] += report.summary()
    found = {}
    for policy, rows in summaries.items():
        found[policy] = {
            "goodput": mean(rows, "attainment") * len(trace) / seconds,
            "ttft": mean(rows, "ttft_s_p95"),
            "ttft_p50": mean(rows, "ttft_s_p50"),
        }
    return found


def before(seed: int) -> Trace:
    """What routers learn from before the run: requests like the first run's, of other words, long ended when it begins."""
    lead = workload(CALIBRATION_RATE, CALIBRATION_S, seed).shifted(-2 * CALIBRATION_S)
    assert lead.block_hashes is not None
    return replace(
        lead, block_hashes=tuple(tuple(-block for block in blocks) for blocks in lead.block_hashes)
    )


async def measure(
    fleet: CpuFleet, kept: Kept, loads: Sequence[float], repeats: int, seconds: float, seed: int
) -> None:
    """All runs that are not kept yet, and the calibration before them."""
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {what}", file=sys.stderr, flush=True)

    if "calibrated" not in kept:
        tell("calibrating")
        kept["calibrated"] = msgspec.to_builtins(await calibrate(fleet, seed))
    calibrated = msgspec.convert(kept["calibrated"], Calibrated)
    most = most_of(calibrated, seed)
    runs = runs_of(loads, repeats)
    for number, (name, load, policy) in enumerate(runs, 1):
        if name in kept:
            continue
        fleet.steps.clear()
        await fleet.pin(policy)
        result = await live(fleet, workload(load * most, seconds, seed + 1), calibrated.slo, seed + number)
        seen = result.overall
        kept[name] = {"goodput": seen.met / seconds, "ttft": seen.ttft.p95, "slower": slower(fleet)}
        tell(
            f"{number} of {len(runs)}: load {load:.0%}, {policy}: {seen.met} in time, p95 TTFT {seen.ttft.p95:.2f} s"
        )


def slower(fleet: CpuFleet) -> float:
    """By which share the median step took longer than it was drawn out to."""
    late = [
        record.duration_s / drawn_out_s(fleet.pace(name), record) - 1
        for name, records in fleet.steps.items()
        for record in records
    ]
    return statistics.median(late) if late else math.nan


def drawn_out_s(pace: float, record: StepRecord) -> float:
    work = PROMPT_TOKEN_S * record.prefill_tokens + SEQUENCE_S * record.decode_sequences
    return pace * (STEP_S + work)


def runs_of(loads: Sequence[float], repeats: int) -> list[tuple[str, float, str]]:
    """Name, load and policy of each run. Policies in turn: a drift of the machine meets all of them."""
    return [
        (run_name(load, repeat, policy), load, policy)
        for load in loads
        for repeat in range(repeats)
        for policy in POLICIES
    ]


def run_name(load: float, repeat: int, policy: str) -> str:
    return f"{load:g} {repeat} {policy}"


def most_of(calibrated: Calibrated, seed: int) -> float:
    """Requests per second that the simulated fleet can serve."""
    return capacity(calibrated.fleet, calibrated.counted(workload(10.0, 300.0, seed)))


def report(kept: Kept, loads: Sequence[float], repeats: int, seconds: float, seed: int) -> dict[str, Any]:
    """Print what was measured beside what is simulated, of all loads whose runs are whole; the keys."""
    calibrated = msgspec.convert(kept["calibrated"], Calibrated)
    most = most_of(calibrated, seed)
    print_calibration(calibrated, most)
    result: dict[str, Any] = {"capacity_rps": most, "step_err": calibrated.errors}
    for load in loads:
        names = {policy: [run_name(load, repeat, policy) for repeat in range(repeats)] for policy in POLICIES}
        measured = {policy: [kept[name] for name in of if name in kept] for policy, of in names.items()}
        whole = min(map(len, measured.values()))
        if not whole:
            print(f"\nload {load:.0%}: not every policy has been measured yet")
            continue
        measured = {policy: rows[:whole] for policy, rows in measured.items()}
        trace = workload(load * most, seconds, seed + 1)
        print(f"\nload {load:.0%}: {len(trace)} requests in {seconds:g} s, {whole} times each")
        simulated = simulate(calibrated, trace, before(seed), POLICIES, seconds)
        result[f"{load:g}"] = compare(measured, simulated)
        late = statistics.fmean(row["slower"] for rows in measured.values() for row in rows)
        result[f"{load:g}"]["steps_slower"] = late
        print(f"{'steps':>8}: {late:.1%} longer than they were drawn out to")
    return result


def print_calibration(found: Calibrated, most: float) -> None:
    fits = ", ".join(f"{name} {error:.0%}" for name, error in found.errors.items())
    print(f"capacity {most:.2f} requests/s; step models fitted, median errors: {fits}")
    print(
        f"objectives: first token {found.ttft_s:.3f} s, then {found.tpot_s:.3f} s each;"
        f" {found.latency_s * 1e3:.0f} ms outside the engines; {found.token_ratio:.2f} engine tokens per estimated one"
    )


async def run(python: str, kept: Kept, record: Path | None, **how: Any) -> None:
    if all(name in kept for name, _, _ in runs_of(how["loads"], how["repeats"])):
        return
    print("starting four vLLMs", file=sys.stderr, flush=True)
    async with CpuFleet(python, record) as fleet:
        await measure(fleet, kept, **how)


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulated against measured order of policies.")
    parser.add_argument("--python", required=True, help="interpreter that has vLLM and the worker")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each run")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--loads", default="0.75,1.2")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--keep", type=Path, metavar="FILE", help="keep every run there, and go on from those that are"
    )
    parser.add_argument("--record", type=Path, metavar="FILE", help="of the router, for predictions.py")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the keys there")
    args = parser.parse_args()
    if not Path(args.python).exists():
        print(f"skipped: no interpreter {args.python}; `make test-vllm` sets one up")
        return 0
    loads = [float(part) for part in args.loads.split(",")]
    how = {"loads": loads, "repeats": args.repeats, "seconds": args.seconds, "seed": args.seed}
    try:
        kept = Kept(
            args.keep, {"benchmark": "rank", "seconds": args.seconds, "seed": args.seed, "loads": loads}
        )
    except KeptError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        asyncio.run(run(args.python, kept, args.record, **how))
    finally:
        if "calibrated" in kept:
            result = report(kept, **how)
            if args.json:
                args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
