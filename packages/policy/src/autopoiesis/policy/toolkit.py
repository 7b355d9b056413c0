"""The interface of the trusted helpers that plan policies find in `ctx.toolkit`.

Only the shape is here: the simulator implements it, so that the language stays free of numeric libraries. Decision
logic is the policy's; the cost model, the solver and the random numbers are ours.
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
    def values(self) -> Sequence[float]:
        """One value per variable, in the order they were added; empty where there is no solution."""


class Milp(Protocol):
    """A mixed-integer linear program under construction. Minimises."""

    def variable(self, lower: float, upper: float, cost: float, integer: bool = True) -> int:
        """Add a variable and return its index."""

    def constraint(self, terms: Mapping[int, float], lower: float, upper: float) -> None:
        """Require lower <= sum of coefficient x variable <= upper."""

    def solve(self, node_limit: int = 10_000, time_limit: float = 5.0) -> Solution:
        """Solve with one thread within `node_limit` branch-and-bound nodes and `time_limit` seconds of process time."""


class Toolkit(Protocol):
    """Trusted helpers. Every call costs fuel like a call of the policy's own functions."""

    def serve_time(self, model: ModelDemand, plan: Sequence[Replicas]) -> float:
        """Seconds until `plan` has served this model's demand, inf if it cannot."""

    def reconfigure_time(self, old: Sequence[Replicas], new: Sequence[Replicas]) -> float:
        """Seconds of disturbance when the fleet goes from `old` to `new`."""

    def fits(self, model: ModelDemand, gpu: GpuPool, tp: int) -> bool:
        """Whether the weights and a useful KV cache fit on `tp` GPUs of this type."""

    def milp(self) -> Milp:
        """A new, empty integer program."""

    def random(self) -> float:
        """Uniform in [0, 1), seeded by the monitoring step."""
