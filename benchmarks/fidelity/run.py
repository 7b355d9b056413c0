"""The simulator against a real engine's per-request log.

    python benchmarks/fidelity/run.py --log DIR [--fit none|half] [--gpu NAME] [--json FILE]

DIR as `vllm_log.py` describes. `--fit none` simulates the arrivals with the shipped efficiencies and scores all requests. `--fit half`
calibrates on the measured times of the requests that arrived first, half of them, and scores the other half, of which it saw
arrivals and lengths only. Keys: `ttft_mean_err`, `tpot_mean_err`, `e2e_mean_err` (simulated over measured mean, less 1) and
`e2e_mape` (mean absolute error per request), all as shares: 0.01 is 1 %.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from vllm_log import EngineLog, read

from autopoiesis.simulator.calibrate import (
    Fit,
    RequestSample,
    Times,
    fit_requests,
    play,
)
from autopoiesis.simulator.steptime import StepTime


def simulate(log: EngineLog, fit: Fit | None) -> list[Times]:
    setup = log.setup
    return play(
        log.requests,
        StepTime(setup.gpu, setup.model, setup.tp, fit.efficiency if fit else None),
        setup.config,
        request_overhead_s=fit.request_overhead_s if fit else 0.0,
        async_scheduling=setup.async_scheduling,
    )


def columns(requests: Sequence[RequestSample], times: Sequence[Times]) -> dict[str, np.ndarray]:
    """TTFT, TPOT (where there are two tokens or more) and end-to-end time, seconds."""
    arrival, first, end = np.array([(r.arrival_s, *t) for r, t in zip(requests, times, strict=True)]).T
    outputs = np.array([r.output_tokens for r in requests])
    several = outputs > 1
    return {
        "ttft": first - arrival,
        "tpot": (end - first)[several] / (outputs - 1)[several],
        "e2e": end - arrival,
    }


def score(requests: Sequence[RequestSample], times: Sequence[Times]) -> dict[str, float]:
    """Errors of the simulated times, as shares; prints the table."""
    real = columns(requests, [Times(r.first_token_s, r.end_s) for r in requests])
    ours = columns(requests, times)
    result = {}
    print(f"{'seconds':>12} {'measured':>10} {'simulated':>10} {'error':>8}")
    for name in real:
        result[f"{name}_mean_err"] = float(ours[name].mean() / real[name].mean() - 1)
        for label, of in (("mean", np.mean), ("p50", np.median), ("p95", lambda x: np.percentile(x, 95))):
            measured, simulated = float(of(real[name])), float(of(ours[name]))
            print(f"{name:>7} {label:>4} {measured:10.4f} {simulated:10.4f} {simulated / measured - 1:8.1%}")
    result["e2e_mape"] = float(np.mean(np.abs(ours["e2e"] / real["e2e"] - 1)))
    print(f"e2e error per request (MAPE) {result['e2e_mape']:.2%} over {len(requests)} requests")
    return result


def show(fit: Fit) -> dict[str, object]:
    """Print what was fitted; the same for JSON."""
    print(f"fitted to {fit.observations} requests, median error left {fit.error:.2%}")
    for p in fit.parameters:
        print(f"  {p.name:20} {p.value:10.5f}   95 % {p.low:.5f} to {p.high:.5f}   started at {p.start:.5f}")
    for name, reason in fit.refused.items():
        print(f"  {name:20} kept: {reason}")
    return {
        "parameters": {p.name: [p.value, p.low, p.high] for p in fit.parameters},
        "refused": dict(fit.refused),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulated against measured requests of one engine.")
    parser.add_argument("--log", type=Path, required=True, metavar="DIR")
    parser.add_argument("--fit", choices=("none", "half"), default="none")
    parser.add_argument("--gpu", default="", metavar="NAME", help="where the log does not name it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the keys there")
    args = parser.parse_args()
    if not args.log.is_dir():
        print(f"skipped: no log directory {args.log}")
        return 0
    try:
        result = compare(read(args.log, args.gpu), args.fit)
    except ValueError as problem:
        print(f"{args.log}: {problem}", file=sys.stderr)
        return 2
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def compare(log: EngineLog, mode: str) -> dict[str, object]:
    """Simulate, print, and return the keys."""
    setup, requests = log.setup, log.requests
    print(
        f"{setup.model.name} on {setup.tp} x {setup.gpu.name}: {len(requests)} requests, "
        f"{setup.config.kv_capacity_tokens} KV tokens, {setup.config.max_batched_tokens} tokens and "
        f"{setup.config.max_running} sequences a step"
    )
    for note in log.notes:
        print(f"  assumed: {note}")
    order = sorted(range(len(requests)), key=lambda i: requests[i].arrival_s)
    half = len(order) // 2
    fit = fit_requests(setup, requests, fitted_to=order[:half]) if mode == "half" else None
    fitted = show(fit) if fit else {}
    scored = order[half:] if fit else order
    times = simulate(log, fit)
    errors = score([requests[i] for i in scored], [times[i] for i in scored])
    return {
        **errors,
        "fit": mode,
        "requests": len(scored),
        "model": setup.model.name,
        "gpu": setup.gpu.name,
        **fitted,
    }


if __name__ == "__main__":
    sys.exit(main())
