"""The paper's agentic case (Section 8.3, Appendix C.2): rounds of calls on separate prefill and decode instances.

Workflows are chains of calls. A monitoring step is a round: the next call of every workflow that has one. What is planned is not a
fleet but who serves whom: two entries of a plan per call, `Replicas(workflow, instance, 1, 1, role="prefill", share=place)` and the same
for "decode", `share` being the call's place in that instance's queue, lowest first. T_total = sum of scheduling and serving (Eq. 15);
nothing is reconfigured. The paper gives neither formulas nor instances; these are ours:
- a prefill instance reads one prompt at a time. What it read of the same workflow in the round before is still in its cache;
- then the KV cache goes to the decode instance, over the slower one's network;
- a decode instance takes calls in as long as their whole contexts fit in its memory (its token budget), and the more it has, the
  longer each step takes;
- a round ends with its last call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from autopoiesis.policy.api import GpuPool, ModelDemand, Replicas
from autopoiesis.simulator.intervals.cost import CostModel, shape_of
from autopoiesis.simulator.intervals.roofline import Replica
from autopoiesis.simulator.intervals.traces import PlanTrace

CONTEXT_GRID: Final = 64
"""Tokens to which the mean context of a decode batch is rounded."""


@dataclass(slots=True)
class _Call:
    """A call on its decode instance. Tokens and seconds."""

    index: int
    ready_s: float
    place: float
    context: float
    left: float

    @property
    def held(self) -> float:
        return self.context + self.left


class Round:
    """What plans cost in one round, for the toolkit and the world: the `Estimator` of a trace with `rounds`. Times in seconds."""

    def __init__(
        self, trace: PlanTrace, number: int, old: Sequence[Replicas] | None, cost: CostModel
    ) -> None:
        self._models = trace.demands(number)
        self._pools = {pool.type: pool for pool in trace.gpus(number)}
        self._cost = cost
        self._cached = _cached(trace, number, old or ())
        self._finished: dict[tuple[Replicas, ...], dict[int, float]] = {}
        self._steps: dict[tuple[str, int, int], float] = {}

    def degrees(self, gpu: GpuPool) -> Sequence[int]:
        """An instance is one GPU."""
        return (1,)

    def fits(self, model: ModelDemand, gpu: GpuPool, tp: int) -> bool:
        return tp == 1 and self._cost.fits(model, gpu, tp)

    def latency(self, model: ModelDemand, gpu: GpuPool, tp: int, batch: int) -> float:
        """Of `batch` such calls together, prefill and decode on one instance, nothing cached."""
        return self._cost.latency(model, gpu, tp, batch)

    def prefill_time(self, model: ModelDemand, gpu: GpuPool, tp: int, batch: int) -> float:
        """Without what is cached."""
        return batch * self._prefill(model, gpu)

    def decode_time(self, model: ModelDemand, gpu: GpuPool, tp: int, batch: int) -> float:
        return self._cost.decode_time(model, gpu, tp, batch)

    def transfer_time(self, model: ModelDemand, gpu: GpuPool) -> float:
        """Of the call's KV cache onto, or off, an instance."""
        return shape_of(model).kv_bytes_per_token * model.prompt_tokens / gpu.network_bandwidth

    def reconfigure_time(self, models: object, gpus: object, old: object, new: object) -> float:
        """Nothing is moved: 0."""
        return 0.0

    def serve_time(self, model: ModelDemand, gpus: Sequence[GpuPool], plan: Sequence[Replicas]) -> float:
        """When this workflow's call has its last token, from the begin of the round; inf where it is not placed on both sides."""
        key = tuple(plan)
        if key not in self._finished:
            self._finished[key] = self._run(key)
        return self._finished[key].get(model.index, math.inf) if model.concurrency else 0.0

    def _run(self, plan: tuple[Replicas, ...]) -> dict[int, float]:
        """Last tokens of all calls that are placed on both sides."""
        prefill, decode = (_placed(plan, role, self._models) for role in ("prefill", "decode"))
        both = prefill.keys() & decode.keys()
        ready = self._prefilled({z: prefill[z] for z in both})
        finished: dict[int, float] = {}
        for gpu in sorted({decode[z].gpu for z in both} & self._pools.keys()):
            calls = []
            for z in sorted(both & ready.keys()):
                if decode[z].gpu == gpu:
                    model = self._models[z]
                    moved = max(
                        self.transfer_time(model, self._pools[side[z].gpu]) for side in (prefill, decode)
                    )
                    calls.append(
                        _Call(z, ready[z] + moved, decode[z].share, model.prompt_tokens, model.output_tokens)
                    )
            finished |= self._decoded(self._pools[gpu], calls)
        return finished

    def _prefilled(self, entries: dict[int, Replicas]) -> dict[int, float]:
        """When each call's prompt has been read."""
        ready: dict[int, float] = {}
        clock = dict.fromkeys(self._pools, 0.0)
        for z, entry in sorted(entries.items(), key=lambda item: (item[1].share, item[0])):
            if entry.gpu in clock:
                clock[entry.gpu] += self._prefill(self._models[z], self._pools[entry.gpu])
                ready[z] = clock[entry.gpu]
        return ready

    def _prefill(self, model: ModelDemand, gpu: GpuPool) -> float:
        where, tokens = self._cached.get(model.index, ("", 0))
        replica = self._cost.replica(model, gpu, 1)
        known = min(tokens, model.prompt_tokens - 1) if where == gpu.type else 0
        return replica.prefill(1, model.prompt_tokens) - (replica.prefill(1, known) if known > 0 else 0.0)

    def _decoded(self, pool: GpuPool, calls: list[_Call]) -> dict[int, float]:
        """When each of an instance's calls has its last token."""
        if not calls:
            return {}
        model = self._models[calls[0].index]
        replica, budget = self._cost.replica(model, pool, 1), self._budget(model, pool)
        coming = sorted(calls, key=lambda call: call.ready_s)
        waiting: list[_Call] = []
        running: list[_Call] = []
        clock = 0.0
        finished: dict[int, float] = {}
        while coming or waiting or running:
            while coming and coming[0].ready_s <= clock:
                waiting.append(coming.pop(0))
            waiting.sort(key=lambda call: (call.place, call.ready_s, call.index))
            while waiting and sum(c.held for c in running) + waiting[0].held <= budget:
                running.append(waiting.pop(0))
            if not running:
                if waiting:
                    break  # no memory will ever do for it
                clock = coming[0].ready_s
                continue
            step = self._step(replica, pool, running)
            until = clock + step * min(call.left for call in running)
            until = min(until, coming[0].ready_s) if coming else until
            tokens, clock = (until - clock) / step, until
            for call in running:
                call.context += tokens
                call.left -= tokens
            finished |= {call.index: clock for call in running if call.left <= 1e-9}
            running = [call for call in running if call.left > 1e-9]
        return finished

    def _step(self, replica: Replica, pool: GpuPool, running: Sequence[_Call]) -> float:
        mean = sum(call.context for call in running) / len(running)
        key = (pool.type, len(running), round(mean / CONTEXT_GRID))
        if key not in self._steps:
            self._steps[key] = replica.decode(len(running), key[2] * CONTEXT_GRID, 1)
        return self._steps[key]

    def _budget(self, model: ModelDemand, pool: GpuPool) -> float:
        """Tokens whose keys and values fit beside the weights."""
        free = self._cost.assumptions.memory_share * pool.memory_bytes - model.weight_bytes
        return free / shape_of(model).kv_bytes_per_token


def _placed(plan: Sequence[Replicas], role: str, models: Sequence[ModelDemand]) -> dict[int, Replicas]:
    """By workflow, the entry of its call in a role, where its instance has that role."""
    return {
        entry.model: entry
        for entry in reversed(plan)
        if entry.role == role
        and entry.gpu.startswith(role)
        and entry.count
        and models[entry.model].concurrency
    }


def _cached(trace: PlanTrace, number: int, old: Sequence[Replicas]) -> dict[int, tuple[str, int]]:
    """By workflow, the prefill instance of its last call and how much of the prompt it read then."""
    if not number:
        return {}
    before = trace.demands(number - 1)
    placed = _placed(old, "prefill", before)
    return {z: (entry.gpu, before[z].prompt_tokens) for z, entry in placed.items()}
