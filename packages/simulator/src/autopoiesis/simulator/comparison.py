"""Compare policies on exactly the same arrivals, on as many cores as wanted."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from autopoiesis.policy import library
from autopoiesis.policy.language import compile_policy
from autopoiesis.simulator.api import Goals, evaluate_many
from autopoiesis.simulator.fleet import Fleet
from autopoiesis.simulator.ranking import Cell, Comparison
from autopoiesis.simulator.report import Run
from autopoiesis.simulator.statistics import TooFewBlocksError, block_count, met_per_block
from autopoiesis.simulator.workload import Trace

BLOCKS = 30
"""Blocks of time per window, fewer where they would be shorter than `BLOCK_S`."""
BLOCK_S = 30.0
SHARES = np.linspace(0.0, 1.0, 401)
"""At which the quantiles of a cell are kept."""
TOGETHER = 3
"""Policies per task: they share the work of preparing the trace."""

Progress = Callable[[int, int], None]
"""Called with the runs that are done and all of them."""


def compare(
    policies: Sequence[str] | Mapping[str, str | Path],
    trace: Trace,
    fleet: Fleet | str,
    slo: Goals = None,
    loads: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (0,),
    *,
    warmup_s: float = 0.0,
    confidence: float = 0.95,
    processes: int = 1,
    progress: Progress | None = None,
    **options: Any,
) -> Comparison:
    """Every policy at every load with every seed: figures, and a ranking that knows what is noise.

    `policies` are library names or, as a mapping, labels with a library name, file or source text each. `options` go to `evaluate`.
    Several `processes` need the caller's module to be importable, as `multiprocessing` does (`if __name__ == "__main__"`).
    Raises what `evaluate` raises.
    """
    given = dict(policies) if isinstance(policies, Mapping) else {name: name for name in policies}
    if not given:
        raise ValueError("at least one policy is needed")
    named = {label: library.text_of(policy, "dispatch") for label, policy in given.items()}
    for text in named.values():
        compile_policy(text, "dispatch")
    if not len(trace):
        raise ValueError("the trace has no requests")
    span = float(trace.arrival[-1]) - warmup_s
    if span <= 0:
        raise ValueError(f"warmup_s = {warmup_s:g}: the last arrival is at {trace.arrival[-1]:g} s")
    task = _Task(trace, fleet, slo, warmup_s, span, _blocks(span), options)
    labels = list(named)
    parts = [
        {name: named[name] for name in labels[n : n + TOGETHER]} for n in range(0, len(labels), TOGETHER)
    ]
    jobs = [(part, load, seed) for load in loads for seed in seeds for part in parts]
    cells = _run(task, jobs, processes, progress)
    cells.sort(key=lambda cell: (cell.load, cell.seed, labels.index(cell.policy)))
    return Comparison(tuple(cells), span, confidence)


@dataclass(frozen=True, slots=True)
class _Task:
    """What all jobs share."""

    trace: Trace
    fleet: Fleet | str
    slo: Goals
    warmup_s: float
    span_s: float
    blocks: int
    options: Mapping[str, Any]

    def run(self, policies: Mapping[str, str], load: float, seed: int) -> list[Cell]:
        reports = evaluate_many(
            list(policies.values()), self.trace, self.fleet, self.slo, (load,), (seed,), warmup_s=self.warmup_s, **self.options
        )  # fmt: skip
        return [self._cell(name, report.runs[0]) for name, report in zip(policies, reports, strict=True)]

    def _cell(self, name: str, run: Run) -> Cell:
        arrival = run.arrival_s[run.scored] - self.warmup_s
        ttft = np.where(np.isnan(run.ttft_s), np.inf, run.ttft_s)[run.scored]
        return Cell(
            policy=name,
            load=run.load,
            seed=run.seed,
            figures=run.summary(),
            by_class=run.by_class(),
            by_gpu=run.by_gpu(),
            faults=run.faults,
            met=met_per_block(arrival, run.met[run.scored], span_s=self.span_s, count=self.blocks),
            ttft_s=np.quantile(ttft, SHARES, method="inverted_cdf") if len(ttft) else np.array([]),
        )


def _blocks(span: float) -> int:
    """One, which no interval takes, where the window is too short for any."""
    try:
        return block_count(span, max(BLOCK_S, span / BLOCKS))
    except TooFewBlocksError:
        return 1


def _run(
    task: _Task,
    jobs: Sequence[tuple[Mapping[str, str], float, int]],
    processes: int,
    progress: Progress | None,
) -> list[Cell]:
    total = sum(len(part) for part, _, _ in jobs)
    cells: list[Cell] = []

    def got(found: list[Cell]) -> None:
        cells.extend(found)
        if progress is not None:
            progress(len(cells), total)

    got([])
    if processes <= 1 or len(jobs) == 1:
        for job in jobs:
            got(task.run(*job))
        return cells
    workers = min(processes, len(jobs))
    with ProcessPoolExecutor(workers, get_context("spawn"), _remember, (task,)) as pool:
        futures = [pool.submit(_work, *job) for job in jobs]
        try:
            for future in as_completed(futures):
                got(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return cells


_shared: list[_Task] = []
"""In a worker process: the one task, sent once and not with every job."""


def _remember(task: _Task) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # Ctrl-C ends workers at once and without a word: the caller tells
    _shared[:] = [task]


def _work(policies: Mapping[str, str], load: float, seed: int) -> list[Cell]:
    return _shared[0].run(policies, load, seed)
