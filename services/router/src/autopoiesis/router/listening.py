"""What the serving core tells of requests and policies, to whoever counts, traces and records them."""

from __future__ import annotations

from typing import Literal, Protocol

from autopoiesis.dispatch import events as ev
from autopoiesis.router.flight import Flight

Result = Literal[
    "won",  # the second attempt goes on
    "lost",  # the first one does
    "unsent",  # the second one was never sent: it was refused, held too long, or the policy named the same replica again
]


class Listener(Protocol):
    """Told of everything worth counting; must not block or raise."""

    def begun(self, flight: Flight) -> None: ...

    def decided(self, seconds: float) -> None: ...

    def sent(self, flight: Flight) -> dict[str, str]:
        """Returns headers to send along (trace context)."""

    def resumed(self, flight: Flight, reason: str) -> None:
        """Its replica failed in the middle; it goes on elsewhere, behind the tokens that the client has."""

    def hedged(self, flight: Flight, loser: Flight, result: Result) -> None:
        """The race of its two attempts is over; `loser` is what became of the other one."""

    def ended(self, flight: Flight, now: float) -> None: ...

    def fault(self, fault: ev.Fault) -> None: ...

    def swapped(self, swapped: ev.Swapped) -> None: ...
