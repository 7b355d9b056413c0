"""Whom requests belong to: tenants and sessions, with the service they received."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from autopoiesis.dispatch.estimators import Decaying

if TYPE_CHECKING:
    from autopoiesis.dispatch.replicas import ReplicaState


class Party:
    """One tenant or session. `number` stands for its name in views."""

    __slots__ = ("number", "replica", "service")

    def __init__(self, number: int) -> None:
        self.number = number
        self.service = Decaying()
        """Tokens served, prompts when they are sent and answers as they come, halved every 60 s."""
        self.replica: ReplicaState | None = None
        """Where its last request was sent."""


NO_SESSION: Final = Party(0)
"""Stands for the session of requests that name none. Nothing is charged to it."""
NO_TENANT: Final = Party(0)
"""Stands for every tenant where nothing reads whose a request is. Nothing is charged to it."""
