"""Azure LLM inference traces of 2023 and 2024 (Azure/AzurePublicDataset, CC-BY-4.0)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from autopoiesis.simulator.workload.rows import Columns, Failed, csv_rows, tokens_in
from autopoiesis.simulator.workload.trace import Trace, TraceError

SIGNATURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def load(path: Path, failed: Failed) -> Trace:
    """No sessions, no prefixes. The 2024 files carry a zone behind the time."""
    columns = Columns(path, failed)
    for line, row in csv_rows(path, SIGNATURE):
        at = _seconds(row["TIMESTAMP"], path, line)
        columns.add(
            line,
            at,
            tokens_in(row, "ContextTokens", path, line),
            tokens_in(row, "GeneratedTokens", path, line),
        )
    return Trace.of(
        path.name,
        columns.times_from_zero(),
        columns.prompt,
        columns.output,
        censored=columns.censored,
        dropped=columns.dropped,
    )


def _seconds(text: str, path: Path, line: int) -> float:
    """Unix seconds; the files have seven decimals, one more than `datetime` reads."""
    whole, _, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    try:
        moment = datetime.fromisoformat(whole + rest[len(digits) :])
    except ValueError:
        raise TraceError(
            path, line, f"TIMESTAMP = {text!r}, must be like 2023-11-16 18:15:46.6805900"
        ) from None
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() + float(f"0.{digits or 0}")
