"""Recorded windows: a plan policy on one (the planner's rules, the GPUs there were, what starting a replica was seen to take), and
any trace on any fleet as if it had been recorded.
"""

from __future__ import annotations

from itertools import pairwise

import msgspec

from autopoiesis.contracts.messages.fleet import ModelBounds
from autopoiesis.contracts.slo import Objectives
from autopoiesis.simulator.fleet import Fleet
from autopoiesis.simulator.requests.engines import Engine
from autopoiesis.simulator.requests.planning import Planning
from autopoiesis.simulator.steptime import Steps, StepTime
from autopoiesis.simulator.workload.trace import Trace
from autopoiesis.simulator.workload.window import SnapshotInfo, Window


class UnplannedError(ValueError):
    """No plan policy can be replayed on this window; the message says why."""


def planning_of(policy: str, info: SnapshotInfo, lead: SnapshotInfo | None = None) -> Planning:
    """`policy` in the place of the one that planned then, from the start of `lead`, where there is one, or of the window.

    Raises UnplannedError where no planner was seen, or one of several models: their engines are not of one world.
    """
    steps = (*(lead.planned if lead else ()), *info.planned)
    if not info.planned:
        raise UnplannedError("no planner was at work in this window")
    models = {name for step in steps for name in step.demand}
    if len(models) != 1:
        raise UnplannedError(
            f"the planner plans {len(models)} models ({', '.join(sorted(models))}); one alone can be replayed"
        )
    rules, (model,) = steps[-1].rules, models
    bounds = rules.bounds.get(model, ModelBounds())
    changes = [(step.at_unix_s - info.start_unix_s, step.gpus) for step in steps]
    return Planning(
        policy=policy,
        gpus=steps[0].gpus,
        changes=[now for before, now in pairwise(changes) if now[1] != before[1]],
        step_s=rules.step_s,
        window_s=rules.window_s,
        cooldown_s=rules.cooldown_s,
        min_replicas=bounds.min_replicas,
        max_replicas=bounds.max_replicas,
        quota=rules.quota,
        start_s=info.start_s if info.start_s is not None or lead is None else lead.start_s,
        step_scale=info.step_scale,
    )


def fleet_of(info: SnapshotInfo) -> Fleet:
    """What stood when the window began; how that changed later was the planner's doing then. Raises `ValueError` if nothing did."""
    standing = tuple(
        msgspec.structs.replace(beat, state="ready")
        for beat in info.fleet
        if beat.state in {"ready", "loading"}
    )
    return Fleet.of_snapshot(msgspec.structs.replace(info, fleet=standing, changes=()))


def window_of(trace: Trace, fleet: Fleet, objectives: Objectives, *, routers: int = 1) -> Window:
    """`trace`, whose times begin at zero, on `fleet`, as if an observer had recorded it: the form that a replay in the jail takes.

    Raises ValueError for what such a window cannot hold: a fleet that changes, or engines other than those of its GPUs' and model's names.
    """
    if fleet.changes:
        raise ValueError("the fleet changes over time; only one that stays can be written down as a window")
    info = SnapshotInfo(
        scope=f"offline/{fleet.replicas[0].model}",
        start_unix_s=0.0,
        end_unix_s=float(trace.arrival[-1]),
        objectives=objectives,
        fleet=tuple(Engine(spec, 0.0, None).heartbeat(0.0) for spec in fleet.replicas),
        routers=routers,
    )
    for spec, again in zip(fleet.replicas, Fleet.of_snapshot(info).replicas, strict=True):
        if _speed(spec.steps) != _speed(again.steps):
            raise ValueError(
                f"{spec.name} is not {spec.model} on {spec.gpu} as shipped; a window names model and GPU, and calibrations or "
                "models of your own are lost with it"
            )
    return Window(info, trace)


def _speed(steps: Steps) -> object:
    return (
        (steps.gpu, steps.model, steps.tp, steps.efficiency, steps.scale)
        if isinstance(steps, StepTime)
        else steps
    )
