"""What the dispatcher needs of a policy. `autopoiesis.policy.language.CompiledPolicy` is one; so is the fallback."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from autopoiesis.contracts.messages.policy import Activation
from autopoiesis.policy.api import DispatchContext, Replica, Request, RouteDecision


class CompiledPolicy(Protocol):
    """A policy ready to be called. Calls may raise anything; the dispatcher then lets the fallback decide."""

    @property
    def hash(self) -> str:
        """Identity of the linked source."""

    @property
    def reads(self) -> Mapping[str, frozenset[str]]:
        """Fields it reads, by the view's name in `autopoiesis.policy.api.VIEWS`; no others are filled."""

    @property
    def fuel_used(self) -> int:
        """Of the last call, also where that raised."""

    def prioritize(self, request: Request, ctx: DispatchContext) -> float:
        """Order in the queue, lower first."""

    def route(self, request: Request, replicas: Sequence[Replica], ctx: DispatchContext) -> RouteDecision:
        """An Assign whose indices lie within `replicas`, HOLD or REJECT."""


class PlacesDecode(CompiledPolicy, Protocol):
    """A policy that also chooses where computed prompts go on: one whose `functions` name `place_decode`."""

    def place_decode(
        self, request: Request, replicas: Sequence[Replica], ctx: DispatchContext
    ) -> RouteDecision:
        """An Assign whose index lies within `replicas` and is not a replica that only computes prompts."""


Compile = Callable[[Activation], CompiledPolicy]
"""Makes an activation's policy callable; raises where it does not verify."""
