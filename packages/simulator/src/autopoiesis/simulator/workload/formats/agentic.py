"""Agentic coding sessions (callanjfox/kv-cache-tester, Apache-2.0): one session per line, closed loop, prefix blocks by run length."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from autopoiesis.simulator.workload.rows import Failed, json_rows, number_in, tokens_in
from autopoiesis.simulator.workload.trace import Trace, TraceError

SIGNATURE = ('"requests"', '"block_size"', '"hash_id_scope"')


def load(
    path: Path,
    failed: Failed,
    *,
    sessions: int | None = None,
    sessions_per_s: float = 0.05,
    scale: float = 1.0,
    coarsen: int = 8,
    longest_gap_s: float = math.inf,
    seed: int = 0,
) -> Trace:
    """At most `sessions` of them, starting as a Poisson process; the file has no starting times.

    `scale` multiplies all lengths (prompts there run to 500,000 tokens), `coarsen` merges that many prefix blocks into one. A
    call waits for the last call of its session that had ended when it started, and then for the recorded gap. Each session is one
    workflow. Sessions that rested for days go on after `longest_gap_s`.
    """
    if coarsen < 1 or scale <= 0:
        raise ValueError(f"coarsen = {coarsen}, scale = {scale}: must be at least 1 and above 0")
    rng = np.random.default_rng(seed)
    out: dict[str, list[Any]] = {
        key: [] for key in ("arrival", "prompt", "output", "session", "parent", "think", "hashes")
    }
    start, block, dropped = 0.0, 0, 0
    for number, (line, row) in enumerate(json_rows(path, ("requests", "block_size")), 1):
        if sessions is not None and number > sessions:
            break
        size = tokens_in(row, "block_size", path, line) * coarsen
        if block and size != block:
            raise TraceError(
                path, line, f"block_size {size // coarsen} differs from the lines before ({block // coarsen})"
            )
        block = size
        dropped += _session(out, row, number, start, path, line, scale=scale, coarsen=coarsen, failed=failed)
        start += float(rng.exponential(1 / sessions_per_s))
    return Trace.of(
        path.name,
        out["arrival"],
        out["prompt"],
        out["output"],
        session=out["session"],
        parent=out["parent"],
        think_s=np.minimum(out["think"], longest_gap_s),
        workflow=out["session"],
        block_hashes=out["hashes"],
        block_tokens=max(1, round(block * scale)),
        dropped=dropped,
    )


def _session(
    out: dict[str, list[Any]],
    row: dict[str, Any],
    number: int,
    start: float,
    path: Path,
    line: int,
    *,
    scale: float,
    coarsen: int,
    failed: Failed,
) -> int:
    ended: list[tuple[float, int]] = []
    dropped = 0
    for call in _calls(row["requests"], path, line):
        missing = [key for key in ("t", "in", "out", "hash_runs") if key not in call]
        if missing:
            raise TraceError(path, line, f"a call lacks {', '.join(missing)}")
        at, tokens, output = (
            number_in(call, "t", path, line),
            tokens_in(call, "in", path, line),
            tokens_in(call, "out", path, line),
        )
        if tokens < 1 or output < 1:
            if failed == "error":
                raise TraceError(path, line, "a call without tokens; failed='drop' or 'keep' accepts it")
            if failed == "drop":
                dropped += 1
                continue
        before = max((entry for entry in ended if entry[0] <= at), default=None)
        out["arrival"].append(start + at)
        out["prompt"].append(max(1, round(tokens * scale)))
        out["output"].append(max(1, round(output * scale)))
        out["session"].append(number)
        out["parent"].append(-1 if before is None else before[1])
        out["think"].append(0.0 if before is None else at - before[0])
        most = tokens // tokens_in(row, "block_size", path, line) + 1
        out["hashes"].append(_blocks(call["hash_runs"], most, number, coarsen, path, line))
        took = number_in(call, "api_time", path, line) if "api_time" in call else 0.0
        ended.append((at + took, len(out["arrival"]) - 1))
    return dropped


def _calls(requests: Any, path: Path, line: int, offset: float = 0.0) -> Iterator[dict[str, Any]]:
    """A session's calls with times from its start; a subagent's are nested, with times from the subagent's."""
    if not isinstance(requests, list) or not all(isinstance(request, dict) for request in requests):
        raise TraceError(path, line, "requests must be a list of objects")
    for request in requests:
        at = offset + (number_in(request, "t", path, line) if "t" in request else 0.0)
        if request.get("type") == "subagent":
            yield from _calls(request.get("requests"), path, line, at)
        else:
            yield {**request, "t": at} if "t" in request else request


def _blocks(runs: Any, most: int, session: int, coarsen: int, path: Path, line: int) -> tuple[int, ...]:
    """Every `coarsen`-th block of the chain stands for all before it."""
    try:
        runs = [(int(first), int(count)) for first, count in runs]
    except (TypeError, ValueError, OverflowError):
        raise TraceError(path, line, "hash_runs must be a list of [first block, count]") from None
    length = sum(count for _, count in runs)
    if any(first < 0 or count < 0 for first, count in runs) or length > most:
        raise TraceError(path, line, f"hash_runs of {length} blocks, the call's prompt has at most {most}")
    chain = [first + i for first, count in runs for i in range(count)]
    return tuple((session << 32) + block for block in chain[coarsen - 1 :: coarsen])
