"""The interface of the trusted helpers that plan policies find in `ctx.toolkit`.

Only the shape is here: `autopoiesis.simulator.toolkit` implements it, so that the language stays free of numeric libraries.
Decision logic is the policy's; the cost model, the solver and the random numbers are ours. Equation numbers are those of
the Autopoiesis paper (arXiv 2604.07144).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from autopoiesis.policy.api import GpuPool, ModelDemand, Replicas


class Solution(Protocol):
    """What a solved integer program says."""

    @property
    def status(self) -> str:
        """`optimal`, `feasible` (stopped at its bound with a solution), `infeasible` or `unknown`."""

    @property
    def objective(self) -> float:
        """Value of the objective at the solution found, inf where there is none."""

    @property
    def x(self) -> Sequence[float]:
        """One value per variable, in the order they were added, integers as whole numbers; empty where there is no solution."""


class Milp(Protocol):
    """A mixed-integer linear program under construction. Minimises."""

    def variable(self, lower: float, upper: float, cost: float, integer: bool = True) -> int:
        """Add a variable and return its index. At most 20,000 of them."""

    def constraint(self, terms: Mapping[int, float], lower: float, upper: float) -> None:
        """Require lower <= sum of coefficient x variable <= upper; `terms` maps variables to coefficients."""

    def solve(self, node_limit: int = 10_000, time_limit: float = 5.0, gap: float = 0.003) -> Solution:
        """Solve with one thread within `node_limit` nodes, `time_limit` s of process time, or to a relative `gap`."""


class Toolkit(Protocol):
    """Trusted helpers, bound to the monitoring step: demand is that of `ctx.models`, capacity that of `ctx.gpus`.

    A call costs fuel like a call of the policy's own functions; the time of `schedule` is bounded by the jail. Arguments of a
    wrong type or range are a fault of the policy.
    """

    def degrees(self, model: ModelDemand, gpu: GpuPool) -> tuple[int, ...]:
        """Tensor-parallel degrees that the type offers and the model fits at, rising; empty where it fits at none."""

    def fits(self, model: ModelDemand, gpu: GpuPool, tp: int) -> bool:
        """Whether the weights and a useful KV cache fit on `tp` GPUs of this type."""

    def latency(self, model: ModelDemand, gpu: GpuPool, tp: int, batch: int) -> float:
        """Seconds in which one replica serves `batch` concurrent requests of the demand's lengths, inf if it cannot (Eq. 2-8)."""

    def prefill_time(self, model: ModelDemand, gpu: GpuPool, tp: int, batch: int) -> float:
        """The part of `latency` until the first token: seconds in which a replica reads `batch` prompts, inf if it cannot."""

    def decode_time(self, model: ModelDemand, gpu: GpuPool, tp: int, batch: int) -> float:
        """The part of `latency` after that: seconds in which a replica writes `batch` answers together, inf if it cannot."""

    def serve_time(self, model: ModelDemand, plan: Sequence[Replicas]) -> float:
        """Seconds until `plan` has served this model's demand, inf if it cannot.

        The slowest of its groups (L_z). Batches that do not cover the demand grow in proportion; what then exceeds memory is
        served in waves.
        """

    def makespan(self, plan: Sequence[Replicas]) -> float:
        """Seconds until `plan` has served the demand of every model: the largest `serve_time`, inf if one is left out."""

    def transfer_time(self, model: ModelDemand, gpu: GpuPool) -> float:
        """Seconds to move the weights of a replica onto, or off, GPUs of this type (tau, Eq. 11)."""

    def reconfigure_time(self, old: Sequence[Replicas], new: Sequence[Replicas]) -> float:
        """Seconds of disturbance when the fleet goes from `old` to `new`, 0 if no model's replicas change (Eq. 9-11)."""

    def gpus_used(self, plan: Sequence[Replicas], gpu: GpuPool) -> int:
        """GPUs of this type that `plan` takes: the sum of tp x count."""

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
        """The plan of least makespan that can be made of `options`, found by integer programming; empty if there is none.

        Each option is a kind of replica (model, gpu, tp, batch, role): the plan says how many there are of each, `count` being
        the most there may be (0: no bound of its own). Minimises makespan + `move_weight` x `reconfigure_time(keep, plan)` +
        `spread` x the sum of the models' serve times. Sum of batch x count covers each model's concurrency; GPUs, quotas and
        bounds of replicas are kept. One thread, at most `node_limit` nodes and `time_limit` s of process time.
        """

    def milp(self) -> Milp:
        """A new, empty integer program, for formulations of one's own."""

    def random(self) -> float:
        """Uniform in [0, 1), seeded by the monitoring step."""
