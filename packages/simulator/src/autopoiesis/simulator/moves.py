"""Schedules of fleet changes: starts, plans that replace one another, spot membership."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from autopoiesis.simulator.fleet import Change, Fleet, ReplicaSpec
from autopoiesis.simulator.startup import Start, StartupCosts
from autopoiesis.simulator.workload.spot import NodeChange

DEFAULT_COSTS = StartupCosts()


def start(
    at: float, spec: ReplicaSpec, how: Start = "warm", *, after: str = "", costs: StartupCosts = DEFAULT_COSTS
) -> Change:
    """That replica begins to load at `at` s, or when the replica `after` has left its GPUs, if that is later."""
    return Change(
        at=at,
        kind="join",
        replica=spec.name,
        spec=spec,
        takes_s=costs.seconds(spec, how),
        after=after,
        gap_s=costs.stop_s if after else 0.0,
    )


def wake(at: float, spec: ReplicaSpec, *, costs: StartupCosts = DEFAULT_COSTS) -> Change:
    """A sleeping replica loads its weights back."""
    return Change(at=at, kind="wake", replica=spec.name, takes_s=costs.seconds(spec, "wake"))


def replan(
    at: float,
    old: Sequence[ReplicaSpec],
    new: Sequence[ReplicaSpec],
    how: Start = "warm",
    *,
    costs: StartupCosts = DEFAULT_COSTS,
) -> list[Change]:
    """From one plan to another: replicas of the same name stay as they are, others of the old one drain, new ones start.

    A new replica waits for the GPUs of one that leaves the same node, in order; where none leaves it starts at once. What
    is to change on a replica that stays (tensor parallelism, model) needs a new name: engines cannot change it in place.
    """
    staying = {spec.name for spec in old} & {spec.name for spec in new}
    leaving = [spec for spec in old if spec.name not in staying]
    changes = [Change(at=at, kind="drain", replica=spec.name) for spec in leaving]
    for spec in new:
        if spec.name in staying:
            continue
        place = next((gone for gone in leaving if gone.node == spec.node), None)
        if place is not None:
            leaving.remove(place)
        changes.append(start(at, spec, how, after=place.name if place else "", costs=costs))
    return changes


def spot_fleet(
    membership: Iterable[NodeChange],
    spec: ReplicaSpec,
    *,
    notice_s: float = 0.0,
    how: Start = "cold",
    nodes: int | None = None,
    start_s: float = 0.0,
    span_s: float = math.inf,
    costs: StartupCosts = DEFAULT_COSTS,
) -> Fleet:
    """One replica like `spec` on each node of a membership trace (`workload.spot.load_spot`), preemptible.

    Who is there at `start_s` of the trace is ready at 0; later ones load first. `notice_s` before it goes a node is told
    (0: never). At most `nodes` are there at a time; what joins while there are as many is left out. Raises `ValueError` where no
    node remains.
    """
    takes_s = costs.seconds(spec, how)
    turns: dict[str, int] = {}
    standing: dict[str, tuple[str, float]] = {}
    changes: list[Change] = []
    initial: dict[str, ReplicaSpec] = {}
    for change in membership:
        at = change.at - start_s
        if at > span_s:
            break
        if change.change == "remove":
            if change.node in standing:
                name, since = standing.pop(change.node)
                _remove(changes, initial, name, since, at, notice_s)
            continue
        if nodes is not None and len(standing) >= nodes:
            continue
        turns[change.node] = turn = turns.get(change.node, 0) + 1
        name = f"{change.node}~{turn}" if turn > 1 else change.node
        own = replace(spec, name=name, node=name, preemptible=True)
        standing[change.node] = name, at
        if at <= 0:
            initial[name] = own
        else:
            changes.append(Change(at=at, kind="join", replica=name, spec=own, takes_s=takes_s))
    return Fleet(tuple(initial.values())).with_changes(changes) if initial else _later(changes)


def _later(changes: list[Change]) -> Fleet:
    return Fleet((), tuple(sorted(changes, key=lambda change: change.at)))


def _remove(
    changes: list[Change],
    initial: dict[str, ReplicaSpec],
    name: str,
    since: float,
    at: float,
    notice_s: float,
) -> None:
    if at <= 0:
        del initial[name]
    elif notice_s:
        told = max(at - notice_s, since, 0.0)
        changes.append(Change(at=told, kind="notice", replica=name, takes_s=at - told))
    else:
        changes.append(Change(at=at, kind="fail", replica=name))
