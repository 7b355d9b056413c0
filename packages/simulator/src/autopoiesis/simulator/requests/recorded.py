"""A plan policy on a recorded window: the planner's rules, the GPUs there were, and what starting a replica was seen to take."""

from __future__ import annotations

from itertools import pairwise

import msgspec

from autopoiesis.contracts.messages.fleet import ModelBounds
from autopoiesis.simulator.fleet import Fleet
from autopoiesis.simulator.requests.planning import Planning
from autopoiesis.simulator.workload.window import SnapshotInfo


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
