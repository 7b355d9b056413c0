"""A window of real traffic, ready to be replayed: its arrivals, and what they alone do not say.

Free of Parquet, whose library starts threads: this is the form in which a window goes into the jail (`pack`, `unpack`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np

from autopoiesis.contracts.messages.fleet import Heartbeat, PlanObserved
from autopoiesis.contracts.slo import STANDARD, Objectives
from autopoiesis.simulator.workload.trace import Trace

_COLUMNS: Final = {
    "arrival": "<f8",
    "prompt_tokens": "<i8",
    "output_tokens": "<i8",
    "censored": "?",
    "session": "<i8",
    "tenant": "<i8",
    "klass": "<i8",
    "parent": "<i8",
    "think_s": "<f8",
    "prompt_bytes": "<i8",
    "max_tokens": "<i8",
    "ttft_slo_s": "<f8",
    "tpot_slo_s": "<f8",
    "workflow": "<i8",
}


class FleetChange(msgspec.Struct, frozen=True, kw_only=True):
    """A replica joined, left or changed state; `heartbeat` is how it was from then on."""

    at_s: float
    """Seconds from the snapshot's start."""
    heartbeat: Heartbeat


class InFlight(msgspec.Struct, frozen=True, kw_only=True):
    """A request that a replica was working on when the window began."""

    replica: str
    prompt_tokens: int
    produced_tokens: int
    output_tokens: int
    """All it was to produce, as far as known."""


class GpuProbe(msgspec.Struct, frozen=True, kw_only=True):
    """What one GPU of a type reached when its node measured it."""

    flops: float
    """Dense bf16 FLOP/s in large products."""
    bandwidth: float
    """Bytes per second in copying memory."""
    memory_bytes: int


class SnapshotInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the rows alone do not say. Seconds are from `start_unix_s` unless they are Unix times."""

    scope: str
    start_unix_s: float
    end_unix_s: float
    scored_from_s: float = 0.0
    """Arrivals before this warm the simulation up and are not scored."""
    objectives: Objectives = STANDARD
    fleet: tuple[Heartbeat, ...] = ()
    """One per replica, at the start."""
    changes: tuple[FleetChange, ...] = ()
    in_flight: tuple[InFlight, ...] = ()
    step_scale: dict[str, float] = {}
    """Per GPU type: measured over modelled step time, from step telemetry; 1 where nothing was measured."""
    step_error: float | None = None
    """Relative error of modelled step times after that, where measured."""
    probed: dict[str, GpuProbe] = {}
    """By GPU type, where a node measured it: what modelled step times start from."""
    routers: int = 1
    block_tokens: int = 256
    """Estimated tokens behind each block hash."""
    planned: tuple[PlanObserved, ...] = ()
    """The planner's monitoring steps, in order; none where nothing is planned."""
    start_s: float | None = None
    """Median seconds until a replica that started was ready, where any was seen to start."""
    version: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """What `evaluate_snapshot` needs of a snapshot. Times of the trace are from the snapshot's start."""

    info: SnapshotInfo
    trace: Trace


class _Packed(msgspec.Struct, frozen=True, kw_only=True):
    info: SnapshotInfo
    name: str
    columns: dict[str, bytes]
    classes: tuple[str, ...]
    block_hashes: tuple[tuple[int, ...], ...] | None
    block_tokens: int
    dropped: int


def pack(window: Window) -> bytes:
    """The window as MessagePack, columns as little-endian arrays."""
    trace = window.trace
    columns = {name: getattr(trace, name) for name in _COLUMNS}
    return msgspec.msgpack.encode(
        _Packed(
            info=window.info,
            name=trace.name,
            columns={n: c.astype(_COLUMNS[n]).tobytes() for n, c in columns.items() if c is not None},
            classes=trace.classes,
            block_hashes=trace.block_hashes,
            block_tokens=trace.block_tokens,
            dropped=trace.dropped,
        )
    )


def unpack(data: bytes) -> Window:
    """What was packed. Raises `msgspec.DecodeError`, `KeyError`, `TypeError` or `ValueError` for anything else."""
    packed = msgspec.msgpack.decode(data, type=_Packed)
    columns: dict[str, Any] = {n: np.frombuffer(data, _COLUMNS[n]) for n, data in packed.columns.items()}
    trace = Trace(
        name=packed.name,
        **columns,
        classes=packed.classes,
        block_hashes=packed.block_hashes,
        block_tokens=packed.block_tokens,
        dropped=packed.dropped,
    )
    return Window(packed.info, trace)
