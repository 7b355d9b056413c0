"""Closed-loop means of real engines against the simulator with its shipped efficiencies.

    python benchmarks/fidelity/points.py [--points silicon_points.csv.gz] [--json FILE]

The points are aiconfigurator's silicon samples (Apache-2.0): mean TTFT and TPOT of one engine under a fixed number of clients. Used are
the vLLM rows of dense models on H100 and H200. The file does not say how the engines and clients were set; assumed is:
- vLLM 0.14 and later, and rows without a version (public InferenceMAX runs of October 2025), schedule asynchronously; older do not.
- InferenceMAX clients draw lengths between 0.8 of the stated ones and these, and its engines take 8192 tokens a step; the other
  rows have fixed lengths and a budget of the prompt plus 1500 tokens. That budget was inferred from these rows: neither of vLLM's
  defaults, 2048 and 8192, suits prompts of both 1024 and 4096 tokens. The errors with 8192 for all rows are printed too, and
  `--budget N` shows any other.
- Ten requests per client, all clients starting at once, 10 ms from client to engine.
- Checkpoints published by NVIDIA as FP8 have 8-bit KV caches too.
The host's costs without asynchronous scheduling were read off the Qwen3-32B rows, so TPOT of these is not independent of the file.
Keys: `ttft_median_abs_err`, `tpot_median_abs_err`, `median_abs_err` (both together), as shares; `groups` by model, GPU and TP;
`default_budget` has the same errors with 8192 tokens a step for all rows.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from closed_loop import Clients, mean_latencies

from autopoiesis.simulator.engine import EngineConfig
from autopoiesis.simulator.hardware import Gpu, gpu
from autopoiesis.simulator.models import ModelShape, model
from autopoiesis.simulator.steptime import StepTime, kv_capacity_tokens

DEFAULT_POINTS = Path(__file__).parents[3] / "shared" / "data" / "silicon_points.csv.gz"
"""Beside the checkout; `--points` says otherwise."""
ASYNC_SINCE = (0, 14)
DEFAULT_BUDGET = 8192
MAX_RUNNING = 1024


@dataclass(frozen=True, kw_only=True)
class Point:
    """One row: an engine, its clients, and what was measured (seconds)."""

    name: str
    gpu: Gpu
    shape: ModelShape
    tp: int
    clients: Clients
    budget: int
    async_scheduling: bool
    ttft_s: float
    tpot_s: float

    @property
    def group(self) -> str:
        precision = "fp8" if self.shape.fp8 else "bf16"
        return f"{self.shape.name} {precision} {self.tp}x{self.gpu.name}"


@dataclass(frozen=True)
class Outcome:
    """A point, what was simulated (seconds), and the relative errors."""

    point: Point
    ttft_s: float
    tpot_s: float

    @property
    def ttft_error(self) -> float:
        return self.ttft_s / self.point.ttft_s - 1

    @property
    def tpot_error(self) -> float:
        return self.tpot_s / self.point.tpot_s - 1


def read(path: Path, budget: int | None) -> Iterator[Point]:
    """The rows that can be simulated: vLLM, aggregated, no pipeline or data parallelism, dense, H100 or H200."""
    with gzip.open(path) as packed:
        for row in csv.DictReader(io.TextIOWrapper(packed, "utf-8")):
            chip = row["system"].partition("_")[0].upper()
            if row["backend"] != "vllm" or row["mode"] != "agg" or chip not in {"H100", "H200"}:
                continue
            shape = _shape(row)
            if (
                shape
                and not shape.experts
                and _count(row, "pp_size") == _count(row, "attention_dp_size") == 1
            ):
                yield _point(row, gpu(chip), shape, budget)


def _shape(row: Mapping[str, str]) -> ModelShape | None:
    """None for a model that is not in the table."""
    try:
        shape = model(row["model_path"])
    except ValueError:
        return None
    nvidia = row["model_path"].startswith("nvidia/") and shape.fp8
    return replace(shape, fp8=row["precision"] == "fp8", kv_fp8=nvidia)


def _count(row: Mapping[str, str], field: str) -> int:
    return int(float(row[field] or 1))


def _point(row: Mapping[str, str], chip: Gpu, shape: ModelShape, budget: int | None) -> Point:
    version = row["backend_version"]
    public_runs = not version
    isl, osl = _count(row, "isl"), _count(row, "osl")
    guessed = DEFAULT_BUDGET if public_runs else isl + 1500
    return Point(
        name=row["id"],
        gpu=chip,
        shape=shape,
        tp=_count(row, "tp_size"),
        clients=Clients(
            concurrency=_count(row, "batch_size"),
            prompt_tokens=isl,
            output_tokens=osl,
            spread=0.8 if public_runs else 1.0,
        ),
        budget=max(budget or guessed, MAX_RUNNING),
        async_scheduling=public_runs or tuple(int(n) for n in version.split(".")[:2]) >= ASYNC_SINCE,
        ttft_s=float(row["silicon_ttft_ms"]) / 1e3,
        tpot_s=float(row["silicon_tpot_ms"]) / 1e3,
    )


def simulate(point: Point) -> Outcome:
    chip, shape, tp = point.gpu, point.shape, point.tp
    efficiency = chip.efficiency if point.async_scheduling else chip.efficiency.synchronous()
    config = EngineConfig(
        kv_capacity_tokens=kv_capacity_tokens(
            chip, shape, tp, max_batched_tokens=point.budget, max_running=MAX_RUNNING
        ),
        max_batched_tokens=point.budget,
        max_running=MAX_RUNNING,
    )
    steps = StepTime(chip, shape, tp, efficiency)
    ttft, tpot = mean_latencies(steps, config, point.clients, async_scheduling=point.async_scheduling)
    return Outcome(point, ttft, tpot)


def report(outcomes: list[Outcome], show_all: bool) -> dict[str, object]:
    groups = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.point.group].append(outcome)
    print(f"{'':36} {'':>4} {'TTFT error':>24} {'TPOT error':>24}")
    print(
        f"{'model, precision, GPUs':36} {'rows':>4} {'median':>12} {'|median|':>11} {'median':>12} {'|median|':>11}"
    )
    table = {}
    for name, members in sorted(groups.items()):
        ttft, tpot = [o.ttft_error for o in members], [o.tpot_error for o in members]
        table[name] = {
            "rows": len(members),
            "ttft": statistics.median(ttft),
            "ttft_abs": _typical(ttft),
            "tpot": statistics.median(tpot),
            "tpot_abs": _typical(tpot),
        }
        numbers = f"{statistics.median(ttft):12.1%} {_typical(ttft):11.1%} {statistics.median(tpot):12.1%} {_typical(tpot):11.1%}"
        print(f"{name:36} {len(members):4} {numbers}")
    _print_rows(outcomes if show_all else _worst(outcomes), "all" if show_all else "worst")
    result = summary(outcomes)
    print(", ".join(f"{key} {value:.1%}" for key, value in result.items()) + f" over {len(outcomes)} rows")
    return {**result, "rows": len(outcomes), "groups": table}


def summary(outcomes: list[Outcome]) -> dict[str, float]:
    ttft, tpot = [o.ttft_error for o in outcomes], [o.tpot_error for o in outcomes]
    return {
        "ttft_median_abs_err": _typical(ttft),
        "tpot_median_abs_err": _typical(tpot),
        "median_abs_err": _typical(ttft + tpot),
    }


def _typical(errors: Iterable[float]) -> float:
    return statistics.median(abs(error) for error in errors)


def _worst(outcomes: list[Outcome]) -> list[Outcome]:
    return sorted(outcomes, key=lambda o: -max(abs(o.ttft_error), abs(o.tpot_error)))[:12]


def _print_rows(outcomes: list[Outcome], title: str) -> None:
    print(f"\n{title}: prompt/output x clients, milliseconds measured -> simulated, and what is known")
    for o in outcomes:
        c = o.point.clients
        row = f"{o.point.group:36} {c.prompt_tokens:>5}/{c.output_tokens:<5} x{c.concurrency:<4}"
        ttft = f"TTFT {o.point.ttft_s * 1e3:8.1f} -> {o.ttft_s * 1e3:8.1f}"
        tpot = f"TPOT {o.point.tpot_s * 1e3:6.2f} -> {o.tpot_s * 1e3:6.2f}"
        print(f"{row} {ttft}  {tpot}  {_why(o)}")
    print()


def _why(outcome: Outcome) -> str:
    """What the row itself says about a large error: too few requests under way, or none."""
    clients, point = outcome.point.clients, outcome.point
    cycle = point.ttft_s + (clients.output_tokens - 1) * point.tpot_s
    rate = clients.concurrency / cycle
    flops = rate * clients.prompt_tokens * 2 * point.shape.active_params
    peak = point.tp * point.gpu.peak_flops * (2 if point.shape.fp8 and point.gpu.fp8 else 1)
    if outcome.tpot_error > 0.3:
        return f"measured needs {flops / peak:.0%} of peak for prefill alone if {clients.concurrency} clients never pause"
    if abs(outcome.ttft_error) > 0.3 and point.ttft_s > 2:
        return "queues for the KV cache, whose size is estimated"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulated against measured closed-loop means.")
    parser.add_argument("--points", type=Path, default=DEFAULT_POINTS, metavar="FILE")
    parser.add_argument("--budget", type=int, metavar="TOKENS", help="tokens a step, for all rows")
    parser.add_argument("--all", action="store_true", help="print every row, not only the worst")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the keys there")
    args = parser.parse_args()
    if not args.points.is_file():
        print(f"skipped: no file {args.points}")
        return 0
    outcomes = [simulate(point) for point in read(args.points, args.budget)]
    if not outcomes:
        print(f"{args.points}: no vLLM rows of known dense models on H100 or H200", file=sys.stderr)
        return 2
    result = report(outcomes, args.all)
    if not args.budget:
        plain = summary([simulate(point) for point in read(args.points, DEFAULT_BUDGET)])
        result["default_budget"] = plain
        print(f"with {DEFAULT_BUDGET} tokens a step: " + ", ".join(f"{k} {v:.1%}" for k, v in plain.items()))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
