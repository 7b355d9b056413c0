"""What a decision costs: microseconds per call and against plain Python, per shipped policy and fleet size.

`python benchmarks/policy/run.py [--json FILE] [--quick]`. Times are processor time, the median of many short rounds, of
whole calls: metering, the policy and the check of its answer. Plain Python runs the same source, unmetered and
unchecked. `scoring` is a policy like those a language model writes: a weighted score in nested loops. At the end: for how long one
decision can block the router's event loop, per fuel limit, and what the jail adds to an evaluation.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jailed import overhead

from autopoiesis.policy import library
from autopoiesis.policy.api import HOLD, REJECT, Assign, DispatchContext, Replica, Request
from autopoiesis.policy.language import DEFAULT_FUEL, OutOfFuel, compile_policy, verify

SIZES = (8, 32, 256)
FUELS = (10_000, 100_000, 1_000_000)
ROUNDS = 31
JAILED = 200
"""Evaluations in the jail and outside."""
SCORING = '''"""A weighted score over load, memory, prefix and speed, with a bonus for loaded adapters."""
import math

WEIGHTS = (1.0, 2.0, 0.5, 4.0)
STEPS = (0.25, 0.5, 0.75)


def prioritize(request, ctx):
    return request.arrival - 10.0 * request.priority


def route(request, replicas, ctx):
    best = None
    best_score = math.inf
    for r in replicas:
        if r.kv_used_tokens + request.prompt_tokens > r.kv_capacity_tokens:
            continue
        load = (r.running + r.waiting) / r.max_running
        memory = r.kv_used_tokens / r.kv_capacity_tokens
        score = WEIGHTS[0] * load + WEIGHTS[1] * memory + WEIGHTS[2] * min(r.predicted_ttft, 10.0)
        for step in STEPS:
            if memory > step:
                score += 0.1 * step
        if r.prefix_hit_tokens > 0:
            score -= WEIGHTS[3] * r.prefix_hit_tokens / request.prompt_tokens
        if r.adapter_loaded:
            score -= 0.2
        if score < best_score:
            best, best_score = r, score
    return HOLD if best is None else Assign(best.index)
'''
BURNERS = {
    "empty while": "    while True:\n        pass\n",
    "additions": "    x = 0\n    while True:\n        x = x + request.seq + 1\n",
    "guarded products": "    x = [3, 5]\n    while True:\n        y = x[0] * x[1] * x[0] * x[1]\n",
    "function calls": "    f = lambda a: a\n    while True:\n        f(f(f(1)))\n",
    "decisions": "    while True:\n        x = Assign(0)\n",
    "sorting": "    x = [0.5] * 500\n    while True:\n        sorted(x, key=lambda v: -v)\n",
    "guarded sorting": "    x = [(1, 2)] * 500\n    while True:\n        y = sorted(x)\n",
    "powers": "    while True:\n        x = request.ttft_slo ** 0.5\n",
    "big integers": "    x = [2 ** 500]\n    while True:\n        y = x[0] * x[0]\n",
    "membership": "    x = list(range(1000))\n    while True:\n        y = -1 in x\n",
    "comparisons": "    x = [[1, 2], [1, 2]] * 50\n    y = [[1, 2], [1, 2]] * 50\n    while True:\n        z = x == y\n",
    "comprehensions": "    while True:\n        x = [r.id for r in replicas]\n",
}


def fleet(count: int, seed: int = 1) -> tuple[Request, tuple[Replica, ...], DispatchContext]:
    """A request, `count` replicas and a context with plausible contents."""
    chance = random.Random(seed)
    request, context = Request(), DispatchContext()
    request.prompt_tokens, request.session, request.seq = 800, 7, 5
    request.expected_output_tokens, request.ttft_slo, request.tpot_slo = 200.0, 2.0, 0.1
    context.random = chance.random
    replicas = []
    for index in range(count):
        r = Replica()
        r.index, r.id, r.node, r.gpu = index, chance.randrange(2**31), index // 8, "H100"
        r.running, r.waiting, r.max_running = chance.randrange(64), chance.randrange(4), 64
        r.kv_capacity_tokens, r.kv_used_tokens = 400_000, chance.randrange(395_000)
        r.prefix_hit_tokens = chance.choice((0, 0, 256))
        r.predicted_ttft, r.predicted_tpot = chance.uniform(0.05, 3), chance.uniform(0.02, 0.12)
        replicas.append(r)
    return request, tuple(replicas), context


def plain_route(source: str) -> Callable[..., Any]:
    """`route` of the same text as ordinary Python."""
    names: dict[str, Any] = {"Assign": Assign, "HOLD": HOLD, "REJECT": REJECT, "math": math}
    exec(compile(source, "<plain>", "exec"), names)
    route: Callable[..., Any] = names["route"]
    return route


def microseconds(call: Callable[[], object], budget_s: float) -> float:
    """Processor time of one call, the median of seven rounds."""
    _of_round(call, 1)
    repeat = max(3, int(budget_s / 7 / max(_of_round(call, 1), 1e-6)))
    return statistics.median(_of_round(call, repeat) for _ in range(7)) * 1e6


def side_by_side(
    ours: Callable[[], object], theirs: Callable[[], object], budget_s: float
) -> tuple[float, float]:
    """Microseconds of processor time per call of `ours`, and its ratio to `theirs`: medians over short rounds in turn, so that
    a machine that slows down slows both.
    """
    _of_round(ours, 1)
    repeat = max(1, int(budget_s / ROUNDS / max(_of_round(theirs, 1), 1e-6)))
    rounds = [(_of_round(ours, repeat), _of_round(theirs, repeat)) for _ in range(ROUNDS)]
    ratio = statistics.median(mine / other for mine, other in rounds)
    return statistics.median(mine for mine, _ in rounds) * 1e6, ratio


def _of_round(call: Callable[[], object], repeat: int) -> float:
    start = time.process_time()
    for _ in range(repeat):
        call()
    return (time.process_time() - start) / repeat


def measure(source: str, budget_s: float) -> dict[str, float]:
    """Times of one policy at every fleet size, and of getting it ready."""
    result = {
        "verify_ms": microseconds(lambda: verify(source, "dispatch"), budget_s) / 1000,
        "compile_ms": microseconds(lambda: compile_policy(source, "dispatch"), budget_s) / 1000,
    }
    plain = plain_route(source)
    policy = compile_policy(source, "dispatch", fuel=10**9)
    for size in SIZES:
        request, replicas, context = fleet(size)
        result[f"us_{size}"], result[f"ratio_{size}"] = side_by_side(
            lambda: policy.route(request, replicas, context),  # noqa: B023
            lambda: plain(request, replicas, context),  # noqa: B023
            budget_s,
        )
        result[f"fuel_{size}"] = policy.fuel_used
    return result


def burn(body: str, fuel: int) -> float:
    """Microseconds until a program that never ends runs out of `fuel`."""
    source = f"def prioritize(request, ctx):\n    return 0.0\n\n\ndef route(request, replicas, ctx):\n{body}"
    policy = compile_policy(source, "dispatch", fuel=fuel)
    request, replicas, context = fleet(32)

    def once() -> None:
        try:
            policy.route(request, replicas, context)
        except OutOfFuel:
            return
        raise AssertionError("this program was meant to use up its fuel")

    return microseconds(once, 0.05)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--quick", action="store_true", help="shorter rounds, noisier numbers")
    arguments = parser.parse_args()
    budget_s = 0.05 if arguments.quick else 0.35
    sources = {
        "scoring": SCORING,
        **{name: library.source(name) for name in library.names("dispatch", every=True)},
    }
    print(
        f"{'policy':24}{'verify ms':>10}{'compile ms':>11}"
        + "".join(f"{f'us @{size}':>10}{'ratio':>7}" for size in SIZES)
    )
    rows = {}
    for name, source in sources.items():
        row = rows[name] = measure(source, budget_s)
        cells = "".join(f"{row[f'us_{size}']:10.1f}{row[f'ratio_{size}']:7.2f}" for size in SIZES)
        print(f"{name:24}{row['verify_ms']:10.2f}{row['compile_ms']:11.2f}{cells}")
    burned = {fuel: {name: burn(body, fuel) for name, body in BURNERS.items()} for fuel in FUELS}
    print(f"\n{'fuel':>9}{'longest us':>12}  by (default: {DEFAULT_FUEL['dispatch']:,})")
    for fuel, times in burned.items():
        worst = max(times, key=times.__getitem__)
        print(f"{fuel:9,}{times[worst]:12,.0f}  {worst}")
    jail = overhead(20 if arguments.quick else JAILED)
    print(
        f"\njail: {jail['jailed_s'] * 1e3:.1f} ms of processor time per evaluation, {jail['plain_s'] * 1e3:.1f} ms without: "
        f"{jail['added_s'] * 1e3:.1f} ms more (ratio {jail['ratio']:.2f})"
    )
    if arguments.json:
        summary: dict[str, Any] = {"worst_case_us": burned[DEFAULT_FUEL["dispatch"]], "jail": jail}
        summary["worst_case_us_by_fuel"] = {fuel: max(times.values()) for fuel, times in burned.items()}
        for size in SIZES:
            summary[f"us_per_decision_{size}"] = {
                name: round(row[f"us_{size}"], 2) for name, row in rows.items()
            }
            summary[f"ratio_to_plain_{size}"] = {
                name: round(row[f"ratio_{size}"], 3) for name, row in rows.items()
            }
        for key in ("verify_ms", "compile_ms"):
            summary[key] = {name: round(row[key], 3) for name, row in rows.items()}
        arguments.json.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
