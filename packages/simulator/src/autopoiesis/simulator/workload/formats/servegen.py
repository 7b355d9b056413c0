"""Plain CSV as ServeGen-style generators write it: t_s, input_tokens, output_tokens; further columns are passed over."""

from __future__ import annotations

from pathlib import Path

from autopoiesis.simulator.workload.rows import Columns, Failed, csv_rows, number_in, tokens_in
from autopoiesis.simulator.workload.trace import Trace

SIGNATURE = ("t_s", "input_tokens", "output_tokens")


def load(path: Path, failed: Failed) -> Trace:
    columns = Columns(path, failed)
    for line, row in csv_rows(path, SIGNATURE):
        at = number_in(row, "t_s", path, line)
        columns.add(
            line, at, tokens_in(row, "input_tokens", path, line), tokens_in(row, "output_tokens", path, line)
        )
    return Trace.of(
        path.name,
        columns.arrival,
        columns.prompt,
        columns.output,
        censored=columns.censored,
        dropped=columns.dropped,
    )
