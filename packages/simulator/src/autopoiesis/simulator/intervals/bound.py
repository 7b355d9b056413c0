"""A lower bound on T_total (Eq. 1, additive): what no policy with mixed replicas can beat, even if it knew the future and planned in no time.

Dynamic programme over steps. Its state is how many GPUs of each type the heaviest models have; the others always get their best
plan on what is left, at once and for nothing. A state's serving time is the exact least makespan (over all parallelisms, counts and
batches) on those GPUs, rounded down to a grid; a step to another state costs the cheapest move of the models whose GPUs change.
Every simplification is in favour of the bound, so it is a bound. Where answers are short, separate prefill and decode replicas can be
below it: they read weights for larger batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from autopoiesis.policy.api import GpuPool, ModelDemand
from autopoiesis.simulator.intervals.cost import CostModel
from autopoiesis.simulator.intervals.traces import Load, PlanTrace

GRID: Final = 1.005
"""Ratio of neighbouring deadlines."""
STATES: Final = 3_000_000
"""Most states; it decides how many models are held to their GPUs."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Bound:
    """Seconds. `total_s` is the bound; `optima` are the least serving times of each step, with free moves."""

    total_s: float
    optima: tuple[float, ...]
    held: tuple[str, ...]
    """Models whose moves are charged."""

    @property
    def serve_s(self) -> float:
        """Sum of the per-step optima."""
        return sum(self.optima)


def lower_bound(trace: PlanTrace, cost: CostModel) -> Bound:
    """The bound for mixed replicas. Raises ValueError where a step cannot be served at all."""
    return _Search(trace, cost).bound()


class _Search:
    def __init__(self, trace: PlanTrace, cost: CostModel) -> None:
        self._trace, self._cost = trace, cost
        self._pools = trace.gpus(0)
        self._most = tuple(max(step.gpus.get(pool.type, 0) for step in trace.steps) for pool in self._pools)
        self._shape = tuple(most + 1 for most in self._most)
        self._times: dict[tuple[int, Load | None], Array] = {}
        order = sorted(trace.demands(0), key=lambda model: -model.weight_bytes)
        minimal = {model.index: self._minimal(model.index) for model in order}
        held: list[int] = []
        for model in order:
            if np.prod([len(minimal[z]) for z in [*held, model.index]], dtype=float) > STATES:
                break
            held.append(model.index)
        self._held, self._free = held, [m.index for m in order if m.index not in held]
        self._choices = [minimal[z] for z in held]
        self._minimal_of = minimal

    def bound(self) -> Bound:
        moves = [
            2 * min(self._cost.transfer_time(m, pool) for pool in self._pools)
            for m in self._models(self._held)
        ]
        best, optima = np.zeros(()), []
        for number in range(len(self._trace.steps)):
            serve = self._serve(number)
            if not np.isfinite(serve).any():
                raise ValueError(f"trace {self._trace.name}, step {number}: no plan serves it")
            optima.append(float(serve.min()))
            best = serve + (_cheapest(best, moves) if number else 0.0)
        names = tuple(model.name for model in self._models(self._held))
        return Bound(float(best.min()), tuple(optima), names)

    def _models(self, indices: Sequence[int]) -> list[ModelDemand]:
        models = self._trace.demands(0)
        return [models[z] for z in indices]

    def _serve(self, number: int) -> Array:
        """Least makespan of every state at a step, inf where the GPUs are not there."""
        counts = [self._trace.steps[number].gpus.get(pool.type, 0) for pool in self._pools]
        rest = np.zeros(self._shape)
        for z in self._free:
            rest = self._shared(self._time(z, number), self._minimal_of[z], rest)
        axes = [np.array(choice) for choice in self._choices]
        left = np.array(counts)
        used: Array = np.zeros((1,) * len(axes) + (len(counts),), int)
        slowest: Array = np.zeros((1,) * len(axes))
        for axis, choice in enumerate(axes):
            view = [1] * len(axes)
            view[axis] = len(choice)
            used = used + choice.reshape(*view, len(counts))
            own = self._time(self._held[axis], number)[tuple(choice.T)]
            slowest = np.maximum(slowest, own.reshape(view))
        free = left - used
        fits = (free >= 0).all(axis=-1)
        index = tuple(np.maximum(free, 0)[..., g] for g in range(len(counts)))
        return np.where(fits, np.maximum(slowest, rest[index]), np.inf)

    def _shared(self, times: Array, choices: Sequence[tuple[int, ...]], rest: Array) -> Array:
        """Least makespan of one model beside the `rest`, for every number of GPUs."""
        best = np.full(self._shape, np.inf)
        for choice in choices:
            kept = tuple(slice(0, size - u) for u, size in zip(choice, self._shape, strict=True))
            onto = tuple(slice(u, None) for u in choice)
            best[onto] = np.minimum(best[onto], np.maximum(times[choice], rest[kept]))
        return best

    def _minimal(self, z: int) -> list[tuple[int, ...]]:
        """Numbers of GPUs of which none could be given back without serving some load later."""
        loads = {
            step.loads.get(self._trace.models[z].name): number
            for number, step in enumerate(self._trace.steps)
        }
        useful = np.zeros(self._shape, bool)
        for number in loads.values():
            times = self._time(z, number)
            needed = np.isfinite(times) | (times == 0)
            for axis in range(times.ndim):
                fewer = np.full(self._shape, np.inf)
                ahead = tuple(slice(1, None) if a == axis else slice(None) for a in range(times.ndim))
                behind = tuple(slice(0, -1) if a == axis else slice(None) for a in range(times.ndim))
                fewer[ahead] = times[behind]
                needed &= fewer > times
            useful |= needed
        return [tuple(int(u) for u in row) for row in np.argwhere(useful)]

    def _time(self, z: int, number: int) -> Array:
        """Least serving time of a model for every number of GPUs of each type, rounded down to the grid."""
        load = self._trace.steps[number].loads.get(self._trace.models[z].name)
        if (z, load) not in self._times:
            self._times[z, load] = self._least(self._trace.demands(number)[z])
        return self._times[z, load]

    def _least(self, model: ModelDemand) -> Array:
        if model.concurrency <= 0:
            return np.zeros(self._shape)
        curves = {
            (g, tp): self._latencies(model, pool, tp)
            for g, pool in enumerate(self._pools)
            for tp in self._cost.degrees(pool)
            if self._cost.fits(model, pool, tp) and tp <= self._most[g]
        }
        low = min(float(curve[0]) for curve in curves.values())
        high = max(float(curve[-1]) for curve in curves.values())
        deadlines = low * GRID ** np.arange(int(np.log(high / low) / np.log(GRID)) + 3)
        cover = np.zeros((len(deadlines), *self._shape), np.int32)
        for g, most in enumerate(self._most):
            own = self._held_by(g, most, curves, deadlines)
            cover += own.reshape(len(deadlines), *(most + 1 if a == g else 1 for a in range(len(self._most))))
        met = cover >= model.concurrency
        first = met.argmax(axis=0)
        earlier = np.where(first > 0, deadlines[np.maximum(first - 1, 0)], low)
        return np.where(met.any(axis=0), earlier, np.inf)

    def _latencies(self, model: ModelDemand, pool: GpuPool, tp: int) -> Array:
        """By batch, from 1; rising."""
        return np.maximum.accumulate(
            [self._cost.latency(model, pool, tp, batch) for batch in range(1, model.concurrency + 1)]
        )

    def _held_by(self, g: int, most: int, curves: dict[tuple[int, int], Array], deadlines: Array) -> Array:
        """Most requests that 0 … `most` GPUs of a type serve within each deadline: an unbounded knapsack."""
        batches = {
            tp: np.searchsorted(curve, deadlines, side="right")
            for (of, tp), curve in curves.items()
            if of == g
        }
        held = np.zeros((len(deadlines), most + 1), np.int64)
        for used in range(1, most + 1):
            held[:, used] = held[:, used - 1]
            for tp, batch in batches.items():
                if tp <= used:
                    held[:, used] = np.maximum(held[:, used], held[:, used - tp] + batch)
        return held


def _cheapest(best: Array, moves: Sequence[float]) -> Array:
    """The least cost of coming to each state: every set of models may change its GPUs, at the price of the dearest."""
    found = np.full(best.shape, np.inf)
    for changed in itertools.product((False, True), repeat=len(moves)):
        axes = tuple(axis for axis, changes in enumerate(changed) if changes)
        price = max((moves[axis] for axis in axes), default=0.0)
        found = np.minimum(found, best.min(axis=axes, keepdims=True) + price if axes else best)
    return found
