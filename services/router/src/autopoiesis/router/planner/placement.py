"""From counts to machines: which replica runs where, with as little disturbance as there can be."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autopoiesis.contracts.messages.fleet import DesiredReplica, Role
from autopoiesis.contracts.subjects import slug

Wanted = dict[str, tuple[DesiredReplica, ...]]
"""By node, what should run there."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What makes two replicas interchangeable."""

    model: str
    gpu: str
    tp: int
    role: Role = "mixed"


class PlacementError(ValueError):
    """The plan fits the GPUs in number but no machine; the message says which replica."""


def place(counts: Mapping[Kind, int], current: Wanted, gpus: Mapping[str, Mapping[str, int]]) -> Wanted:
    """Put `counts` replicas of each kind onto nodes that have `gpus` by type.

    What `current` runs and is still wanted stays where it is and serves on, if its machine still has the GPUs. Only where the rest
    finds no machine is a GPU type packed anew. Raises PlacementError.
    """
    kept = _kept(counts, current, gpus)
    try:
        return _filled(counts, kept, gpus)
    except PlacementError as error:
        missing = error.args[1]
        loose = {node: tuple(r for r in there if r.gpu != missing.gpu) for node, there in kept.items()}
        return _filled(counts, loose, gpus)


def kinds_of(wanted: Wanted) -> Counter[Kind]:
    return Counter(kind_of(replica) for there in wanted.values() for replica in there)


def kind_of(replica: DesiredReplica) -> Kind:
    return Kind(replica.model, replica.gpu, replica.tp, replica.role)


def _kept(counts: Mapping[Kind, int], current: Wanted, gpus: Mapping[str, Mapping[str, int]]) -> Wanted:
    left = Counter(dict(counts))
    kept: Wanted = {}
    for node, there in sorted(current.items()):
        free = Counter(dict(gpus.get(node, {})))
        stays = []
        for replica in there:
            if left[kind_of(replica)] > 0 and free[replica.gpu] >= replica.tp:
                left[kind_of(replica)] -= 1
                free[replica.gpu] -= replica.tp
                stays.append(replica)
        kept[node] = tuple(stays)
    return kept


def _filled(counts: Mapping[Kind, int], kept: Wanted, gpus: Mapping[str, Mapping[str, int]]) -> Wanted:
    """Add what is missing, largest first, each to the node that it leaves least room on."""
    free = {node: Counter(dict(has)) for node, has in gpus.items()}
    placed: dict[str, list[DesiredReplica]] = defaultdict(list)
    for node, there in kept.items():
        for replica in there:
            placed[node].append(replica)
            free[node][replica.gpu] -= replica.tp
    have = kinds_of(kept)
    names = {replica.replica for there in kept.values() for replica in there}
    for kind in _missing(counts, have):
        fitting = [node for node in sorted(free) if free[node][kind.gpu] >= kind.tp]
        if not fitting:
            raise PlacementError(
                f"no machine has {kind.tp} free {kind.gpu} for a replica of {kind.model}", kind
            )
        node = min(fitting, key=lambda name: free[name][kind.gpu])
        free[node][kind.gpu] -= kind.tp
        placed[node].append(_replica(node, kind, names))
    return {node: tuple(placed[node]) for node in gpus}


def _missing(counts: Mapping[Kind, int], have: Mapping[Kind, int]) -> Sequence[Kind]:
    missing = [kind for kind, count in counts.items() for _ in range(count - have.get(kind, 0))]
    return sorted(missing, key=lambda kind: -kind.tp)


def _replica(node: str, kind: Kind, names: set[str]) -> DesiredReplica:
    base = "-".join(
        (slug(node), slug(kind.model), slug(kind.gpu).lower(), *((f"tp{kind.tp}",) if kind.tp > 1 else ()))
    )
    number = next(n for n in range(len(names) + 1) if f"{base}-{n}" not in names)
    names.add(f"{base}-{number}")
    return DesiredReplica(
        replica=f"{base}-{number}", model=kind.model, gpu=kind.gpu, tp=kind.tp, role=kind.role
    )


def changes(before: Wanted, after: Wanted) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the replicas that start and of those that stop."""
    old, new = (set(_names(wanted)) for wanted in (before, after))
    return tuple(sorted(new - old)), tuple(sorted(old - new))


def _names(wanted: Wanted) -> Iterable[str]:
    return (replica.replica for there in wanted.values() for replica in there)
