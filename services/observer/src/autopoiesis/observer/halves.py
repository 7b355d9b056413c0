"""From stored rows to the two blobs of a snapshot. Pure: tables in, bytes out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from autopoiesis.contracts.codec import decode
from autopoiesis.contracts.messages.fleet import Heartbeat, PlanObserved, StepModel
from autopoiesis.contracts.slo import Objectives
from autopoiesis.observer.columns import to_table
from autopoiesis.observer.rows import PlanRow
from autopoiesis.simulator.workload.snapshot import write_snapshot
from autopoiesis.simulator.workload.window import FleetChange, GpuProbe, InFlight, SnapshotInfo

WARM_UP_SHARE = 0.05
WARM_UP_MOST_S = 10.0
"""What waited in the router's queue at the start is not known: the first arrivals fill it, unscored."""


@dataclass(frozen=True, slots=True)
class Material:
    """All that a window is made of. Tables have the columns of `RequestRecord` and `rows.FleetRow`, by time."""

    scope: str
    requests: pa.Table
    """Arrivals of the scope, also those before the window that were still running when it began."""
    fleet: pa.Table
    """Heartbeats, also those before the window."""
    objectives: Objectives
    step_scale: dict[str, float]
    step_error: float | None
    probed: dict[str, GpuProbe] = field(default_factory=dict)
    """By GPU type."""
    routers: int = 1
    speeds: dict[str, StepModel] = field(default_factory=dict)
    """By replica, what is known of its steps by now: of servers that show none it is learned, and less was known at the start."""
    plans: pa.Table = field(default_factory=lambda: to_table(PlanRow, []))
    """Monitoring steps of the scope's planner, columns of `rows.PlanRow`; empty where nothing is planned."""


@dataclass(frozen=True, slots=True)
class Half:
    """One blob. `data` is Parquet."""

    data: bytes
    arrivals: int
    info: SnapshotInfo


def half(material: Material, start_unix_s: float, end_unix_s: float) -> Half:
    """Arrivals with start <= time < end, with what was true at the start and changed until the end."""
    arrival = pc.field("arrival_unix_s")
    rows = material.requests.filter((arrival >= start_unix_s) & (arrival < end_unix_s))
    fleet, changes = fleet_between(material.fleet, material.scope, start_unix_s, end_unix_s)
    fleet = [_as_known_now(beat, material.speeds) for beat in fleet]
    changes = [
        FleetChange(at_s=c.at_s, heartbeat=_as_known_now(c.heartbeat, material.speeds)) for c in changes
    ]
    info = SnapshotInfo(
        scope=material.scope,
        start_unix_s=start_unix_s,
        end_unix_s=end_unix_s,
        scored_from_s=min(WARM_UP_MOST_S, WARM_UP_SHARE * (end_unix_s - start_unix_s)),
        objectives=material.objectives,
        fleet=tuple(fleet),
        changes=tuple(changes),
        in_flight=tuple(in_flight(material.requests, start_unix_s)),
        step_scale=material.step_scale,
        step_error=material.step_error,
        probed=material.probed,
        routers=material.routers,
        planned=tuple(planned(material.plans, start_unix_s, end_unix_s)),
        start_s=loading_s(material.fleet, material.scope),
    )
    return Half(write_snapshot(rows, info), rows.num_rows, info)


def _as_known_now(beat: Heartbeat, speeds: Mapping[str, StepModel]) -> Heartbeat:
    return msgspec.structs.replace(beat, step_model=speeds.get(beat.replica, beat.step_model))


def fleet_between(
    rows: pa.Table, scope: str, start_unix_s: float, end_unix_s: float
) -> tuple[list[Heartbeat], list[FleetChange]]:
    """(one heartbeat per replica at the start, what changed until the end) of the scope's model.

    Where nothing is known of the time before, the first heartbeats heard, even after the end, stand for the start.
    """
    at_start: dict[str, Heartbeat] = {}
    later: list[FleetChange] = []
    for row in rows.to_pylist():
        beat: Heartbeat = decode(Heartbeat, row["heartbeat"].encode(), where="fleet segment")
        if not _governs(scope, beat.model):
            continue
        if row["at_unix_s"] <= start_unix_s:
            at_start[beat.replica] = beat
        else:
            later.append(FleetChange(at_s=row["at_unix_s"] - start_unix_s, heartbeat=beat))
    if not at_start:
        for change in later:
            at_start.setdefault(change.heartbeat.replica, change.heartbeat)
    standing = [beat for _, beat in sorted(at_start.items()) if beat.state not in {"stopped", "failed"}]
    return standing, _real_changes(standing, [c for c in later if c.at_s < end_unix_s - start_unix_s])


def planned(rows: pa.Table, start_unix_s: float, end_unix_s: float) -> list[PlanObserved]:
    """Monitoring steps with start <= time < end."""
    at = pc.field("at_unix_s")
    steps = rows.filter((at >= start_unix_s) & (at < end_unix_s)).to_pylist()
    return [decode(PlanObserved, row["observed"].encode(), where="plans segment") for row in steps]


def loading_s(rows: pa.Table, scope: str) -> float | None:
    """Median time from `loading` to `ready` over the replicas of the scope's model that were seen to start."""
    since: dict[tuple[str, str], float] = {}
    took = []
    for row in rows.to_pylist():
        beat: Heartbeat = decode(Heartbeat, row["heartbeat"].encode(), where="fleet segment")
        if _governs(scope, beat.model):
            name = beat.replica, beat.incarnation
            if beat.state == "loading":
                since.setdefault(name, row["at_unix_s"])
            elif beat.state == "ready" and name in since:
                took.append(row["at_unix_s"] - since.pop(name))
    return median(took) if took else None


def _real_changes(standing: Sequence[Heartbeat], changes: Sequence[FleetChange]) -> list[FleetChange]:
    """Without the heartbeats that were kept only to say that nothing changed."""
    known = {beat.replica: _identity(beat) for beat in standing}
    kept = []
    for change in changes:
        if known.get(change.heartbeat.replica) != _identity(change.heartbeat):
            known[change.heartbeat.replica] = _identity(change.heartbeat)
            kept.append(change)
    return kept


def _identity(beat: Heartbeat) -> tuple[object, ...]:
    return beat.incarnation, beat.state, beat.model, beat.gpu, beat.tp, beat.role, beat.max_running


def _governs(scope: str, model: str) -> bool:
    governed = scope.partition("/")[2]
    return governed in {"*", model}


class _Running(msgspec.Struct):
    arrival_unix_s: float
    queue_wait_s: float
    e2e_s: float
    ttft_s: float | None
    tpot_s: float | None
    prompt_tokens: int
    output_tokens: int
    replica: str


def in_flight(requests: pa.Table, at_unix_s: float) -> list[InFlight]:
    """Requests that a replica was working on at that moment, with the tokens they had by then."""
    arrival = pc.field("arrival_unix_s")
    open_then = (arrival < at_unix_s) & (arrival + pc.field("e2e_s") > at_unix_s)
    columns = requests.filter(open_then).select(list(_Running.__struct_fields__)).to_pylist()
    running = [
        r
        for r in msgspec.convert(columns, list[_Running])
        if r.replica and r.arrival_unix_s + r.queue_wait_s <= at_unix_s
    ]
    return [
        InFlight(
            replica=r.replica,
            prompt_tokens=r.prompt_tokens,
            produced_tokens=_produced(r, at_unix_s),
            output_tokens=max(r.output_tokens, 1),
        )
        for r in running
    ]


def _produced(request: _Running, at_unix_s: float) -> int:
    if request.ttft_s is None or request.arrival_unix_s + request.ttft_s > at_unix_s:
        return 0
    since_first = at_unix_s - request.arrival_unix_s - request.ttft_s
    more = int(since_first / request.tpot_s) if request.tpot_s else 0
    return min(1 + more, max(request.output_tokens - 1, 0))
