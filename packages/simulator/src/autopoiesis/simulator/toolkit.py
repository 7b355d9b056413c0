"""What plan policies find in `ctx.toolkit`: the cost model, the solver, seeded random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from autopoiesis.policy.api import GpuPool, ModelDemand, Replicas


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
