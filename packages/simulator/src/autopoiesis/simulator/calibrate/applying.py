"""A fleet with the efficiencies that were measured on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from autopoiesis.simulator.fleet import Fleet, ReplicaSpec
from autopoiesis.simulator.hardware import Efficiency, gpu
from autopoiesis.simulator.steptime import StepTime


def calibrated(fleet: Fleet, measured: Mapping[str, Efficiency]) -> Fleet:
    """The same fleet, its step times by `measured`: efficiencies (`Fit.efficiency`) by GPU type.

    Replicas of other types stay as they are. Raises `ValueError` for a GPU that is not known or not in the fleet.
    """
    of = {gpu(name).name: efficiency for name, efficiency in measured.items()}
    specs = [*fleet.replicas, *(change.spec for change in fleet.changes if change.spec)]
    absent = of.keys() - {spec.gpu for spec in specs if isinstance(spec.steps, StepTime)}
    if absent:
        raise ValueError(
            f"no replica on {', '.join(sorted(absent))}; the fleet has {', '.join(sorted({s.gpu for s in specs}))}"
        )
    changes = tuple(replace(c, spec=_refit(c.spec, of)) if c.spec else c for c in fleet.changes)
    return replace(fleet, replicas=tuple(_refit(spec, of) for spec in fleet.replicas), changes=changes)


def _refit(spec: ReplicaSpec, of: Mapping[str, Efficiency]) -> ReplicaSpec:
    old = spec.steps
    if spec.gpu not in of or not isinstance(old, StepTime):
        return spec
    return replace(spec, steps=StepTime(old.gpu, old.model, old.tp, of[spec.gpu], old.scale))
