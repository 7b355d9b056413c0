"""The simulator's front door: `evaluate` a policy on a trace and a fleet.

    from autopoiesis.simulator.api import SLO, evaluate
    report = evaluate("least_kv_tokens", load_trace("conv.csv.gz"), "2xH100 + 4xL40S", SLO(ttft_s=2, tpot_s=0.1), loads=(0.8, 1.0))

Deterministic: the same arguments give the same report.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from autopoiesis.contracts.slo import STANDARD, Objectives, SloClass
from autopoiesis.policy import library
from autopoiesis.policy.language import CompiledPolicy, compile_policy
from autopoiesis.simulator.capacity import capacity
from autopoiesis.simulator.fleet import Change, Fleet
from autopoiesis.simulator.report import ConservationError, Report, Run, make_run
from autopoiesis.simulator.requests.prepared import Prepared
from autopoiesis.simulator.requests.recorded import fleet_of, planning_of
from autopoiesis.simulator.requests.settings import Clients, WorldSettings
from autopoiesis.simulator.requests.world import World
from autopoiesis.simulator.workload import Trace, load_trace, scale_load
from autopoiesis.simulator.workload.scaling import succession
from autopoiesis.simulator.workload.window import InFlight, SnapshotInfo

if TYPE_CHECKING:
    from autopoiesis.simulator.requests.planning import Planning

__all__ = [
    "SLO",
    "Change",
    "Clients",
    "ConservationError",
    "Fleet",
    "Report",
    "Run",
    "Trace",
    "WorldSettings",
    "capacity",
    "evaluate",
    "evaluate_many",
    "evaluate_snapshot",
    "load_trace",
]

LoadUnit = Literal["trace", "capacity"]
"""What load 1.0 means: the trace as it is, or the fleet's capacity for such requests."""


@dataclass(frozen=True, slots=True)
class SLO:
    """Objectives of one class, seconds; none: no expectation."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    priority: int = 0

    def __post_init__(self) -> None:
        if (self.ttft_s or 0) < 0 or (self.tpot_s or 0) < 0:
            raise ValueError(f"{self}: objectives are seconds and not negative")


class Recorded(Protocol):
    """A window of real traffic: a `Snapshot`, or the `Window` made of one."""

    @property
    def info(self) -> SnapshotInfo: ...

    @property
    def trace(self) -> Trace: ...


Goals = SLO | Mapping[str, SLO] | Objectives | None


def evaluate(
    policy: str | Path,
    trace: Trace,
    fleet: Fleet | str,
    slo: Goals = None,
    loads: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (0,),
    *,
    routers: int | None = None,
    model: str = "Llama-3.1-8B",
    load_unit: LoadUnit = "trace",
    warmup_s: float = 0.0,
    fuel: int | None = None,
    settings: WorldSettings | None = None,
    changes: Sequence[Change] = (),
    planning: Planning | None = None,
) -> Report:
    """Run one policy (a library name, a file or source text) at every load with every seed.

    `slo` is one for all, one per class by name (the first is the default), or ready-made objectives; none means the standard
    ones. `warmup_s` seconds from the trace's zero are simulated and not scored. `fuel` bounds each decision. `changes` happen to
    the fleet besides its own; `simulator.moves` makes schedules of them. With `planning` (`simulator.requests.planning`) a plan
    policy changes the fleet too, as seldom or as often as it likes.
    Raises `PolicyError` for a policy that does not verify, `KeyError` for a name that is not shipped, `ValueError` for arguments that
    make no sense.
    """
    return evaluate_many(
        [policy],
        trace,
        fleet,
        slo,
        loads,
        seeds,
        routers=routers,
        model=model,
        load_unit=load_unit,
        warmup_s=warmup_s,
        fuel=fuel,
        settings=settings,
        changes=changes,
        planning=planning,
    )[0]


def evaluate_many(
    policies: Sequence[str | Path],
    trace: Trace,
    fleet: Fleet | str,
    slo: Goals = None,
    loads: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (0,),
    *,
    routers: int | None = None,
    model: str = "Llama-3.1-8B",
    load_unit: LoadUnit = "trace",
    warmup_s: float = 0.0,
    fuel: int | None = None,
    settings: WorldSettings | None = None,
    in_flight: Sequence[InFlight] = (),
    lead: Trace | None = None,
    changes: Sequence[Change] = (),
    planning: Planning | None = None,
) -> list[Report]:
    """`evaluate` for several policies on exactly the same arrivals, each prepared once. One report per policy, in order.

    `lead` is served before, at times below zero, at the same load and unscored.
    """
    if not len(trace):
        raise ValueError("the trace has no requests")
    if not loads or not seeds:
        raise ValueError("at least one load and one seed are needed")
    if load_unit not in get_args(LoadUnit):
        raise ValueError(f"load_unit = {load_unit!r}: must be {' or '.join(map(repr, get_args(LoadUnit)))}")
    if warmup_s and warmup_s >= trace.arrival[-1]:
        raise ValueError(
            f"warmup_s = {warmup_s:g}: nothing is scored, the last arrival is at {trace.arrival[-1]:g} s"
        )
    world = settings or WorldSettings()
    if routers is not None:
        world = replace(world, routers=routers)
    place = Fleet.parse(fleet, model) if isinstance(fleet, str) else fleet
    place = place.with_changes(changes)
    if trace.block_hashes is not None:
        place = place.with_prefix_blocks(trace.block_tokens)
        world = replace(world, dispatch=replace(world.dispatch, block_tokens=trace.block_tokens))
        if planning is not None:
            planning = replace(planning, prefix_block_tokens=trace.block_tokens)
    goals = objectives(slo, trace.classes)
    unit = capacity(place, trace) / trace.rate if load_unit == "capacity" else 1.0
    served = (place.replicas or tuple(c.spec for c in place.changes if c.spec))[0].model
    texts = [library.text_of(policy, "dispatch") for policy in policies]
    hashes = [_compile(text, fuel).hash for text in texts]
    runs: list[list[Run]] = [[] for _ in texts]
    for load in loads:
        for seed in seeds:
            scaled = scale_load(trace, load * unit, seed)
            if lead is not None and len(lead):
                scaled = succession(
                    scale_load(lead, load * unit, seed).uncensored(seed), scaled.uncensored(seed)
                )
            prepared = Prepared(scaled, goals, served, world, seed)
            for number, text in enumerate(texts):
                fresh = [_compile(text, fuel) for _ in range(world.routers)]
                outcome = World(
                    prepared, place, fresh, world, seed=seed, in_flight=in_flight, planning=planning
                ).run()
                runs[number].append(make_run(prepared, outcome, load=load, scored_from_s=warmup_s))
    return [Report(name, goals, tuple(found)) for name, found in zip(hashes, runs, strict=True)]


def evaluate_snapshot(
    policy: str | Path,
    snapshot: Recorded,
    loads: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (0,),
    *,
    fleet: Fleet | None = None,
    fuel: int | None = None,
    settings: WorldSettings | None = None,
    lead: Recorded | None = None,
    plan: str = "",
) -> Report:
    """Replay a window of real traffic: its fleet and changes, objectives, routers, warm-up and what was in flight.

    What was in flight when it began is the work of the policy then in force, queues and all. With `lead`, the window just
    before, every policy serves that first, unscored, and so meets the window with queues of its own.

    With `plan`, the source or library name of a plan policy, the fleet changes as that policy wants from where the window, or its
    lead, began: at the planner's recorded steps and rules, on the GPUs that there were, at the price that moves have.
    Raises `UnplannedError` where no planner of one model was recorded.
    """
    info, trace = snapshot.info, snapshot.trace
    if not len(trace):
        raise ValueError("the snapshot has no arrivals")
    planning = None
    if plan:
        planning = planning_of(plan, info, None if lead is None else lead.info)
        fleet = fleet or fleet_of((lead or snapshot).info)
    return evaluate_many(
        [policy],
        trace,
        fleet or Fleet.of_snapshot(info),
        info.objectives,
        loads,
        seeds,
        routers=info.routers,
        warmup_s=info.scored_from_s,
        fuel=fuel,
        settings=settings,
        in_flight=info.in_flight if lead is None else lead.info.in_flight,
        lead=None if lead is None else _before(lead, info.start_unix_s),
        planning=planning,
    )[0]


def _before(lead: Recorded, unix_s: float) -> Trace:
    """The lead's arrivals on a clock that is zero at `unix_s`, up to then."""
    trace = lead.trace.shifted(lead.info.start_unix_s - unix_s)
    return trace.between(-math.inf, 0.0)


def objectives(slo: Goals, classes: Iterable[str]) -> Objectives:
    """The contracts' form. A single SLO goes for every class of the trace.

    Raises ValueError where classes are named, and none of them is one of the trace's: its requests would all get the first's.
    """
    if slo is None:
        return STANDARD
    if isinstance(slo, Objectives):
        return slo
    known = tuple(classes)
    named = dict.fromkeys(known, slo) if isinstance(slo, SLO) else dict(slo)
    if not named:
        raise ValueError("no class has objectives")
    if known and not named.keys() & set(known):
        raise ValueError(f"objectives for {', '.join(named)}, but the trace's classes are {', '.join(known)}")
    return Objectives(
        classes={
            name: SloClass(priority=s.priority, ttft_s=s.ttft_s, tpot_s=s.tpot_s) for name, s in named.items()
        },
        default=next(iter(named)),
    )


def _compile(policy: str, fuel: int | None) -> CompiledPolicy:
    """Compiled afresh: each router has a meter of its own, each run starts with none used."""
    return compile_policy(policy, "dispatch", fuel=fuel)
