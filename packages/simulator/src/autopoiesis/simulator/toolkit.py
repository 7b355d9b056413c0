"""What plan policies find in `ctx.toolkit`: the cost model, the solver, seeded random numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Final, Protocol

from autopoiesis.policy.api import GpuPool, ModelDemand, PlanContext, Replicas
from autopoiesis.policy.language.decisions import check_entries
from autopoiesis.simulator.plan_program import PlanProgram
from autopoiesis.simulator.solver import HighsMilp

OPTIONS: Final = 5_000
"""Most kinds of replicas that `best_plan` chooses from."""
_LARGEST: Final = 1 << 20


class Estimator(Protocol):
    """The formulas behind the toolkit (`autopoiesis.simulator.intervals` implements them). Pure; times in seconds.

    Called thousands of times per `schedule`: remember what was computed by the fields that it depends on.
    """

    def degrees(self, gpu: GpuPool) -> Sequence[int]:
        """Tensor-parallel degrees that the type offers (T_g), rising."""

    def fits(self, model: ModelDemand, gpu: GpuPool, tp: int) -> bool:
        """Whether the weights, and where it is checked the KV cache, fit on `tp` GPUs."""

    def latency(self, model: ModelDemand, gpu: GpuPool, tp: int, batch: int) -> float:
        """Lambda(z, g, t, b) at the demand's lengths, inf where it does not fit."""

    def prefill_time(self, model: ModelDemand, gpu: GpuPool, tp: int, batch: int) -> float:
        """Of `latency`, prompts; without waves where memory is short."""

    def decode_time(self, model: ModelDemand, gpu: GpuPool, tp: int, batch: int) -> float:
        """Of `latency`, answers; without waves where memory is short."""

    def serve_time(self, model: ModelDemand, gpus: Sequence[GpuPool], plan: Sequence[Replicas]) -> float:
        """L_z of the entries of `plan` that are of this model (others are ignored); inf without any. See `Toolkit.serve_time`."""

    def transfer_time(self, model: ModelDemand, gpu: GpuPool) -> float:
        """tau(z, g)."""

    def reconfigure_time(
        self,
        models: Sequence[ModelDemand],
        gpus: Sequence[GpuPool],
        old: Sequence[Replicas],
        new: Sequence[Replicas],
    ) -> float:
        """T_term + T_load over the models whose (type, tp, count) tuples changed."""


class CostToolkit:
    """The `policy.toolkit.Toolkit` of one monitoring step. Arguments come from policies and are checked here."""

    def __init__(self, ctx: PlanContext, estimator: Estimator, *, seed: int = 0) -> None:
        self._ctx = ctx
        self._estimator = estimator
        self._random = random.Random(f"{seed}:{ctx.step}")

    def degrees(self, model: ModelDemand, gpu: GpuPool) -> tuple[int, ...]:
        _check(model, gpu)
        return tuple(tp for tp in self._estimator.degrees(gpu) if self._estimator.fits(model, gpu, tp))

    def fits(self, model: ModelDemand, gpu: GpuPool, tp: int) -> bool:
        _check(model, gpu, tp=tp)
        return self._estimator.fits(model, gpu, tp)

    def latency(self, model: ModelDemand, gpu: GpuPool, tp: int, batch: int) -> float:
        _check(model, gpu, tp=tp, batch=batch)
        return self._estimator.latency(model, gpu, tp, batch)

    def prefill_time(self, model: ModelDemand, gpu: GpuPool, tp: int, batch: int) -> float:
        _check(model, gpu, tp=tp, batch=batch)
        return self._estimator.prefill_time(model, gpu, tp, batch)

    def decode_time(self, model: ModelDemand, gpu: GpuPool, tp: int, batch: int) -> float:
        _check(model, gpu, tp=tp, batch=batch)
        return self._estimator.decode_time(model, gpu, tp, batch)

    def serve_time(self, model: ModelDemand, plan: Sequence[Replicas]) -> float:
        _check(model)
        return self._estimator.serve_time(model, self._ctx.gpus, check_entries(plan, self._ctx))

    def makespan(self, plan: Sequence[Replicas]) -> float:
        checked = check_entries(plan, self._ctx)
        times = (self._estimator.serve_time(model, self._ctx.gpus, checked) for model in self._loaded())
        return max(times, default=0.0)

    def transfer_time(self, model: ModelDemand, gpu: GpuPool) -> float:
        _check(model, gpu)
        return self._estimator.transfer_time(model, gpu)

    def reconfigure_time(self, old: Sequence[Replicas], new: Sequence[Replicas]) -> float:
        before, after = check_entries(old, self._ctx, any_gpu=True), check_entries(new, self._ctx)
        return self._estimator.reconfigure_time(self._ctx.models, self._ctx.gpus, before, after)

    def gpus_used(self, plan: Sequence[Replicas], gpu: GpuPool) -> int:
        _check(gpu)
        return sum(
            entry.tp * entry.count for entry in check_entries(plan, self._ctx) if entry.gpu == gpu.type
        )

    def best_plan(
        self,
        options: Sequence[Replicas],
        keep: Sequence[Replicas] = (),
        move_weight: float = 0.0,
        spread: float = 0.0,
        node_limit: int = 10_000,
        time_limit: float = 5.0,
        gap: float = 0.003,
    ) -> list[Replicas]:
        """See `policy.toolkit.Toolkit.best_plan`."""
        offered = check_entries(options, self._ctx)
        kept = check_entries(keep, self._ctx, any_gpu=True)
        if len(offered) > OPTIONS:
            raise ValueError(f"best_plan chooses from at most {OPTIONS} options, not {len(offered)}")
        for name, weight in (("move_weight", move_weight), ("spread", spread)):
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name} is {weight}; it is a finite number, at least 0")
        program = PlanProgram(self._ctx, offered, self._estimator.latency, spread=spread)
        if move_weight and kept:
            program.charge_moves(kept, move_weight, self._estimator.transfer_time)
        return program.plan(program.milp.solve(node_limit, time_limit, gap).x) if program.columns else []

    def milp(self) -> HighsMilp:
        return HighsMilp()

    def random(self) -> float:
        return self._random.random()

    def _loaded(self) -> list[ModelDemand]:
        return [model for model in self._ctx.models if model.concurrency]


def _check(*views: object, tp: object = 1, batch: object = 1) -> None:
    """Raises TypeError or ValueError for arguments that no formula is meant for."""
    for view in views:
        if type(view) is not ModelDemand and type(view) is not GpuPool:
            raise TypeError("the toolkit takes entries of ctx.models and ctx.gpus")
    for name, number in (("tp", tp), ("batch", batch)):
        if type(number) is not int or not 1 <= number <= _LARGEST:
            raise ValueError(f"{name} is an integer from 1 to {_LARGEST}")
