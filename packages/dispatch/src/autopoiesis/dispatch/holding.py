"""When held requests are looked at again: as their time runs out, and as room may have appeared."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from heapq import heappop, heappush

from autopoiesis.dispatch.budget import FuelBudget
from autopoiesis.dispatch.models import ModelState
from autopoiesis.dispatch.settings import DispatchSettings
from autopoiesis.dispatch.ticket import Ticket

Timer = tuple[float, int, Ticket]


def _in_force(timer: Timer) -> bool:
    """Timers of requests that were sent, or are watched until another time, stay behind."""
    ticket = timer[2]
    return ticket.queued and ticket.due == timer[0]


class Holding:
    """Timers of held requests, and passes over the queues of models where something changed.

    Passes are at least `wake_interval_s` apart and stop when their fuel is used up; the next goes on from there.
    """

    def __init__(self, settings: DispatchSettings) -> None:
        self._settings = settings
        self._timers: list[
            Timer
        ] = []  # a heap; those of requests that are held no more stay in until they come up
        self.waiting = False
        """Whether `next_due` may be anything but inf."""
        self._restless: OrderedDict[int, ModelState] = OrderedDict()
        self._pass_at = math.inf  # when the next pass is due
        self._last_pass = -math.inf
        self.fuel = FuelBudget(settings.fuel_per_second)
        self.passes = 0

    def next_due(self) -> float:
        """When something is to be done, inf if nothing waits."""
        timers, pass_at = self._timers, self._pass_at
        while timers and not _in_force(timers[0]):
            heappop(timers)
        self.waiting = bool(timers) or pass_at < math.inf
        return timers[0][0] if timers and timers[0][0] < pass_at else pass_at

    def watch(self, ticket: Ticket, until: float) -> None:
        """Look at a queued request at `until` at the latest."""
        if until < ticket.due:
            ticket.due = until
            self.waiting = True
            heappush(self._timers, (until, ticket.seq, ticket))

    def expired(self, now: float) -> Iterator[Ticket]:
        """Queued requests whose time has come. What is still to be queued afterwards must be watched anew."""
        timers = self._timers
        while timers and timers[0][0] <= now:
            timer = heappop(timers)
            if _in_force(timer):
                timer[2].due = math.inf
                yield timer[2]

    def room(self, now: float, model: ModelState) -> None:
        """Held requests of this model may find room now."""
        if model.queue.entries:
            model.queue.begin_pass()
            self._restless[model.number] = model
            self.waiting = True
            self._pass_at = min(self._pass_at, max(now, self._last_pass + self._settings.wake_interval_s))

    def offer(self, now: float, decide: Callable[[Ticket], None], key: Callable[[Ticket], float]) -> None:
        """Run a pass if one is due: `decide` for request after request, `key` for those whose key is oldest.

        A model that was cut short goes behind the others. Ageing takes at most half of the fuel.
        """
        if now < self._pass_at:
            return
        settings, fuel = self._settings, self.fuel
        self.passes += 1
        self._last_pass = now
        self._pass_at = math.inf
        stop_at = fuel.spent + min(settings.fuel_per_wake, fuel.left(now))
        while self._restless and fuel.spent < stop_at:
            number, model = self._restless.popitem(last=False)
            queue = model.queue
            ageing_ends = (fuel.spent + stop_at) / 2
            for _ in range(min(settings.rekey_per_wake, len(queue))):
                if fuel.spent >= ageing_ends:
                    break
                ticket = queue.age()
                queue.rekey(ticket, key(ticket))
            while fuel.spent < stop_at and (offered := queue.next_in_pass()):
                decide(offered)
            if queue.passing:
                self._restless[number] = model
        if self._restless:
            worthwhile = fuel.available_at(now, settings.fuel_per_wake / 2)
            self._pass_at = max(now + settings.wake_interval_s, worthwhile)
