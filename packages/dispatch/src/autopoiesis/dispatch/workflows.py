"""What is known of agentic workflows. Calls name their workflow, not their predecessors: a call is taken to depend on
the longest chain of calls that had finished when it arrived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopoiesis.policy.api import Workflow

if TYPE_CHECKING:
    from autopoiesis.dispatch.ticket import Ticket


class Call:
    """One call: the chain before it, and its own time if it ran alone, both in seconds."""

    __slots__ = ("alone", "attained_before", "before")

    def __init__(self, before: float, alone: float, attained_before: float) -> None:
        self.before = before
        self.alone = alone
        self.attained_before = attained_before


class WorkflowState:
    """Counters of one workflow. Chains are seconds of running alone; `attained` is seconds of service as it was."""

    __slots__ = ("_attained", "_chain", "_done", "_first", "_horizon", "_open", "_view")

    def __init__(self, _number: int) -> None:
        self._view = Workflow()
        self._first: float | None = None
        self._chain = 0.0
        self._attained = 0.0
        self._horizon = 0.0
        self._done = 0
        self._open: dict[int, Call] = {}

    def opened(self, now: float, seq: int, alone: float) -> None:
        if self._first is None:
            self._first = now
        self._open[seq] = Call(self._chain, alone, self._attained)
        self._horizon = max(self._horizon, self._chain + alone)

    def closed(self, seq: int, alone: float, service: float, finished: bool) -> None:
        """`alone` with the true length, `service` from send to end."""
        call = self._open.pop(seq)
        if not finished:
            return
        self._done += 1
        self._chain = max(self._chain, call.before + alone)
        self._attained = max(self._attained, call.attained_before + service)
        self._horizon = max(self._horizon, self._chain)

    def view(self, now: float) -> Workflow:
        """The view, brought up to `now`; valid until the next call."""
        view = self._view
        view.age = now - (now if self._first is None else self._first)
        view.remaining_path = max((call.alone for call in self._open.values()), default=0.0)
        view.horizon = self._horizon
        view.projected_ratio = (view.age + view.remaining_path) / self._horizon if self._horizon else 0.0
        view.attained = self._attained
        view.calls_done = self._done
        view.calls_open = len(self._open)
        return view


def time_alone(ticket: Ticket, output_tokens: float) -> float:
    """Seconds a request would take on an otherwise idle replica of its model, as far as heartbeats tell."""
    model = ticket.model.step_model
    if model is None:
        return 0.0
    prefill = model.base_s + ticket.prompt_tokens * model.prefill_token_s
    step = model.base_s + model.sequence_s + model.kv_token_s * (ticket.prompt_tokens + output_tokens / 2)
    return prefill + max(0.0, output_tokens - 1) * step
