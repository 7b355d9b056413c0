"""What the observer knows: scopes, fleet, history. Fed by the ingests, asked by the read API."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import msgspec

from autopoiesis.contracts.messages.telemetry import RequestRecord
from autopoiesis.contracts.messages.trace import Drifted
from autopoiesis.observer.fleet import Fleet
from autopoiesis.observer.rows import EventRow
from autopoiesis.observer.settings import ObserverSettings
from autopoiesis.observer.watch import ScopeWatch
from autopoiesis.observer.windows import Window, windows

EVENTS = 2_000
"""Events kept in memory for charts."""


class UnknownScopeError(LookupError):
    """Nothing was observed of the scope asked for."""


class Observatory:
    """In memory, rebuilt from the segments at start. Written by the event loop alone, read by the API's threads too."""

    def __init__(self, settings: ObserverSettings, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.fleet = Fleet(clock)
        self.events: deque[EventRow] = deque(maxlen=EVENTS)
        self._clock = clock
        self._scopes: dict[str, ScopeWatch] = {}
        self._routers: dict[str, float] = {}

    @property
    def scopes(self) -> list[str]:
        return sorted(self._scopes)

    def on_requests(self, records: Sequence[RequestRecord]) -> None:
        by_scope: dict[str, list[RequestRecord]] = {}
        for record in records:
            by_scope.setdefault(record.scope, []).append(record)
        for scope, part in by_scope.items():
            if scope not in self._scopes:
                self._scopes[scope] = ScopeWatch(scope, self.settings, self._clock)
            self._scopes[scope].extend(part)

    def heard_router(self, name: str) -> None:
        self._routers[name] = self._clock()

    def routers(self, since_unix_s: float) -> int:
        """Routers that sent telemetry since then, at least 1."""
        return max(1, sum(heard >= since_unix_s for heard in list(self._routers.values())))

    def on_events(self, rows: Iterable[EventRow]) -> None:
        self.events.extend(rows)

    def watch(self, scope: str) -> ScopeWatch:
        """Raises UnknownScopeError naming those that are known."""
        try:
            return self._scopes[scope]
        except KeyError:
            known = ", ".join(self.scopes) or "none yet"
            raise UnknownScopeError(f"no arrivals of scope {scope!r} were observed; known: {known}") from None

    def windows(self, scope: str, seconds: float, step_s: float) -> list[Window]:
        """The last `seconds` in steps, oldest first."""
        now = self._clock()
        return list(windows(scope, self.watch(scope).recent, now - seconds, now, step_s))

    def drifts(self) -> list[Drifted]:
        """Newest last, of all scopes."""
        return sorted(
            (d for w in list(self._scopes.values()) for d in w.drifts), key=lambda drift: drift.at_unix_s
        )

    def look(self) -> list[Drifted]:
        """What is newly confirmed to have moved, in any scope."""
        return [drift for watch in list(self._scopes.values()) for drift in watch.look()]

    def history(self, scope: str | None, since_unix_s: float) -> list[dict[str, object]]:
        """Policy and plan events, oldest first, without the sources of policies."""
        shown = []
        for row in list(self.events):
            if row.at_unix_s >= since_unix_s and scope in {None, row.scope}:
                payload = msgspec.json.decode(row.payload)
                payload.pop("source", None)
                shown.append({"topic": row.topic, "at_unix_s": row.at_unix_s, "event": payload})
        return shown
