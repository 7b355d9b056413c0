"""What the demo serves: a small mixed fleet and stretches of traffic that do not overlap.

A is learned on, B decides, traffic goes on (`between`) while policies are written and proven, and C, which neither saw, measures.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autopoiesis.contracts.slo import Objectives, SloClass
from autopoiesis.simulator.api import capacity
from autopoiesis.simulator.fleet import Fleet
from autopoiesis.simulator.workload import Trace, load_trace, scale_load
from autopoiesis.simulator.workload.generate import Lengths, Mix, bursts

MODEL: Final = "llama-3.1-8b"
FLEET: Final = "2xH100 + 4xL40S"
TRACE_FLEET: Final = "1xH100 + 2xL40S"
"""Recorded chat requests are short, so that a smaller fleet keeps the rate within what one machine can play in real time."""

MIX: Final = (
    Mix("interactive", 0.7, Lengths(2500, 0.6, high=12_000), Lengths(80, 0.4, high=200)),
    Mix("batch", 0.3, Lengths(9_000, 0.5, high=24_000), Lengths(120, 0.4, high=250)),
)
OBJECTIVES: Final = Objectives(
    classes={
        "interactive": SloClass(priority=0, ttft_s=1.0, tpot_s=0.05),
        "batch": SloClass(priority=1, ttft_s=8.0, tpot_s=0.15),
    },
    default="interactive",
)
"""An L40S keeps the batch class's pace under load, the interactive one's only when lightly loaded; an H100 keeps both."""

TRACE_OBJECTIVES: Final = Objectives(classes={"chat": SloClass(ttft_s=2.0, tpot_s=0.1)}, default="chat")


@dataclass(frozen=True, slots=True)
class Stretches:
    """Seconds of each stretch."""

    learn: float = 20.0
    decide: float = 20.0
    measure: float = 18.0
    warmup: float = 3.0
    """Sent before each scored stretch and not scored."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Traffic and fleet. `observed` holds A and B, one after the other; all traces start at 0."""

    description: str
    fleet: str
    objectives: Objectives
    load: float
    """Mean arrivals over the fleet's capacity."""
    capacity_rps: float
    stretches: Stretches
    observed: Trace
    between: Trace
    measured: Trace

    @property
    def replicas(self) -> int:
        return len(_fleet(self.fleet).replicas)


def synthetic(load: float, seed: int, stretches: Stretches, fleet: str = FLEET) -> Scenario:
    """Bursty traffic of two classes."""

    def traffic(duration: float, rate: float, part: int) -> Trace:
        return bursts(rate, duration, peak=2.0, burst_s=3.0, calm_s=6.0, mix=MIX, seed=seed * 10 + part)

    limit = capacity(_fleet(fleet), traffic(300.0, 20.0, 9))
    rate = load * limit
    return Scenario(
        description=f"bursty traffic, classes {' and '.join(mix.name for mix in MIX)}",
        fleet=fleet,
        objectives=OBJECTIVES,
        load=load,
        capacity_rps=limit,
        stretches=stretches,
        observed=traffic(stretches.learn + stretches.decide, rate, 0),
        between=traffic(600.0, rate, 1),
        measured=traffic(stretches.warmup + stretches.measure, rate, 2),
    )


def recorded(path: Path, load: float, seed: int, stretches: Stretches, fleet: str = TRACE_FLEET) -> Scenario:
    """A recorded trace: A and B come from its first third, C from its last, each brought to the same load.

    Raises TraceError with file and line where a row is malformed, ValueError where the trace is too short to cut.
    """
    whole = load_trace(path)
    limit = capacity(_fleet(fleet), whole)
    third = whole.duration / 3
    start = float(whole.arrival[0])

    def part(number: int, seconds: float) -> Trace:
        piece = whole.between(start + number * third, start + (number + 1) * third)
        if len(piece) < 2:
            raise ValueError(
                f"{path}: too few requests to cut into learning, deciding and measuring stretches"
            )
        return _at_rate(piece, load * limit, seconds, seed + number)

    return Scenario(
        description=f"{path.name}, {len(whole)} requests over {whole.duration:.0f} s",
        fleet=fleet,
        objectives=TRACE_OBJECTIVES,
        load=load,
        capacity_rps=limit,
        stretches=stretches,
        observed=part(0, stretches.learn + stretches.decide),
        between=part(1, 600.0),
        measured=part(2, stretches.warmup + stretches.measure),
    )


def _at_rate(piece: Trace, rate: float, seconds: float, seed: int) -> Trace:
    """`seconds` of `piece`, brought to `rate` requests per second by adding sessions, from zero on."""
    piece = piece.shifted(-float(piece.arrival[0]))
    scaled = scale_load(piece, rate / piece.rate, seed)
    return scaled.between(0.0, min(seconds, scaled.duration))


def _fleet(spec: str) -> Fleet:
    return Fleet.parse(spec, model=MODEL)
