"""Filling of views: per policy, functions that write only the fields it reads.

The tables say how each field is computed; one function per view is generated from the rows a policy needs, because a
call per field and replica would cost more than the policy itself. Names in the expressions: `t` the ticket, `a` its
arrival, `m` its model, `s` a replica's state, `l` its latency model, `c` the traffic counts, `now`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from autopoiesis.dispatch.handover import transfer_time
from autopoiesis.dispatch.models import Offer
from autopoiesis.dispatch.ticket import Ticket
from autopoiesis.policy.api import DispatchContext, Request

REQUEST: Final[dict[str, str]] = {
    "seq": "t.seq",
    "prompt_tokens": "t.prompt_tokens",
    "max_tokens": "a.max_tokens",
    "expected_output_tokens": "t.expected_output",
    "arrival": "t.arrival",
    "waited": "now - t.arrival",
    "priority": "a.priority",
    "tenant": "t.tenant.number",
    "session": "t.session.number",
    "model": "m.number",
    "adapter": "t.adapter",
    "modality": "a.modality",
    "ttft_slo": "a.ttft_slo",
    "tpot_slo": "a.tpot_slo",
    "deadline": "a.deadline",
    "session_replica": "t.session.replica.view.id if t.session.replica and t.session.replica.ready else -1",
    "tenant_service": "t.tenant.service.at(now)",
    "session_service": "t.session.service.at(now)",
    "attempts": "t.attempts",
    "workflow": "t.workflow.view(now) if t.workflow else None",
}

CONTEXT: Final[dict[str, str]] = {
    "now": "now",
    "queue_length": "len(m.queue.entries)",
    "queued_prompt_tokens": "m.queue.prompt_tokens",
    "arrival_rate": "c.arrival_rate(now)",
    "arrival_rate_60": "c.arrival_rate_60(now)",
    "attainment": "c.attainment(now)",
    "mean_output_tokens": "c.mean_output_tokens(now)",
    "mean_output_tokens_60": "c.mean_output_tokens_60(now)",
    "mean_prompt_tokens": "c.mean_prompt_tokens(now)",
    "mean_prompt_tokens_60": "c.mean_prompt_tokens_60(now)",
    "routers": "offer.routers",
}
"""`random` is bound once, and seeded for each decision."""

CORRECTED: Final = frozenset({"running", "waiting", "queued_prefill_tokens", "kv_used_tokens", "inflight"})
"""Written by `ReplicaState.refresh` where something happened."""

CALLED: Final[dict[str, str]] = {
    "prefix_hit_tokens": "hit",
    "adapter_loaded": "a.adapter in s.beat.adapters",
    "predicted_ttft": "l.raw_ttft(prompt - hit) * l.ttft_correction.factor",
    "predicted_tpot": "l.raw_tpot(prompt) * l.tpot_correction.factor",
    "stats_age": "now - s.beat_at",
    "uptime": "s.beat.uptime_s + now - s.beat_at",
    "notice": "max(0.0, s.notice_at - now)",
    "fault_rate": "s.faults.at(now)",
    "transfer_time": "transfer_time(s, t)",
}
"""Fields of replicas that depend on the request or on the time."""

HIT: Final = frozenset({"prefix_hit_tokens", "predicted_ttft"})
LATENCY: Final = frozenset({"predicted_ttft", "predicted_tpot"})

FillRequest = Callable[[Request, DispatchContext, Ticket, Offer, float], None]
FillReplicas = Callable[[Ticket, Offer, "Hits", float], None]
Hits = Callable[[Ticket], Mapping[int, int]]


def request_filler(reads: Mapping[str, frozenset[str]]) -> FillRequest:
    """A function that fills the request and the context for one call."""
    request = reads.get("Request", frozenset())
    context = reads.get("DispatchContext", frozenset())
    lines = ["a = t.event", "m = t.model", "c = m.traffic"]
    lines += [f"r.{field} = {value}" for field, value in REQUEST.items() if field in request]
    lines += [f"x.{field} = {value}" for field, value in CONTEXT.items() if field in context]
    function: FillRequest = _function("r, x, t, offer, now", lines)
    return function


def replicas_filler(reads: Mapping[str, frozenset[str]]) -> FillReplicas | None:
    """A function that fills the views of an offer's replicas; none where no field needs it."""
    fields = reads.get("Replica", frozenset())
    refreshed = bool(fields & CORRECTED)
    called = {field: value for field, value in CALLED.items() if field in fields}
    if not refreshed and not called:
        return None
    lines = ["a = t.event", "prompt = t.prompt_tokens"]
    if fields & HIT:
        lines += ["found = hits(t)", "hit = 0"]
    lines += ["for s in offer.states:"]
    body = []
    if refreshed:
        body += ["if s.dirty: s.refresh()"]
    if fields & HIT:
        body += ["if found: hit = found.get(s.slot, 0)"]
    if fields & LATENCY:
        body += ["if s.dirty or s.stale: s.predict(now, offer.routers)", "l = s.latency"]
    if called:
        body += ["v = s.view"]
    body += [f"v.{field} = {value}" for field, value in called.items()]
    function: FillReplicas = _function("t, offer, hits, now", lines + ["    " + line for line in body])
    return function


def _function(parameters: str, lines: list[str]) -> Any:
    source = f"def fill({parameters}):\n" + "".join(f"    {line}\n" for line in lines)
    namespace: dict[str, Any] = {"math": math, "transfer_time": transfer_time}
    exec(compile(source, "<views>", "exec"), namespace)  # noqa: S102 - the text comes from the tables above alone
    return namespace["fill"]
