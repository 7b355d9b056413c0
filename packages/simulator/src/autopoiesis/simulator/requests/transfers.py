"""Prefill and decode apart: computed prompts on their way from one engine to another.

The first token leaves from the replica that computed the prompt, as in DistServe and Splitwise; what the transfer takes is a gap
behind it. That replica's blocks count as free from then on. Its link carries one transfer after another.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from autopoiesis.dispatch import events as ev
from autopoiesis.simulator.engine import Job, TooLongError
from autopoiesis.simulator.requests.engines import Engine
from autopoiesis.simulator.requests.membership import Membership
from autopoiesis.simulator.requests.outcome import OPEN, Rows
from autopoiesis.simulator.requests.prepared import Prepared
from autopoiesis.simulator.transfer import transfer_seconds


class Transfers:
    """Hand-overs of one world. `broken` ends a request with a failure code, `landed` says that an engine has news."""

    def __init__(
        self,
        prepared: Prepared,
        rows: Rows,
        members: Membership,
        *,
        latency_s: float,
        later: Callable[[float, Callable[[float], None]], None],
        landed: Callable[[float, Engine], None],
        broken: Callable[[float, int, ev.Ended], None],
    ) -> None:
        self._prepared = prepared
        self._rows = rows
        self._members = members
        self._latency_s = latency_s
        self._later = later
        self._landed = landed
        self._broken = broken
        self._priorities: dict[int, int] = {}

    def prompt_only(self, row: int, priority: int) -> Job:
        """The part of a request's work that is done before it is handed over."""
        self._priorities[row] = priority
        prepared = self._prepared
        return Job(row, prepared.prompt[row], 1, priority, prepared.blocks[row])

    def start(self, now: float, row: int, router: int, order: ev.HandOver) -> None:
        source, target = (
            self._members.engines[self._members.index[name]] for name in (order.source, order.replica)
        )
        self._rows.replica[row] = self._members.index[order.replica]
        end = now + self._latency_s
        if source is not target:
            setup, busy = transfer_seconds(self._prepared.prompt[row], source.spec, target.spec)
            source.link_free = begin = max(end, source.link_free)
            source.link_free += busy
            end = begin + setup + busy
            self._rows.transfer_s[row] = end - now
        target.inbound += 1
        self._later(end, partial(self._land, row, router, order, source, target))

    def _land(
        self, row: int, router: int, order: ev.HandOver, source: Engine, target: Engine, now: float
    ) -> None:
        target.inbound -= 1
        if self._rows.outcome[row] != OPEN or target.state == "failed":
            self._members.idle(now, target)
            return
        if source.state == "failed" and source is not target:
            self._broken(now, row, ev.Ended(request_id=order.request_id, code="unavailable", natural=False))
            self._members.idle(now, target)
            return
        seen = f"router-{router}"
        target.received[seen] = max(order.nth, target.received.get(seen, 0))
        prepared = self._prepared
        job = Job(
            row,
            prepared.prompt[row],
            prepared.output[row],
            self._priorities.pop(row, 0),
            prepared.blocks[row],
            produced=1,
        )
        try:
            target.replica.submit(now, job)
        except TooLongError:
            self._broken(now, row, ev.Ended(request_id=order.request_id, code="invalid_request"))
            return
        self._landed(now, target)
