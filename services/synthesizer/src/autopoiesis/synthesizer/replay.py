"""Replays of candidates on the open snapshot, in the jail: first a short busy stretch, then the whole window, then every load."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from typing import Any, Final, Literal

import msgspec
import numpy as np

from autopoiesis.policy.jail import Jail, JailError, Job
from autopoiesis.simulator.job import BadResultError, Cell, Planned, ReplayJob, column, replayed
from autopoiesis.simulator.requests.outcome import REJECTED
from autopoiesis.simulator.workload.window import Window, pack
from autopoiesis.synthesizer.candidates import Scored

SIMULATOR: Final = version("autopoiesis-simulator")
"""Scores of different versions are never compared."""
MODULES: Final = ("autopoiesis.synthesizer.probes", "autopoiesis.simulator.job")
"""What the jail imports before it takes candidates."""

STRETCH_SHARE: Final = 0.25
"""Of the window, for the first look at a candidate."""

STRETCHES: Final = 12
"""Of a window's time, for which attainment is told apart."""

Place = Literal["stretch", "window"]


class FailedReplayError(Exception):
    """A candidate's replay did not end well: time, memory, a crash, or results that cannot be."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One replay of one policy: one place, load and seed."""

    load: float
    seed: int
    span_s: float
    met: int
    arrivals: int
    rejected: int
    ttft_p95_s: float
    tpot_p95_s: float
    classes: dict[str, tuple[int, int]]
    """(met, arrivals) per class."""
    gpus: dict[str, tuple[int, int]]
    """(met, arrivals) per GPU type that served."""
    faults: int
    fuel: int
    planned: Planned | None = None
    """What the plan policy did, where one was replayed; faults and fuel are then its own."""
    attained: tuple[float, ...] = ()
    """Attainment in equal stretches of the window's time."""

    @property
    def goodput(self) -> float:
        """Requests per second within objectives."""
        return self.met / self.span_s if self.span_s else 0.0


class Replays:
    """Runs policies on one open snapshot. What was run once is remembered."""

    def __init__(self, jail: Jail, window: Window, beside: Scored | None = None) -> None:
        """`beside` is the dispatch policy that routes while plan policies are replayed; none where dispatch policies are.

        Raises ValueError for a window without arrivals.
        """
        if not len(window.trace):
            raise ValueError("the window has no arrivals")
        self._jail, self._beside = jail, beside
        self._packed: dict[Place, bytes] = {"window": pack(window), "stretch": pack(stretch(window))}
        self._workflows = window.trace.workflow is not None and bool(window.trace.workflow.any())
        self._apart = any(beat.role == "prefill" for beat in window.info.fleet)
        self._done: dict[tuple[str, Place, float, int], Pass] = {}

    async def run(
        self, policy: Scored, place: Place, loads: Sequence[float], seeds: Sequence[int]
    ) -> list[Pass]:
        """Every load with every seed, in that order. Raises FailedReplayError."""
        wanted = [(load, seed) for load in loads for seed in seeds]
        missing = [
            (load, seed) for load, seed in wanted if (policy.hash, place, load, seed) not in self._done
        ]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._once(policy, place, load, seed)) for load, seed in missing]
        for (load, seed), task in zip(missing, tasks, strict=True):
            found = task.result()
            if isinstance(found, FailedReplayError):
                raise found
            self._done[policy.hash, place, load, seed] = found
        return [self._done[policy.hash, place, load, seed] for load, seed in wanted]

    async def behaviour(self, policy: Scored) -> str:
        """Hash of what it decides in the probe states; of plan policies each counts as different.

        Raises FailedReplayError where it breaks in one.
        """
        if self._beside is not None:
            return f"plan {policy.hash}"
        asked = {"source": policy.source, "workflows": self._workflows, "apart": self._apart}
        answer = await self._job("autopoiesis.synthesizer.probes:run", json.dumps(asked).encode())
        if isinstance(answer, FailedReplayError):
            raise answer
        found = json.loads(answer)
        if found["broken"]:
            raise FailedReplayError(found["broken"])
        return str(found["behaviour"])

    async def _once(self, policy: Scored, place: Place, load: float, seed: int) -> Pass | FailedReplayError:
        router, plan = (self._beside.source, policy.source) if self._beside else (policy.source, "")
        job = ReplayJob(policy=router, plan=plan, window=self._packed[place], loads=(load,), seeds=(seed,))
        answer = await self._job("autopoiesis.simulator.job:run", msgspec.msgpack.encode(job))
        if isinstance(answer, FailedReplayError):
            return answer
        try:
            result = replayed(answer, job)
        except BadResultError as error:
            return FailedReplayError(f"its result cannot be: {error}")
        return _pass(result.cells[0])

    async def _job(self, function: str, payload: bytes) -> bytes | FailedReplayError:
        """Errors as values: in a task group one candidate's failure would cancel the others."""
        try:
            return await asyncio.wrap_future(self._jail.submit(Job(function, payload)))
        except JailError as error:
            last = error.detail.strip().splitlines()[-1:]
            return FailedReplayError(f"{type(error).__name__}: {''.join(last)}")


def newest(window: Window, arrivals: int) -> Window:
    """The end of the window that holds so many arrivals."""
    if len(window.trace) <= arrivals:
        return window
    return part(
        window, float(window.trace.arrival[-arrivals]), window.info.end_unix_s - window.info.start_unix_s
    )


def stretch(window: Window) -> Window:
    """A quarter of the window, the one with the most tokens, as a window of its own."""
    info, trace = window.info, window.trace
    length = STRETCH_SHARE * (info.end_unix_s - info.start_unix_s)
    tokens = np.concatenate([[0], np.cumsum(trace.prompt_tokens + trace.output_tokens)])
    last = np.searchsorted(trace.arrival, trace.arrival + length)
    whole = trace.arrival + length <= max(info.end_unix_s - info.start_unix_s, float(trace.arrival[-1]))
    held = np.where(whole, tokens[last] - tokens[:-1], 0)
    start = float(trace.arrival[int(np.argmax(held))])
    return part(window, start, start + length)


def part(window: Window, start_s: float, end_s: float) -> Window:
    """Arrivals with start <= time < end, seconds from the window's start, with the fleet as it was then."""
    info = window.info
    standing = {beat.replica: beat for beat in info.fleet}
    standing.update({c.heartbeat.replica: c.heartbeat for c in info.changes if c.at_s <= start_s})
    cut = msgspec.structs.replace(
        info,
        start_unix_s=info.start_unix_s + start_s,
        end_unix_s=info.start_unix_s + end_s,
        scored_from_s=min(info.scored_from_s, 0.1 * (end_s - start_s)),
        fleet=tuple(beat for _, beat in sorted(standing.items())),
        changes=tuple(
            msgspec.structs.replace(c, at_s=c.at_s - start_s)
            for c in info.changes
            if start_s < c.at_s < end_s
        ),
        planned=tuple(step for step in info.planned if start_s <= step.at_unix_s - info.start_unix_s < end_s),
        in_flight=(),
    )
    return Window(cut, window.trace.between(start_s, end_s).shifted(-start_s))


def _pass(cell: Cell) -> Pass:
    met, outcome, planned = column(cell, "met"), column(cell, "outcome"), cell.planned
    faults, fuel = cell.faults, int(column(cell, "fuel").sum())
    if planned is not None:
        faults, fuel = planned.faults, planned.fuel
    return Pass(
        load=cell.load,
        seed=cell.seed,
        span_s=cell.span_s,
        met=int(met.sum()),
        arrivals=len(met),
        rejected=int((outcome == REJECTED).sum()),
        ttft_p95_s=_p95(column(cell, "ttft_s")),
        tpot_p95_s=_p95(column(cell, "tpot_s")),
        classes=_slices(met, column(cell, "klass"), cell.classes),
        gpus=_slices(met, column(cell, "gpu"), cell.gpus),
        faults=sum(faults.values()),
        fuel=fuel,
        planned=planned,
        attained=_over_time(column(cell, "arrival_s"), met, cell.span_s),
    )


def _over_time(arrival_s: Any, met: Any, span_s: float) -> tuple[float, ...]:
    edges = np.linspace(0.0, span_s, STRETCHES + 1)
    parts = [met[(arrival_s >= a) & (arrival_s < b)] for a, b in pairwise(edges)]
    return tuple(float(part.mean()) if part.size else 1.0 for part in parts)


def _slices(met: Any, code: Any, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    counted = {
        name: (int(met[code == n].sum()), int((code == n).sum())) for n, name in enumerate(names) if name
    }
    return {name: pair for name, pair in counted.items() if pair[1]}


def _p95(values: Any) -> float:
    known = values[~np.isnan(values)]
    return float(np.quantile(known, 0.95)) if known.size else 0.0
