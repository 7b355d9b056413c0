"""The simulator against a real vLLM on this machine's processor.

    python benchmarks/fidelity/vllm_cpu.py --python VENV/bin/python [--seconds 30] [--repeats 3] [--keep FILE] [--json FILE]

A small Llama with random weights runs in real vLLM (the worker's own engine, `make test-vllm` sets the environment up) under
Poisson load at 30, 70 and 110 % of its capacity, which a batch that is always full shows first. At 70 % an affine step model is
fitted to the engine's own step telemetry, and the constant time that requests spend outside the engine to the difference in
TTFT; the other two loads are predicted. Each load runs `--repeats` times with the same arrivals: what the runs differ from each
other is the machine's noise, and no error below it means anything. Six minutes on a quiet machine. With `--keep` every run is kept as
soon as it is over, and the same command goes on where it was broken off.

Near and beyond capacity waiting multiplies small errors: at 110 % a queue grows by the tenth that comes too many, so that an
engine 5 % slower has half as much again to wait for. Therefore `pace` tells beside each load what the error in the mean
end-to-end time amounts to in the engine's speed: modelled steps would have to be that much shorter to give the measured mean.

Keys, per load: `ttft_err`, `tpot_err`, `e2e_err` (simulated over measured mean, less 1, medians over the repeats), `pace_err`, and
`..._noise` (widest difference between two repeats' figures, over their mean). Shares: 0.01 is 1 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from cpu_engine import BLOCK_TOKENS, CHUNK_TOKENS, KV_TOKENS, MAX_RUNNING, CpuEngine, Work, write_llama
from kept import Kept, KeptError

from autopoiesis.contracts.messages.telemetry import StepRecord
from autopoiesis.simulator.calibrate import RequestSample, Times, fit_affine, play
from autopoiesis.simulator.engine import EngineConfig
from autopoiesis.simulator.steptime import AffineSteps

LOADS: Final = (0.3, 0.7, 1.1)
FITTED: Final = 0.7
PROMPT: Final = (120.0, 0.6, 16, 1000)
OUTPUT: Final = (40.0, 0.6, 4, 200)
"""Lognormal lengths in tokens: median, sigma, least, most."""
PACES: Final = (0.2, 5.0)
HALVINGS: Final = 12

FIGURES: Final = ("ttft", "tpot", "e2e")
CONFIG: Final = EngineConfig(
    kv_capacity_tokens=KV_TOKENS,
    max_batched_tokens=CHUNK_TOKENS,
    max_running=MAX_RUNNING,
    block_tokens=BLOCK_TOKENS,
)


def lengths(shape: tuple[float, float, int, int], n: int, rng: np.random.Generator) -> list[int]:
    median, sigma, low, high = shape
    drawn = rng.lognormal(math.log(median), sigma, n)
    return [int(value) for value in np.clip(np.round(drawn), low, high)]


def poisson(rate: float, seconds: float, seed: int) -> list[Work]:
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, math.ceil(2 * rate * seconds) + 10))
    arrivals = arrivals[arrivals < seconds]
    n = len(arrivals)
    return [
        Work(*row)
        for row in zip(arrivals.tolist(), lengths(PROMPT, n, rng), lengths(OUTPUT, n, rng), strict=True)
    ]


async def capacity(engine: CpuEngine, seed: int) -> float:
    """Requests per second while more wait than fit into the batch."""
    rng = np.random.default_rng(seed)
    n = 12 * MAX_RUNNING
    work = [Work(0.0, p, o) for p, o in zip(lengths(PROMPT, n, rng), lengths(OUTPUT, n, rng), strict=True)]
    requests = await engine.play(work)
    begun = sorted(request.first_token_s for request in requests)
    full, empty = begun[MAX_RUNNING - 1], begun[-1]
    return sum(full < request.end_s <= empty for request in requests) / (empty - full)


def means(requests: Sequence[RequestSample], times: Sequence[Times]) -> dict[str, float]:
    """Mean seconds to the first token, per further token, and to the end."""
    ttft = [t.first_token_s - r.arrival_s for r, t in zip(requests, times, strict=True)]
    tpot = [(t.end_s - t.first_token_s) / (r.output_tokens - 1) for r, t in zip(requests, times, strict=True)]
    e2e = [t.end_s - r.arrival_s for r, t in zip(requests, times, strict=True)]
    return {"ttft": statistics.fmean(ttft), "tpot": statistics.fmean(tpot), "e2e": statistics.fmean(e2e)}


def measured(requests: Sequence[RequestSample]) -> dict[str, float]:
    return means(requests, [Times(r.first_token_s, r.end_s) for r in requests])


def simulated(
    requests: Sequence[RequestSample], steps: AffineSteps, late_s: float, pace: float = 1.0
) -> dict[str, float]:
    """The same by the model, its steps `pace` times as long. vLLM schedules synchronously on processors."""
    slower = AffineSteps(*(pace * value for value in steps.step_coefficients()))
    times = play(requests, slower, CONFIG, request_overhead_s=late_s, async_scheduling=False)
    return means(requests, times)


def pace(requests: Sequence[RequestSample], steps: AffineSteps, late_s: float) -> float:
    """The factor on the model's steps with which its mean end-to-end time is the measured one."""
    wanted, low, high = measured(requests)["e2e"], *PACES
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        if simulated(requests, steps, late_s, middle)["e2e"] < wanted:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)


def overhead(requests: Sequence[RequestSample], steps: AffineSteps) -> float:
    """Median seconds by which first tokens come later than the steps say."""
    times = play(requests, steps, CONFIG, async_scheduling=False)
    late = [r.first_token_s - t.first_token_s for r, t in zip(requests, times, strict=True)]
    return max(0.0, statistics.median(late))


def noise(values: Sequence[float]) -> float:
    """Widest difference over the mean; unknown where there is one value."""
    return (max(values) - min(values)) / statistics.fmean(values) if len(values) > 1 else math.nan


class Measured(msgspec.Struct):
    """One run: its requests, and the steps that the engine told of."""

    requests: list[RequestSample]
    steps: list[StepRecord]


Runs = dict[float, list[Measured]]


async def measure(python: str, kept: Kept, seconds: float, repeats: int, seed: int) -> None:
    """All runs that are not kept yet, and the capacity before them, in requests/s."""
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {what}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        tell("starting vLLM")
        checkpoint = await asyncio.to_thread(write_llama, python, Path(folder), layers=4, hidden=64)
        async with CpuEngine(python, checkpoint) as engine:
            warm = await capacity(engine, seed)
            if "capacity" not in kept:
                kept["capacity"] = await capacity(engine, seed + 1)
            tell(f"capacity {kept['capacity']:.1f} requests/s, {warm:.1f} at first")
            runs = runs_of(repeats)
            for number, (name, load) in enumerate(runs, 1):
                if name in kept:
                    continue
                requests = await engine.play(poisson(load * kept["capacity"], seconds, seed))
                kept[name] = msgspec.to_builtins(Measured(requests, engine.steps))
                e2e = measured(requests)["e2e"]
                tell(f"{number} of {len(runs)}: load {load:.0%}, {e2e:.3f} s end to end")


def runs_of(repeats: int) -> list[tuple[str, float]]:
    """Name and load of each run. Loads in turn: a drift of the machine meets all of them."""
    return [(f"{load:g} {repeat}", load) for repeat in range(repeats) for load in LOADS]


def runs_in(kept: Kept, repeats: int) -> Runs:
    """What has been measured so far."""
    runs: Runs = {load: [] for load in LOADS}
    for name, load in runs_of(repeats):
        if name in kept:
            runs[load].append(msgspec.convert(kept[name], Measured))
    return runs


def report(most: float, runs: Runs) -> dict[str, object]:
    """Fit, predict, print, and return the keys."""
    fit = fit_affine([step for run in runs[FITTED] for step in run.steps])
    steps = fit.steps
    late = statistics.median(overhead(run.requests, steps) for run in runs[FITTED])
    print(f"capacity {most:.1f} requests/s; {fit.observations} steps fitted, median error {fit.error:.1%}")
    print(
        f"step = {steps.base * 1e3:.2f} ms + {steps.per_prefill_token * 1e6:.2f} us/prompt token"
        f" + {steps.per_kv_token * 1e9:.2f} ns/KV token + {steps.per_sequence * 1e6:.1f} us/sequence;"
        f" {late * 1e3:.1f} ms outside the engine"
    )
    print(f"{'load':>6} {'':8} {'mean':>6} {'measured s':>11} {'simulated s':>12} {'error':>8} {'noise':>7}")
    result: dict[str, object] = {"capacity_rps": most, "steps": fit.observations, "step_err": fit.error}
    for load, repeats in ((load, [run.requests for run in of]) for load, of in runs.items() if of):
        real = [measured(requests) for requests in repeats]
        ours = [simulated(requests, steps, late) for requests in repeats]
        kind = "fitted" if load == FITTED else "predicted"
        keys: dict[str, float] = {}
        for name in FIGURES:
            values = [figures[name] for figures in real]
            errors = [mine[name] / its[name] - 1 for mine, its in zip(ours, real, strict=True)]
            keys[f"{name}_err"] = statistics.median(errors)
            keys[f"{name}_noise"] = noise(values)
            print(
                f"{load:6.0%} {kind:>9} {name:>5} {statistics.fmean(values):11.4f}"
                f" {statistics.fmean(mine[name] for mine in ours):12.4f}"
                f" {keys[f'{name}_err']:8.1%} {keys[f'{name}_noise']:7.1%}"
            )
        paces = [pace(requests, steps, late) for requests in repeats]
        keys["pace_err"] = 1 / statistics.median(paces) - 1
        keys["pace_noise"] = noise(paces)
        print(f"{load:6.0%} {kind:>9} {'pace':>5} {'':24} {keys['pace_err']:8.1%} {keys['pace_noise']:7.1%}")
        result[f"{load:g}"] = {**keys, "requests": sum(map(len, repeats))}
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulated against real vLLM on this processor.")
    parser.add_argument("--python", required=True, help="interpreter that has vLLM and the worker")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--keep", type=Path, metavar="FILE", help="keep every run there, and go on from those that are"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the keys there")
    args = parser.parse_args()
    if not Path(args.python).exists():
        print(f"skipped: no interpreter {args.python}; `make test-vllm` sets one up")
        return 0
    try:
        kept = Kept(args.keep, {"benchmark": "vllm_cpu", "seconds": args.seconds, "seed": args.seed})
    except KeptError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        if any(name not in kept for name, _ in runs_of(args.repeats)):
            asyncio.run(measure(args.python, kept, args.seconds, args.repeats, args.seed))
    finally:
        runs = runs_in(kept, args.repeats)
        if runs[FITTED]:
            result = report(kept["capacity"], runs)
            if args.json:
                args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
