"""Spot membership: how many nodes a fleet has over time, from published preemption traces."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from autopoiesis.simulator.workload.rows import lines, number_in
from autopoiesis.simulator.workload.trace import TraceError

NOBODY_MOVES: Final = ("no-op", "migration")
"""Parcae's ticks at which no node comes or goes; at the second its trainer moved work about."""


@dataclass(frozen=True, slots=True)
class NodeChange:
    """A node comes or goes at `at` seconds from the trace's start."""

    at: float
    node: str
    change: Literal["add", "remove"]


def load_spot(path: str | Path) -> list[NodeChange]:
    """Changes in order of time, from Bamboo (`ms,add|remove,node`), Parcae (`[ms, "add", {nodes}]`) or count (`ms,count`, `date,time,count`)
    traces.

    Raises `TraceError` with the line of anything else, or of a node that is added twice or removed while absent.
    """
    where = Path(path)
    changes: list[NodeChange] = []
    for number, text in lines(where):
        changes += (
            _parcae(text, where, number) if text.startswith("[") else _csv(text, where, number, changes)
        )
    zero = changes[0].at if changes else 0.0
    present: set[str] = set()
    for change in changes:
        if (change.change == "add") == (change.node in present):
            raise TraceError(
                where, 0, f"{change.node} at {change.at:g} s: {change.change} contradicts what came before"
            )
        present ^= {change.node}
    return [replace(change, at=change.at - zero) for change in changes]


def _parcae(text: str, path: Path, line: int) -> list[NodeChange]:
    try:
        at, kind, detail = json.loads(text)
        nodes = list(detail["nodes"])
    except (ValueError, KeyError, TypeError):
        raise TraceError(path, line, 'must be [ms, "add" | "remove" | "no-op", {"nodes": [...]}]') from None
    if kind not in {"add", "remove", *NOBODY_MOVES}:
        raise TraceError(path, line, f"{kind!r}: must be add, remove, {' or '.join(NOBODY_MOVES)}")
    ms = number_in({"ms": at}, "ms", path, line)
    return [] if kind in NOBODY_MOVES else [NodeChange(ms / 1e3, str(node), kind) for node in nodes]


def _unix_ms(text: str, path: Path, line: int) -> float:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1e3
    except ValueError:
        raise TraceError(path, line, f"{text!r}: must be like 2021-12-11 11:11:30") from None


def _csv(text: str, path: Path, line: int, before: list[NodeChange]) -> list[NodeChange]:
    cells = [cell.strip() for cell in text.split(",")]
    if len(cells) == 3 and "-" in cells[0]:
        cells = [str(_unix_ms(f"{cells[0]} {cells[1]}", path, line)), cells[2]]
    at = number_in({"time": cells[0]}, "time", path, line) / 1e3
    if len(cells) == 3 and cells[1] in {"add", "remove"}:
        return [NodeChange(at, cells[2], "add" if cells[1] == "add" else "remove")]
    if len(cells) != 2:
        raise TraceError(path, line, "must be ms,add|remove,node or ms,count or date,time,count")
    count = int(number_in({"count": cells[1]}, "count", path, line))
    present = sum(1 if change.change == "add" else -1 for change in before)
    if count >= present:
        return [NodeChange(at, f"node{n}", "add") for n in range(present, count)]
    return [NodeChange(at, f"node{n}", "remove") for n in range(present - 1, count - 1, -1)]
