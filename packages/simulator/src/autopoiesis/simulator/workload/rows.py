"""Reading trace files line by line: plain or gzipped, and what makes a row bad."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from autopoiesis.simulator.workload.trace import TraceError

MOST_TOKENS: Final = 1_000_000_000
"""Of one prompt or answer: more is a broken row, no request."""
Failed = Literal["drop", "keep", "error"]
"""What to do with rows that recorded a failure: leave out, keep as censored, or refuse the file."""


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line number from 1 and text without the newline; empty lines are passed over. Raises `TraceError`."""
    opener = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield number, text.rstrip("\r\n")
    except FileNotFoundError:
        raise TraceError(path, 0, "no such file") from None
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise TraceError(path, number + 1, f"not readable as text: {error}") from error


def csv_rows(path: Path, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a comma-separated file with a header that has the `required` columns."""
    header: list[str] = []
    for number, text in lines(path):
        cells = [cell.strip() for cell in text.split(",")]
        if not header:
            missing = [name for name in required if name not in cells]
            if missing:
                raise TraceError(
                    path, number, f"the header lacks {', '.join(missing)}; it has {', '.join(cells)}"
                )
            header = cells
            continue
        if len(cells) != len(header):
            raise TraceError(path, number, f"{len(cells)} cells under {len(header)} columns")
        yield number, dict(zip(header, cells, strict=True))


def json_rows(path: Path, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a JSON-lines file."""
    for number, text in lines(path):
        try:
            row = json.loads(text)
        except ValueError as error:
            raise TraceError(path, number, f"not JSON: {error}") from None
        if not isinstance(row, dict):
            raise TraceError(path, number, f"a {type(row).__name__}, must be an object")
        for name in required:
            if name not in row:
                raise TraceError(path, number, f"lacks {name!r}")
        yield number, row


def number_in(row: dict[str, Any], name: str, path: Path, line: int, *, low: float = 0.0) -> float:
    """A finite number that is at least `low`. Raises `TraceError` naming the column."""
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        raise TraceError(path, line, f"{name} = {row[name]!r}, must be a number") from None
    if not low <= value < float("inf"):
        raise TraceError(path, line, f"{name} = {row[name]!r}, must be finite and at least {low:g}")
    return value


def tokens_in(row: dict[str, Any], name: str, path: Path, line: int) -> int:
    """A whole number of tokens, 0 to `MOST_TOKENS`."""
    value = number_in(row, name, path, line)
    if value != int(value) or value > MOST_TOKENS:
        raise TraceError(
            path, line, f"{name} = {row[name]!r}, must be a whole number of tokens up to {MOST_TOKENS:,}"
        )
    return int(value)


class Columns:
    """Collects plain rows (time, prompt, output) and applies the rule for failed ones (no prompt or no output)."""

    def __init__(self, path: Path, failed: Failed) -> None:
        self.path = path
        self.failed = failed
        self.arrival: list[float] = []
        self.prompt: list[int] = []
        self.output: list[int] = []
        self.censored: list[bool] = []
        self.dropped = 0

    def add(self, line: int, arrival: float, prompt: int, output: int) -> bool:
        """Whether the row was kept. Raises `TraceError` for a failed one where the rule says so."""
        broken = prompt < 1 or output < 1
        if broken and self.failed == "error":
            raise TraceError(
                self.path,
                line,
                f"a failed request ({prompt} prompt, {output} output tokens); failed='drop' or 'keep' accepts it",
            )
        if broken and self.failed == "drop":
            self.dropped += 1
            return False
        self.arrival.append(arrival)
        self.prompt.append(max(1, prompt))
        self.output.append(max(1, output))
        self.censored.append(broken)
        return True

    def times_from_zero(self) -> list[float]:
        """Arrivals in seconds after the earliest."""
        zero = min(self.arrival, default=0.0)
        return [at - zero for at in self.arrival]
