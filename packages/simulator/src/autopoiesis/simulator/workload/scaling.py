"""More or less load from one trace: by sessions, not by time alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from autopoiesis.simulator.workload.trace import Ints, Trace

SHIFT_S = 60.0
"""Copies are moved by up to this much, so that they do not repeat each other's bursts and the day's shape stays."""


def scale_load(trace: Trace, factor: float, seed: int = 0) -> Trace:
    """`factor` times the sessions: whole copies moved by up to a minute, and a random part of the sessions for the rest.

    A request without a session counts as a session of its own. Copies have sessions and prefix blocks of their own.
    Raises `ValueError` for a factor that is not above 0.
    """
    if not 0 < factor < float("inf"):
        raise ValueError(f"load factor {factor}: must be above 0 and finite")
    if factor == 1.0 or not len(trace):
        return trace
    rng = np.random.default_rng(seed)
    copies = int(factor)
    parts = [trace] * copies
    rest = factor - copies
    if rest * len(trace) >= 1:
        parts.append(trace.take(_some_sessions(trace, rest, rng)))
    shifts = [0.0 if n == 0 else float(rng.uniform(-1, 1)) * SHIFT_S for n in range(len(parts))]
    return _superpose(trace, parts, shifts, f"{trace.name} x{factor:g}")


def _some_sessions(trace: Trace, share: float, rng: np.random.Generator) -> Ints:
    """Rows of a random part of the sessions, and of requests that have none."""
    session = np.where(trace.session > 0, trace.session, -1 - np.arange(len(trace)))
    kinds, of_row = np.unique(session, return_inverse=True)
    chosen = np.zeros(len(kinds), np.bool_)
    chosen[rng.permutation(len(kinds))[: max(1, round(share * len(kinds)))]] = True
    return np.flatnonzero(chosen[of_row])


def _superpose(trace: Trace, parts: list[Trace], shifts: list[float], name: str) -> Trace:
    start, span = float(trace.arrival[0]), max(trace.duration, 1e-9)
    stride = int(trace.session.max()) + 1
    first_hash = 1 + max((max(row, default=0) for row in trace.block_hashes or ()), default=0)
    offsets = np.cumsum([0, *(len(part) for part in parts[:-1])])
    hashes = None
    if trace.block_hashes is not None:
        hashes = [
            tuple(block + first_hash * n for block in row)
            for n, part in enumerate(parts)
            for row in part.block_hashes or ()
        ]
    return Trace.of(
        name,
        np.concatenate(
            [
                start + (p.arrival - start + s) % span if s else p.arrival
                for p, s in zip(parts, shifts, strict=True)
            ]
        ),
        np.concatenate([part.prompt_tokens for part in parts]),
        np.concatenate([part.output_tokens for part in parts]),
        censored=np.concatenate([part.censored for part in parts]),
        session=np.concatenate(
            [np.where(p.session > 0, p.session + stride * n, 0) for n, p in enumerate(parts)]
        ),
        tenant=np.concatenate([part.tenant for part in parts]),
        klass=np.concatenate([part.klass for part in parts]),
        parent=np.concatenate(
            [np.where(p.parent >= 0, p.parent + o, -1) for p, o in zip(parts, offsets, strict=True)]
        ),
        think_s=np.concatenate([part.think_s for part in parts]),
        classes=trace.classes,
        **_recorded(parts),
        block_hashes=hashes,
        block_tokens=trace.block_tokens,
        dropped=trace.dropped,
    )


def succession(earlier: Trace, later: Trace) -> Trace:
    """One trace of both, each at its own times. Classes of the same name become one; sessions are kept apart.

    Raises `ValueError` where one records columns that the other does not: halves of one window record the same.
    """
    if earlier.recorded().keys() != later.recorded().keys() or earlier.block_tokens != later.block_tokens:
        raise ValueError(f"traces {earlier.name} and {later.name} do not record the same columns")
    both = (earlier, later)
    classes = tuple(dict.fromkeys(name for part in both for name in part.classes))
    numbers = [np.array([classes.index(name) for name in part.classes], np.int64) for part in both]
    stride, offset = int(earlier.session.max(initial=0)) + 1, len(earlier)
    hashes = None
    if earlier.block_hashes is not None and later.block_hashes is not None:
        hashes = [*earlier.block_hashes, *later.block_hashes]
    return Trace.of(
        later.name,
        np.concatenate([part.arrival for part in both]),
        np.concatenate([part.prompt_tokens for part in both]),
        np.concatenate([part.output_tokens for part in both]),
        censored=np.concatenate([part.censored for part in both]),
        session=np.concatenate([earlier.session, np.where(later.session > 0, later.session + stride, 0)]),
        tenant=np.concatenate([part.tenant for part in both]),
        klass=np.concatenate([number[part.klass] for number, part in zip(numbers, both, strict=True)]),
        parent=np.concatenate([earlier.parent, np.where(later.parent >= 0, later.parent + offset, -1)]),
        think_s=np.concatenate([part.think_s for part in both]),
        classes=classes,
        block_hashes=hashes,
        block_tokens=later.block_tokens,
        **_recorded(both),
    )


def _recorded(parts: Sequence[Trace]) -> dict[str, Any]:
    """The optional columns of all parts; workflows are kept apart."""
    out: dict[str, Any] = {}
    for name in parts[0].recorded():
        columns = [part.recorded()[name] for part in parts]
        if name == "workflow":
            stride = 1 + max(int(column.max(initial=0)) for column in columns)
            columns = [np.where(column > 0, column + stride * n, 0) for n, column in enumerate(columns)]
        out[name] = np.concatenate(columns)
    return out
