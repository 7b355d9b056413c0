"""Our own snapshots (Parquet): the arrivals alone; `workload.snapshot.read_snapshot` gives the fleet and the rest as well."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autopoiesis.simulator.workload.rows import Failed
from autopoiesis.simulator.workload.snapshot import read_snapshot
from autopoiesis.simulator.workload.trace import Trace, TraceError

SIGNATURE: tuple[str, ...] = ()


def load(path: Path, failed: Failed) -> Trace:
    """Failed arrivals are those whose outcome is `failed`; a rejected or expired one is an arrival like others."""
    snapshot = read_snapshot(path)
    broken = np.array([outcome == "failed" for outcome in snapshot.table["outcome"].to_pylist()], bool)
    if broken.any() and failed == "error":
        raise TraceError(
            path,
            0,
            f"row {int(np.flatnonzero(broken)[0])} is a failed request; failed='drop' or 'keep' accepts it",
        )
    return snapshot.trace.take(np.flatnonzero(~broken)) if failed == "drop" else snapshot.trace
