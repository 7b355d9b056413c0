"""A trace: arrivals as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


OPTIONAL: Final = ("prompt_bytes", "max_tokens", "ttft_slo_s", "tpot_slo_s", "workflow")
"""Columns that not every trace has."""


class TraceError(ValueError):
    """A trace that cannot be used: says `file:line` and why."""

    def __init__(self, path: str | Path, line: int, why: str) -> None:
        super().__init__(f"{path}:{line}: {why}" if line else f"{path}: {why}")


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Arrivals in order of time, one row each; made by `Trace.of`.

    `arrival` is seconds from the trace's own zero. `session` and `tenant` are 0 where unknown. `klass` indexes `classes`.
    A row with `parent` >= 0 (a row number) arrives `think_s` seconds after that request ended, not at `arrival`.
    `censored` rows were cut short: their true output is at least `output_tokens`.
    """

    name: str
    arrival: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    censored: Bools
    session: Ints
    tenant: Ints
    klass: Ints
    parent: Ints
    think_s: Floats
    classes: tuple[str, ...] = ("default",)
    prompt_bytes: Ints | None = None
    """What the router saw, where recorded."""
    max_tokens: Ints | None = None
    """The client's limit, where recorded; outputs do not exceed it."""
    ttft_slo_s: Floats | None = None
    """Objectives of single requests, where recorded; NaN: those of the class."""
    tpot_slo_s: Floats | None = None
    workflow: Ints | None = None
    """Calls of one agentic workflow have the same number above 0."""
    block_hashes: tuple[tuple[int, ...], ...] | None = None
    block_tokens: int = 0
    """Tokens behind each block hash."""
    dropped: int = 0
    """Failed rows that the loader left out."""

    @classmethod
    def of(
        cls,
        name: str,
        arrival: npt.ArrayLike,
        prompt_tokens: npt.ArrayLike,
        output_tokens: npt.ArrayLike,
        *,
        censored: npt.ArrayLike | None = None,
        session: npt.ArrayLike | None = None,
        tenant: npt.ArrayLike | None = None,
        klass: npt.ArrayLike | None = None,
        parent: npt.ArrayLike | None = None,
        think_s: npt.ArrayLike | None = None,
        classes: tuple[str, ...] = ("default",),
        prompt_bytes: npt.ArrayLike | None = None,
        max_tokens: npt.ArrayLike | None = None,
        ttft_slo_s: npt.ArrayLike | None = None,
        tpot_slo_s: npt.ArrayLike | None = None,
        workflow: npt.ArrayLike | None = None,
        block_hashes: Sequence[tuple[int, ...]] | None = None,
        block_tokens: int = 0,
        dropped: int = 0,
    ) -> Trace:
        """Columns in any order of time; they are sorted (stably) and `parent` is renumbered. Raises `ValueError` on nonsense."""
        at = np.asarray(arrival, np.float64)
        rows = len(at)
        order = np.argsort(at, kind="stable")

        def column(values: npt.ArrayLike | None, dtype: Any, default: Any = 0) -> Any:
            if values is None:
                return np.full(rows, default, dtype)
            array = np.asarray(values, dtype)
            if array.shape != (rows,):
                raise ValueError(f"trace {name}: a column has shape {array.shape}, the arrivals {(rows,)}")
            return array[order]

        up = column(parent, np.int64, -1)
        if parent is not None and rows:
            place = np.empty(rows, np.int64)
            place[order] = np.arange(rows)
            up = np.where(up >= 0, place[up], -1)
        hashes = None if block_hashes is None else tuple(block_hashes[i] for i in order.tolist())
        trace = cls(
            name,
            at[order],
            column(prompt_tokens, np.int64),
            column(output_tokens, np.int64),
            column(censored, np.bool_, False),
            column(session, np.int64),
            column(tenant, np.int64),
            column(klass, np.int64),
            up,
            column(think_s, np.float64, 0.0),
            classes,
            None if prompt_bytes is None else column(prompt_bytes, np.int64),
            None if max_tokens is None else column(max_tokens, np.int64),
            None if ttft_slo_s is None else column(ttft_slo_s, np.float64),
            None if tpot_slo_s is None else column(tpot_slo_s, np.float64),
            None if workflow is None else column(workflow, np.int64),
            hashes,
            block_tokens,
            dropped,
        )
        trace._check()
        return trace

    def _check(self) -> None:
        if not len(self):
            return
        for name, low in (
            ("prompt_tokens", 1),
            ("output_tokens", 1),
            ("klass", 0),
            ("arrival", -np.inf),
            ("think_s", 0),
        ):
            column = getattr(self, name)
            bad = np.flatnonzero(~(np.isfinite(column) & (column >= low)))
            if len(bad):
                raise ValueError(
                    f"trace {self.name}: row {bad[0]}: {name} = {column[bad[0]]}, must be finite and at least {low}"
                )
        if int(self.klass.max()) >= len(self.classes):
            raise ValueError(
                f"trace {self.name}: class {self.klass.max()} of {len(self.classes)} named classes"
            )
        if self.block_hashes is not None and self.block_tokens < 1:
            raise ValueError(f"trace {self.name}: block hashes without block_tokens")

    def recorded(self) -> dict[str, Any]:
        """The optional columns that this trace has, by name."""
        return {name: getattr(self, name) for name in OPTIONAL if getattr(self, name) is not None}

    def __len__(self) -> int:
        return len(self.arrival)

    @property
    def duration(self) -> float:
        """Seconds from the first arrival to the last."""
        return float(self.arrival[-1] - self.arrival[0]) if len(self) else 0.0

    @property
    def rate(self) -> float:
        """Mean arrivals per second."""
        return len(self) / self.duration if self.duration > 0 else 0.0

    def take(self, rows: npt.ArrayLike, *, name: str = "") -> Trace:
        """The given rows as a trace of their own; a child whose parent is left out arrives at its recorded time."""
        kept = np.asarray(rows, np.int64)
        place = np.full(len(self) + 1, -1, np.int64)
        place[kept] = np.arange(len(kept))
        hashes = self.block_hashes
        return Trace.of(
            name or self.name,
            self.arrival[kept],
            self.prompt_tokens[kept],
            self.output_tokens[kept],
            censored=self.censored[kept],
            session=self.session[kept],
            tenant=self.tenant[kept],
            klass=self.klass[kept],
            parent=place[self.parent[kept]],
            think_s=self.think_s[kept],
            classes=self.classes,
            **{name: values[kept] for name, values in self.recorded().items()},
            block_hashes=None if hashes is None else [hashes[i] for i in kept.tolist()],
            block_tokens=self.block_tokens,
            dropped=self.dropped,
        )

    def between(self, start: float, end: float) -> Trace:
        """Arrivals with start <= time < end (s), times as they were."""
        first, last = np.searchsorted(self.arrival, [start, end])
        return self.take(np.arange(first, last))

    def head(self, rows: int) -> Trace:
        return self.take(np.arange(min(rows, len(self))))

    def shifted(self, by: float) -> Trace:
        """All arrivals `by` seconds later."""
        return replace(self, arrival=self.arrival + by)

    def uncensored(self, seed: int = 0) -> Trace:
        """Censored outputs replaced by draws from whole outputs of the same class that are at least as long.

        Where there is none, the recorded length stays.
        """
        rng = np.random.default_rng(seed)
        output = self.output_tokens.copy()
        for klass in np.unique(self.klass[self.censored]):
            whole = np.sort(self.output_tokens[(self.klass == klass) & ~self.censored])
            rows = np.flatnonzero(self.censored & (self.klass == klass))
            first = np.searchsorted(whole, output[rows])
            possible = first < len(whole)
            picks = first[possible] + rng.random(possible.sum()) * (len(whole) - first[possible])
            output[rows[possible]] = whole[picks.astype(np.int64)]
        if self.max_tokens is not None:
            output = np.where(self.censored, np.clip(output, 1, np.maximum(1, self.max_tokens)), output)
        return replace(self, output_tokens=output, censored=np.zeros(len(self), np.bool_))
