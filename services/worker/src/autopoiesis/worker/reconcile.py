"""From the replicas that run to those that should: what to retire and what can start now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from autopoiesis.contracts.messages.fleet import DesiredState
from autopoiesis.worker.layout import ReplicaSpec, gpus_used


class DesiredStateError(ValueError):
    """A desired state that this node cannot or must not take; the message says why."""


@dataclass(frozen=True, slots=True)
class Step:
    """`retire` by name; `start` has GPUs and a free name now. `done`: nothing remains to be waited for."""

    retire: tuple[str, ...]
    start: tuple[ReplicaSpec, ...]
    done: bool


def supersedes(new: DesiredState, held: DesiredState | None) -> bool:
    """Whether `new` is to be applied. Raises `DesiredStateError` where its lease epoch is older than the one held."""
    if held is None:
        return True
    if new.lease_epoch < held.lease_epoch:
        raise DesiredStateError(
            f"desired state of lease epoch {new.lease_epoch} refused: epoch {held.lease_epoch} was seen already"
        )
    return (new.lease_epoch, new.revision) > (held.lease_epoch, held.revision)


def check(desired: DesiredState, gpus: Mapping[str, int]) -> None:
    """Raises `DesiredStateError` where names repeat or the node's GPUs do not suffice."""
    names = [replica.replica for replica in desired.replicas]
    for name in names:
        if names.count(name) > 1:
            raise DesiredStateError(f"desired state names replica {name!r} twice")
    for kind, count in gpus_used([ReplicaSpec.of(replica) for replica in desired.replicas]).items():
        if count > gpus.get(kind, 0):
            raise DesiredStateError(
                f"desired state needs {count} x {kind}; node {desired.node} has {gpus.get(kind, 0)}"
            )


def next_step(
    desired: Iterable[ReplicaSpec],
    running: Mapping[str, ReplicaSpec],
    retiring: Iterable[str],
    gpus: Mapping[str, int],
) -> Step:
    """What to do now. `running` are all replicas that hold GPUs, those in `retiring` included.

    A changed replica (model, GPUs, batch limit) is retired first and started again under its name.
    """
    wanted = {spec.name: spec for spec in desired}
    leaving = set(retiring)
    retire = tuple(name for name, spec in running.items() if name not in leaving and wanted.get(name) != spec)
    used = gpus_used(list(running.values()))
    start = []
    missing = [spec for name, spec in wanted.items() if running.get(name) != spec]
    for spec in missing:
        if spec.name not in running and used.get(spec.gpu, 0) + spec.tp <= gpus.get(spec.gpu, 0):
            used[spec.gpu] = used.get(spec.gpu, 0) + spec.tp
            start.append(spec)
    done = not retire and not leaving and len(start) == len(missing)
    return Step(retire, tuple(start), done)
