"""BurstGPT (HPMLL/BurstGPT, CC-BY-4.0). Rows without tokens are failed requests; the first 20 h of its traces are a ramp-up."""

from __future__ import annotations

from pathlib import Path

from autopoiesis.simulator.workload.rows import Columns, Failed, csv_rows, number_in, tokens_in
from autopoiesis.simulator.workload.trace import Trace

SIGNATURE = ("Timestamp", "Request tokens", "Response tokens")


def load(path: Path, failed: Failed) -> Trace:
    """Sessions from the `Session ID` column where the file has one; classes from `Log Type`."""
    columns = Columns(path, failed)
    sessions: list[int] = []
    klasses: list[int] = []
    known_sessions: dict[str, int] = {}
    known_classes: dict[str, int] = {}
    for line, row in csv_rows(path, SIGNATURE):
        at = number_in(row, "Timestamp", path, line)
        prompt, output = (
            tokens_in(row, "Request tokens", path, line),
            tokens_in(row, "Response tokens", path, line),
        )
        if columns.add(line, at, prompt, output):
            session = row.get("Session ID", "")
            sessions.append(known_sessions.setdefault(session, len(known_sessions) + 1) if session else 0)
            kind = row.get("Log Type") or "default"
            klasses.append(known_classes.setdefault(kind, len(known_classes)))
    return Trace.of(
        path.name,
        columns.times_from_zero(),
        columns.prompt,
        columns.output,
        censored=columns.censored,
        session=sessions,
        klass=klasses,
        classes=tuple(known_classes) or ("default",),
        dropped=columns.dropped,
    )
