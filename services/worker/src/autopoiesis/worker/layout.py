"""Which replicas a node runs: their specification, and the short form that settings use."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from autopoiesis.contracts.messages.fleet import DesiredReplica, Role
from autopoiesis.contracts.subjects import slug
from autopoiesis.simulator.hardware import gpu

_GROUP: Final = re.compile(
    r"(?:(?P<count>\d+)\s*x\s*)?(?P<gpu>[A-Za-z][\w -]*?)\s*(?:[:/]\s*tp\s*(?P<tp>\d+))?"
    r"\s*(?::\s*(?P<role>mixed|prefill|decode))?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSpec:
    """One replica. `max_running` 0 leaves the engine's default."""

    name: str
    model: str
    gpu: str
    tp: int = 1
    role: Role = "mixed"
    max_running: int = 0

    @classmethod
    def of(cls, desired: DesiredReplica) -> ReplicaSpec:
        return cls(
            name=desired.replica,
            model=desired.model,
            gpu=desired.gpu,
            tp=desired.tp,
            role=desired.role,
            max_running=desired.max_running,
        )


def parse_layout(
    text: str,
    *,
    node: str,
    model: str,
    kinds: Collection[str] | None = None,
    setting: str = "worker.replicas",
) -> list[ReplicaSpec]:
    """Replicas of `2xH100 + 4xL40S:tp2` or `1xH100:prefill + 2xL40S/tp2:decode`, named `<node>-<gpu>-<number>`.

    `kinds`: the devices there are; without, those that the simulator knows. Raises `ValueError` saying which part is wrong.
    """
    specs: list[ReplicaSpec] = []
    numbers: dict[str, int] = {}
    for part in text.split("+"):
        match = _GROUP.fullmatch(part.strip())
        if match is None:
            raise ValueError(
                f"{setting}: cannot read {part.strip()!r} in {text!r}; write for instance 2xH100 + 4xL40S:tp2"
            )
        chip, tp = _kind(match["gpu"], kinds, setting), int(match["tp"] or 1)
        role: Any = (match["role"] or "mixed").lower()
        for _ in range(int(match["count"] or 1)):
            number = numbers[chip] = numbers.get(chip, -1) + 1
            specs.append(
                ReplicaSpec(
                    name=f"{node}-{slug(chip.lower())}-{number}", model=model, gpu=chip, tp=tp, role=role
                )
            )
    return specs


def _kind(text: str, kinds: Collection[str] | None, setting: str) -> str:
    if kinds is None:
        return gpu(text).name
    for kind in kinds:
        if kind.lower() == text.lower():
            return kind
    raise ValueError(f"{setting}: no {text} here; this machine has {', '.join(kinds) or 'nothing'}")


def gpus_used(specs: list[ReplicaSpec]) -> dict[str, int]:
    """GPUs by type."""
    used: dict[str, int] = {}
    for spec in specs:
        used[spec.gpu] = used.get(spec.gpu, 0) + spec.tp
    return used
