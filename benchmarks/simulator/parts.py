"""Where a simulated request's time goes: processor time by part, and interpreted instructions, which no other load disturbs.

    python benchmarks/simulator/parts.py --trace AzureLLMInferenceTrace_conv.csv[.gz] [--replicas 8] [--policy NAME] [--json FILE]

Time is sampled by the kernel's profiling timer and charged to the innermost Python frame; instructions are counted by tracing
every one, in a run of its own. Both are per request, at 90 % load.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from recorded import recorded, trace_option
from run import GOAL, GPU, loaded

from autopoiesis.policy import library
from autopoiesis.simulator.api import Fleet, Trace, WorldSettings, objectives
from autopoiesis.simulator.requests.prepared import Prepared
from autopoiesis.simulator.requests.world import World

TICK_S = 0.004
WHERE = (
    ("simulator/requests/", "world: time, clients, records"),
    ("simulator/", "engines"),
    ("/dispatch/", "dispatch core"),
    ("<views>", "filling what the policy reads"),
    ("<policy>", "the policy itself"),
    ("/policy/", "metering and checking the policy"),
)


def part(code: CodeType) -> str:
    return next((name for path, name in WHERE if path in code.co_filename), "other")


@contextmanager
def sampled(parts: Counter[str]) -> Iterator[None]:
    def tick(_signal: int, frame: FrameType | None) -> None:
        if frame is not None:
            parts[part(frame.f_code)] += 1

    before = signal.signal(signal.SIGPROF, tick)
    signal.setitimer(signal.ITIMER_PROF, TICK_S, TICK_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def counted(parts: Counter[str], calls: Counter[str]) -> Iterator[None]:
    names: dict[CodeType, str] = {}

    def local(frame: FrameType, event: str, _argument: Any) -> Callable[..., Any]:
        if event == "opcode":
            parts[names[frame.f_code]] += 1
        return local

    def entered(frame: FrameType, _event: str, _argument: Any) -> Callable[..., Any]:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        calls[names.setdefault(frame.f_code, part(frame.f_code))] += 1
        return local

    sys.settrace(entered)
    try:
        yield
    finally:
        sys.settrace(None)


def world(trace: Trace, fleet: Fleet, policy: str, requests: int) -> World:
    settings = WorldSettings()
    some = loaded(trace, fleet, 0.9, requests)
    prepared = Prepared(some, objectives(GOAL, some.classes), fleet.replicas[0].model, settings)
    return World(prepared, fleet, [library.load(policy)], settings)


def measure(
    trace: Trace, fleet: Fleet, policy: str, requests: int, traced: int
) -> dict[str, dict[str, float]]:
    """By part: microseconds, instructions and calls of Python functions per request."""
    ticks: Counter[str] = Counter()
    instructions: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    one = world(trace, fleet, policy, requests)
    began = time.process_time()
    with sampled(ticks):
        one.run()
    took = (time.process_time() - began) / requests * 1e6
    two = world(trace, fleet, policy, traced)
    with counted(instructions, calls):
        two.run()
    return {
        name: {
            "us": took * ticks[name] / max(1, ticks.total()),
            "instructions": instructions[name] / traced,
            "calls": calls[name] / traced,
        }
        for name in [*(name for _, name in WHERE), "other"]
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    trace_option(parser)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--policy", default="least_kv_tokens", choices=library.names("dispatch", every=True))
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--traced", type=int, default=5_000, help="requests of the run that is traced")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    trace = recorded(given.trace)
    if trace is None:
        return 0
    found = measure(trace, Fleet.parse(f"{given.replicas}x{GPU}"), given.policy, given.requests, given.traced)
    print(f"{'per request':34}{'us':>7}{'instructions':>14}{'calls':>7}")
    for name, row in found.items():
        print(f"{name:34}{row['us']:7.1f}{row['instructions']:14,.0f}{row['calls']:7.1f}")
    total = {key: sum(row[key] for row in found.values()) for key in ("us", "instructions", "calls")}
    print(f"{'all':34}{total['us']:7.1f}{total['instructions']:14,.0f}{total['calls']:7.1f}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
