"""Which sends of each router a replica has received: what heartbeats acknowledge."""

from __future__ import annotations

from typing import Final

ROUTERS_KEPT: Final = 128


class Acknowledged:
    """Highest `Generate.nth` per router. Routers that send no more are forgotten, longest silent first."""

    def __init__(self) -> None:
        self._highest: dict[str, int] = {}

    def note(self, router: str, nth: int) -> None:
        highest = max(nth, self._highest.pop(router, 0))
        self._highest[router] = highest
        if len(self._highest) > ROUTERS_KEPT:
            del self._highest[next(iter(self._highest))]

    def snapshot(self) -> dict[str, int]:
        return dict(self._highest)
