"""Workloads: traces from files, generators, load scaling, fleets' membership over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autopoiesis.simulator.workload.formats import formats
from autopoiesis.simulator.workload.rows import Failed, lines
from autopoiesis.simulator.workload.scaling import scale_load
from autopoiesis.simulator.workload.trace import Trace, TraceError

__all__ = ["Trace", "TraceError", "load_trace", "scale_load"]


def load_trace(path: str | Path, format: str = "auto", failed: Failed = "drop", **options: Any) -> Trace:  # noqa: A002
    """A trace file of any known format, `.gz` or not; options go to the format's loader.

    Raises `TraceError` with file, line and reason: a malformed row is never passed over. `failed` says what happens to rows that
    recorded a failed request: left out (and counted), kept as censored, or refused.
    """
    if failed not in {"drop", "keep", "error"}:
        raise ValueError(f"failed = {failed!r}: must be 'drop', 'keep' or 'error'")
    where = Path(path)
    known = formats()
    if format == "auto":
        format = _guess(where)  # noqa: A001
    if format not in known:
        raise ValueError(f"unknown trace format {format!r}; known are {', '.join(known)}")
    trace: Trace = known[format].load(where, failed, **options)
    if not len(trace):
        raise TraceError(where, 0, f"no usable request ({trace.dropped} failed ones dropped)")
    return trace


def _guess(path: Path) -> str:
    if path.suffix == ".parquet":
        return "snapshots"
    first = next((text for _, text in lines(path)), "")
    for name, module in formats().items():
        if module.SIGNATURE and all(word in first for word in module.SIGNATURE):
            return name
    raise TraceError(
        path, 1, f"not a known trace format ({', '.join(formats())}); its first line is {first[:80]!r}"
    )
