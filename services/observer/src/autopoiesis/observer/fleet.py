"""The fleet over time, from heartbeats."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, median_low

import msgspec

from autopoiesis.contracts.codec import encode
from autopoiesis.contracts.messages.fleet import Heartbeat, NodeInventory
from autopoiesis.observer.rows import FleetRow
from autopoiesis.observer.segments import Batch
from autopoiesis.simulator.workload.window import GpuProbe

KEYFRAME_S = 60.0
"""A replica that does not change is noted this often all the same: later readers need not go further back."""
GONE_S = 3.0
"""Seconds without a heartbeat after which a replica counts as gone."""


@dataclass(slots=True)
class _Known:
    heartbeat: Heartbeat
    heard_unix_s: float
    noted_unix_s: float = 0.0
    noted: tuple[object, ...] = ()


def _matters(beat: Heartbeat) -> tuple[object, ...]:
    """What makes two heartbeats of a replica different members of the fleet."""
    return (
        beat.incarnation,
        beat.state,
        beat.model,
        beat.gpu,
        beat.tp,
        beat.role,
        beat.max_running,
        beat.kv_capacity_tokens,
        beat.step_model,
        beat.notice_s is not None,
    )


class Fleet:
    """The newest heartbeat per replica, and rows for the segment log where something changed."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._inventories: dict[str, NodeInventory] = {}
        self._incarnation = uuid.uuid4().hex
        self._count = 0

    def heard(self, beat: Heartbeat) -> None:
        known = self._known.get(beat.replica)
        now = self._clock()
        if known is None:
            self._known[beat.replica] = _Known(beat, now)
        elif known.heartbeat.incarnation != beat.incarnation or beat.beat > known.heartbeat.beat:
            known.heartbeat, known.heard_unix_s = beat, now

    def equipped(self, inventory: NodeInventory) -> None:
        self._inventories[inventory.node] = inventory

    def probed(self) -> dict[str, GpuProbe]:
        """What nodes measured of their GPUs, by type; where nodes differ, the median of each figure."""
        found: dict[str, list[GpuProbe]] = {}
        for node in self._inventories.values():
            for kind in (
                node.measured_flops.keys() & node.measured_bandwidth.keys() & node.memory_bytes.keys()
            ):
                found.setdefault(kind, []).append(
                    GpuProbe(
                        flops=node.measured_flops[kind],
                        bandwidth=node.measured_bandwidth[kind],
                        memory_bytes=node.memory_bytes[kind],
                    )
                )
        return {
            kind: GpuProbe(
                flops=median(probe.flops for probe in probes),
                bandwidth=median(probe.bandwidth for probe in probes),
                memory_bytes=median_low(probe.memory_bytes for probe in probes),
            )
            for kind, probes in sorted(found.items())
        }

    def current(self) -> list[Heartbeat]:
        """Replicas heard of lately, by name."""
        return [known.heartbeat for _, known in sorted(self._known.items()) if not self._is_gone(known)]

    def changes(self) -> Batch[FleetRow] | None:
        """Rows for replicas that changed since the last call, went silent, or were not noted for a minute."""
        now, rows = self._clock(), []
        for replica, known in list(self._known.items()):
            gone = self._is_gone(known)
            beat = msgspec.structs.replace(known.heartbeat, state="stopped") if gone else known.heartbeat
            if _matters(beat) != known.noted or now - known.noted_unix_s >= KEYFRAME_S:
                known.noted, known.noted_unix_s = _matters(beat), now
                rows.append(
                    FleetRow(
                        at_unix_s=now, replica=replica, state=beat.state, heartbeat=encode(beat).decode()
                    )
                )
            if gone:
                del self._known[replica]
        if not rows:
            return None
        self._count += 1
        return Batch(("observer", self._incarnation, self._count), rows)

    def _is_gone(self, known: _Known) -> bool:
        return self._clock() - known.heard_unix_s > GONE_S
